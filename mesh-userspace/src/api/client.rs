//! The client side of the API: of a node, over its socket, or of a cluster, through the Kubernetes API server. The
//! objects are the same. Every failure says what the person can do about it.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;

use super::objects::{FlowQuery, Problem};

mod cluster;
mod error;
mod socket;

pub(crate) use cluster::Cluster;
pub(crate) use error::ClientError;

/// Whoever answers questions about the mesh.
pub(crate) struct Client {
    transport: Transport,
    timeout: Duration,
}

/// How the questions get there.
enum Transport {
    /// A node's agent.
    Socket(PathBuf),
    /// A cluster's controller.
    Cluster(Cluster),
}

/// An answer: its status, and its body as it comes.
struct Answer {
    status: StatusCode,
    body: Chunks,
}

/// A body, piece by piece.
type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, ClientError>> + Send>>;

/// What is asked about: everything, or one namespace. A node answers for everything, and is asked no other way.
pub(crate) type Scope<'a> = Option<&'a str>;

impl Client {
    /// A client of the agent at `socket`. Nothing is connected yet.
    pub(crate) fn of_node(socket: &Path, timeout: Duration) -> Self {
        Self {
            transport: Transport::Socket(socket.to_owned()),
            timeout,
        }
    }

    /// A client of a cluster's controller. Nothing is connected yet.
    pub(crate) fn of_cluster(cluster: Cluster, timeout: Duration) -> Self {
        Self {
            transport: Transport::Cluster(cluster),
            timeout,
        }
    }

    /// The cluster, if it is one that is asked.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match &self.transport {
            Transport::Socket(_) => None,
            Transport::Cluster(cluster) => Some(cluster),
        }
    }

    /// Asks for an object, such as `status` or `workloads`, with what follows it (`?…`).
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        resource: &str,
        scope: Scope<'_>,
    ) -> Result<T, ClientError> {
        let path = self.path(resource, scope);
        self.in_time(self.object(Method::GET, &path, Bytes::new()))
            .await
    }

    /// Asks for something to be done. Only nodes do things; of a cluster it is done with its objects.
    pub(crate) async fn post<T: DeserializeOwned>(&self, resource: &str) -> Result<T, ClientError> {
        let path = self.path(resource, None);
        self.in_time(self.object(Method::POST, &path, Bytes::new()))
            .await
    }

    /// Asks for flows: a stream of lines.
    pub(crate) async fn flows(
        &self,
        query: &FlowQuery,
        scope: Scope<'_>,
    ) -> Result<Lines, ClientError> {
        let (method, resource, body) = match &self.transport {
            Transport::Socket(_) => {
                let body =
                    serde_json::to_vec(query).map_err(|error| self.protocol(error.to_string()))?;
                (Method::POST, "flows".to_owned(), body)
            }
            Transport::Cluster(_) => (Method::GET, format!("flows?{}", query.to_url()), Vec::new()),
        };
        let path = self.path(&resource, scope);
        // The limit is for the beginning of the answer only: a stream goes on for as long as it is read.
        let answer = self.in_time(self.send(method, &path, body.into())).await?;
        Ok(Lines {
            body: answer.body,
            held: Vec::new(),
            ended: false,
        })
    }

    fn path(&self, resource: &str, scope: Scope<'_>) -> String {
        match (&self.transport, scope) {
            (Transport::Socket(_), _) => format!("/v1/{resource}"),
            (Transport::Cluster(_), None) => format!("{}/{resource}", super::CLUSTER_PATH),
            (Transport::Cluster(_), Some(namespace)) => {
                format!("{}/namespaces/{namespace}/{resource}", super::CLUSTER_PATH)
            }
        }
    }

    async fn object<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let answer = self.send(method, path, body).await?;
        let body = whole(answer.body).await?;
        serde_json::from_slice(&body).map_err(|error| self.protocol(error.to_string()))
    }

    /// Sends a request; an answer that is a failure becomes an error.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        let answer = match &self.transport {
            Transport::Socket(socket) => socket::send(socket, method, path, body).await?,
            Transport::Cluster(cluster) => cluster.send(method, path, None, body).await?,
        };
        if answer.status.is_success() {
            return Ok(answer);
        }
        let status = answer.status;
        let body = whole(answer.body).await?;
        Err(match &self.transport {
            Transport::Socket(_) => match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) => ClientError::Refused(problem),
                Err(_) => self.protocol(format!("HTTP status {status}")),
            },
            Transport::Cluster(cluster) => cluster.refusal(status, &body, true),
        })
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_late| Err(self.timed_out()))
    }

    /// That there was no answer in time.
    pub(crate) fn timed_out(&self) -> ClientError {
        match &self.transport {
            Transport::Socket(_) => ClientError::TimedOut {
                after: self.timeout,
            },
            Transport::Cluster(cluster) => ClientError::ClusterTimedOut {
                server: cluster.server().to_owned(),
                after: self.timeout,
            },
        }
    }

    fn protocol(&self, what: String) -> ClientError {
        let whom = match &self.transport {
            Transport::Socket(_) => "agent",
            Transport::Cluster(_) => "controller",
        };
        ClientError::Protocol { whom, what }
    }
}

/// All of a body.
async fn whole(mut body: Chunks) -> Result<Vec<u8>, ClientError> {
    let mut whole = Vec::new();
    while let Some(chunk) = body.next().await {
        whole.extend_from_slice(&chunk?);
    }
    Ok(whole)
}

/// A stream of lines.
pub(crate) struct Lines {
    body: Chunks,
    held: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// The next line, without its end; `None` when the stream is over.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.held.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.next().await {
                Some(chunk) => self.held.extend_from_slice(&chunk?),
                None => self.ended = true,
            }
        }
    }
}
