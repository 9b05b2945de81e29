//! The client side of the node API. Every failure says what the person can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::objects::Problem;

/// A node's agent, as reached over its socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no agent answers at {}; is `warren node` running on this machine? (another socket: --socket)", socket.display())]
    Unreachable {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the agent's socket {} may only be used by root; try again with sudo", socket.display())]
    NotPermitted { socket: PathBuf },
    #[error(
        "the agent did not answer within {after:?}; `warren check` and its log may say why (more time: --timeout)"
    )]
    TimedOut { after: Duration },
    #[error("{0}")]
    Refused(Problem),
    #[error(
        "the agent's answer is not understood ({what}); are command line and agent of the same version?"
    )]
    Protocol { what: String },
    #[error("the connection to the agent broke")]
    Broken(#[source] hyper::Error),
}

impl Client {
    /// A client of the agent at `socket`. Nothing is connected yet.
    pub(crate) fn new(socket: &Path, timeout: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            timeout,
        }
    }

    /// Asks for an object.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.in_time(async {
            let response = self.send(Method::GET, path, Bytes::new()).await?;
            let body = whole(response).await?;
            decode(&body)
        })
        .await
    }

    /// Asks for something to be done.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.in_time(async {
            let response = self.send(Method::POST, path, Bytes::new()).await?;
            let body = whole(response).await?;
            decode(&body)
        })
        .await
    }

    /// Asks for a stream of lines.
    pub(crate) async fn stream<B: Serialize>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<Lines, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Protocol {
            what: error.to_string(),
        })?;
        // The limit is for the beginning of the answer only: a stream goes on for as long as it is read.
        let response = self
            .in_time(self.send(Method::POST, path, body.into()))
            .await?;
        Ok(Lines {
            body: response.into_body(),
            held: Vec::new(),
            ended: false,
        })
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or(Err(ClientError::TimedOut {
                after: self.timeout,
            }))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let socket = self.socket.clone();
            match source.kind() {
                io::ErrorKind::PermissionDenied => ClientError::NotPermitted { socket },
                _ => ClientError::Unreachable { socket, source },
            }
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Broken)?;
        // An error of the connection is reported by the request that it breaks.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "warren")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Protocol {
                what: error.to_string(),
            })?;
        let response = sender
            .send_request(request)
            .await
            .map_err(ClientError::Broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = whole(response).await?;
        Err(match serde_json::from_slice(&body) {
            Ok(problem) => ClientError::Refused(problem),
            Err(_) => ClientError::Protocol {
                what: format!("HTTP status {status}"),
            },
        })
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    Ok(response
        .into_body()
        .collect()
        .await
        .map_err(ClientError::Broken)?
        .to_bytes())
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Protocol {
        what: error.to_string(),
    })
}

/// A stream of lines.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
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
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(ClientError::Broken)?.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                None => self.ended = true,
            }
        }
    }
}
