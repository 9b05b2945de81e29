//! A node's agent, over its socket.

use std::io;
use std::path::Path;

use axum::body::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, BodyStream, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Answer, ClientError};

/// Sends one request over a connection of its own.
pub(super) async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Answer, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotPermitted { socket },
            _ => ClientError::Unreachable { socket, source },
        }
    })?;
    let broken = |error: hyper::Error| ClientError::Broken {
        whom: "agent",
        source: error.into(),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // An error of the connection is reported by the request that it breaks.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "warren")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(|error| ClientError::Protocol {
            whom: "agent",
            what: error.to_string(),
        })?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let frames = BodyStream::new(response.into_body().map_err(broken));
    let body = frames.filter_map(|frame| {
        let data = frame.map(|frame| frame.into_data().ok()).transpose();
        std::future::ready(data)
    });
    // The connection lives as long as somebody can ask over it: until the body was read.
    let body = stream::unfold((Box::pin(body), sender), async |(mut body, sender)| {
        let chunk = body.next().await?;
        Some((chunk, (body, sender)))
    });
    Ok(Answer {
        status,
        body: Box::pin(body),
    })
}
