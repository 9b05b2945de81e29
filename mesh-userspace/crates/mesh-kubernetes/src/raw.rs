//! Requests of a person, with the person's own rights: the kubeconfig as kubectl reads it, one request, its answer as it
//! came. What the answer means is for the command line to say.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, BodyStream};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// A cluster, as a person reaches it. Nothing is connected before the first request.
pub struct Connection {
    client: Client,
    server: String,
    namespace: String,
}

/// Why no cluster can be asked.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nothing names a cluster.
    #[error("there is neither a kubeconfig ({searched}) nor a service account of a pod")]
    Nowhere {
        /// Where one was looked for.
        searched: String,
    },
    /// A file that was named is not there or cannot be read.
    #[error("the kubeconfig {} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KubeconfigError,
    },
    /// It is there, but does not say what is needed.
    #[error("the kubeconfig does not lead to a cluster")]
    Kubeconfig(#[source] KubeconfigError),
    /// What it says about certificates or credentials cannot be used.
    #[error("the credentials of the kubeconfig cannot be used")]
    Credentials(#[source] Box<kube::Error>),
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The request cannot be written.
    #[error("the request {path:?} cannot be written")]
    Request {
        /// Its path.
        path: String,
        /// What is wrong with it.
        #[source]
        source: http::Error,
    },
    /// No answer came.
    #[error("no answer came")]
    NoAnswer(#[source] Box<kube::Error>),
    /// The answer broke off.
    #[error("the answer broke off")]
    Broken(#[source] Box<kube::Error>),
}

/// An answer: its status, and its body as it comes.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Body, piece by piece.
    pub body: Pin<Box<dyn Stream<Item = Result<Bytes, SendError>> + Send>>,
}

impl Connection {
    /// Finds the cluster as kubectl does: the file that is given, else `KUBECONFIG`, else `~/.kube/config`; in a pod without
    /// any of them, the pod's own cluster.
    ///
    /// # Errors
    /// Says what is missing or wrong.
    pub async fn open(file: Option<&Path>, context: Option<&str>) -> Result<Self, ConnectError> {
        let options = KubeConfigOptions {
            context: context.map(str::to_owned),
            ..KubeConfigOptions::default()
        };
        let mut config = match kubeconfig(file)? {
            Some(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(ConnectError::Kubeconfig)?,
            None => Config::incluster().map_err(|_not_in_a_pod| ConnectError::Nowhere {
                searched: searched(),
            })?,
        };
        // A person would rather be told than wait.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let namespace = config.default_namespace.clone();
        let client =
            Client::try_from(config).map_err(|error| ConnectError::Credentials(Box::new(error)))?;
        Ok(Self {
            client,
            server: server.trim_end_matches('/').to_owned(),
            namespace,
        })
    }

    /// The API server's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The namespace that is meant where none is said.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Sends a request.
    ///
    /// # Errors
    /// Only when no answer came; one that says no is an answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, SendError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::ACCEPT, "application/json")
            .header(
                http::header::CONTENT_TYPE,
                content_type.unwrap_or("application/json"),
            )
            .body(Body::from(body))
            .map_err(|source| SendError::Request {
                path: path.to_owned(),
                source,
            })?;
        let response = self
            .client
            .send(request)
            .await
            .map_err(|error| SendError::NoAnswer(Box::new(error)))?;
        let status = response.status();
        let broken = |error| SendError::Broken(Box::new(error));
        let frames = BodyStream::new(response.into_body().map_err(broken));
        let body = frames.filter_map(|frame| {
            let data = frame.map(|frame| frame.into_data().ok()).transpose();
            std::future::ready(data)
        });
        Ok(Answer {
            status,
            body: Box::pin(body),
        })
    }
}

/// The kubeconfig, if there is one.
fn kubeconfig(file: Option<&Path>) -> Result<Option<Kubeconfig>, ConnectError> {
    if let Some(path) = file {
        let read = Kubeconfig::read_from(path).map_err(|source| ConnectError::File {
            path: path.to_owned(),
            source,
        });
        return read.map(Some);
    }
    if let Some(found) = Kubeconfig::from_env().map_err(ConnectError::Kubeconfig)? {
        return Ok(Some(found));
    }
    let Some(path) = home_file().filter(|path| path.exists()) else {
        return Ok(None);
    };
    Kubeconfig::read_from(&path)
        .map(Some)
        .map_err(|source| ConnectError::File { path, source })
}

fn home_file() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some(Path::new(&home).join(".kube/config"))
}

fn searched() -> String {
    match home_file() {
        Some(path) => format!("KUBECONFIG is not set, {} is not there", path.display()),
        None => "neither KUBECONFIG nor HOME is set".to_owned(),
    }
}
