//! A cluster: the Kubernetes API server, asked with the caller's own rights. It answers for its own objects itself, and for
//! the mesh by asking the controller.

use axum::body::Bytes;
use futures_util::StreamExt;
use hyper::{Method, StatusCode};
use mesh_kubernetes::raw::{Connection, SendError};
use serde::Deserialize;
use serde_json::Value;

use super::{Answer, ClientError, whole};
use crate::api::objects::Problem;

/// A cluster that can be asked.
pub(crate) struct Cluster {
    connection: Connection,
}

/// How the API server tells a failure.
#[derive(Deserialize)]
struct Status {
    kind: String,
    #[serde(default)]
    message: String,
}

impl Cluster {
    /// Makes one of a connection.
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// The API server's address.
    pub(crate) fn server(&self) -> &str {
        self.connection.server()
    }

    /// The namespace that is meant where none is said.
    pub(crate) fn namespace(&self) -> &str {
        self.connection.namespace()
    }

    /// An object of the cluster; `None` when it is not there.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>, ClientError> {
        let answer = self.send(Method::GET, path, None, Bytes::new()).await?;
        let status = answer.status;
        let body = whole(answer.body).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => self.value(&body).map(Some),
            status => Err(self.refusal(status, &body, false)),
        }
    }

    /// Makes an object (which may be a question, such as a SelfSubjectAccessReview), and gives what became of it.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, ClientError> {
        self.change(Method::POST, path, "application/json", object)
            .await
    }

    /// Merges a patch into an object, and gives what became of it.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value, ClientError> {
        self.change(Method::PATCH, path, "application/merge-patch+json", patch)
            .await
    }

    /// Removes an object, and what belongs to it; whether it was there.
    pub(crate) async fn remove(&self, path: &str) -> Result<bool, ClientError> {
        let options = serde_json::json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
        });
        let body = options.to_string().into();
        let answer = self
            .send(Method::DELETE, path, Some("application/json"), body)
            .await?;
        let status = answer.status;
        let body = whole(answer.body).await?;
        match status {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => Err(self.refusal(status, &body, false)),
        }
    }

    async fn change(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        object: &Value,
    ) -> Result<Value, ClientError> {
        let body = object.to_string().into();
        let answer = self.send(method, path, Some(content_type), body).await?;
        let status = answer.status;
        let body = whole(answer.body).await?;
        if status.is_success() {
            return self.value(&body);
        }
        Err(self.refusal(status, &body, false))
    }

    fn value(&self, body: &[u8]) -> Result<Value, ClientError> {
        serde_json::from_slice(body).map_err(|error| ClientError::Protocol {
            whom: "API server",
            what: error.to_string(),
        })
    }

    /// Sends a request. What the answer means is for the caller.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Answer, ClientError> {
        let answer = self
            .connection
            .send(method, path, content_type, body)
            .await
            .map_err(|error| match error {
                SendError::NoAnswer(source) => ClientError::ApiServer {
                    server: self.server().to_owned(),
                    source,
                },
                SendError::Broken(source) => ClientError::Broken {
                    whom: "API server",
                    source,
                },
                error @ SendError::Request { .. } => ClientError::Protocol {
                    whom: "API server",
                    what: error.to_string(),
                },
            })?;
        let body = answer.body.map(|chunk| {
            chunk.map_err(|source| ClientError::Broken {
                whom: "API server",
                source: source.into(),
            })
        });
        Ok(Answer {
            status: answer.status,
            body: Box::pin(body),
        })
    }

    /// What an answer means that is no success. `of_mesh`: it was the controller that was asked.
    pub(super) fn refusal(&self, status: StatusCode, body: &[u8], of_mesh: bool) -> ClientError {
        refusal(self.server(), status, body, of_mesh)
    }
}

fn refusal(server: &str, status: StatusCode, body: &[u8], of_mesh: bool) -> ClientError {
    let said = serde_json::from_slice::<Status>(body)
        .ok()
        .filter(|said| said.kind == "Status" && !said.message.is_empty());
    let words = said.as_ref().map_or_else(
        || String::from_utf8_lossy(body).trim().to_owned(),
        |said| said.message.clone(),
    );
    let why = match words.is_empty() {
        true => format!("HTTP status {status}"),
        false => words,
    };
    match status {
        StatusCode::UNAUTHORIZED => ClientError::NotAuthenticated {
            server: server.to_owned(),
            why,
        },
        StatusCode::FORBIDDEN => ClientError::Forbidden {
            next: next_step(&why, of_mesh),
            why,
        },
        // The API server's own, for a group that nobody has announced, is plain text.
        StatusCode::NOT_FOUND if of_mesh && said.is_none() => ClientError::NotInstalled {
            server: server.to_owned(),
        },
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
            if of_mesh =>
        {
            ClientError::ControllerAway { why }
        }
        _ if of_mesh => ClientError::Refused(Problem::new(why)),
        _ => ClientError::ApiRefused(why),
    }
}

/// What to do about a refusal, as the end of its sentence.
fn next_step(why: &str, of_mesh: bool) -> String {
    if !of_mesh {
        return String::new();
    }
    let role = match why.contains("flows") {
        true => "warren-flows",
        false => "warren-view",
    };
    match why.contains("at the cluster scope") {
        true => format!(
            "; you may be allowed to see a single namespace (-n NAMESPACE), or ask an administrator for the ClusterRole {role}"
        ),
        false => {
            format!(
                "; ask an administrator to bind the ClusterRole {role} to you in this namespace"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, of_mesh: bool, code: u8, expected: &str) {
        let status = StatusCode::from_u16(status).expect("a status");
        let error = refusal("https://here", status, body.as_bytes(), of_mesh);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn refusals_say_whose_they_are_and_what_to_do() {
        let said =
            |message: &str| serde_json::json!({ "kind": "Status", "message": message }).to_string();
        check(
            401,
            "Unauthorized",
            true,
            4,
            "does not know who you are (Unauthorized)",
        );
        let everywhere = said("flows.api.warren.dev is forbidden: no list at the cluster scope");
        check(
            403,
            &everywhere,
            true,
            4,
            "(-n NAMESPACE), or ask an administrator for the ClusterRole warren-flows",
        );
        let within = said("workloads.api.warren.dev is forbidden in the namespace \"shop\"");
        check(
            403,
            &within,
            true,
            4,
            "bind the ClusterRole warren-view to you in this namespace",
        );
        check(403, &said("no"), false, 4, "not permitted: no");
        check(
            404,
            "404 page not found\n",
            true,
            3,
            "warren install | kubectl apply -f -",
        );
        check(
            404,
            &said("this controller does not know it"),
            true,
            1,
            "does not know it",
        );
        check(
            503,
            "service unavailable",
            true,
            3,
            "controller does not answer (service unavailable)",
        );
        check(503, "", false, 1, "the API server refuses: HTTP status 503");
        check(
            400,
            &said("there is no parameter x"),
            true,
            1,
            "there is no parameter x",
        );
        check(
            422,
            &said("invalid"),
            false,
            1,
            "the API server refuses: invalid",
        );
    }
}
