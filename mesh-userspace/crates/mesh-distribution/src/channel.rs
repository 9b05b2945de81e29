//! One connection from a node (or a replica of the controller) to a controller, for gRPC. It is made once; whoever uses it
//! learns that it is broken and makes another.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tonic::body::Body;
use tower::Service;

use crate::proto::distribution_client::DistributionClient;
use crate::proto::enrolment_client::EnrolmentClient;
use crate::proto::relay_client::RelayClient;
use crate::{LARGEST_ENROLMENT, LARGEST_FROM_NODE, LARGEST_TO_NODE, PING_EVERY, PING_PATIENCE};

/// What a connection is made of: TLS in which the peer's identity was verified.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection to a controller.
pub struct Connection {
    /// TLS, done.
    pub io: Box<dyn Io>,
    /// To whom, for people.
    pub to: String,
}

/// Makes connections to a controller.
pub trait Connect: Send + Sync + 'static {
    /// Makes one, or says why not, naming the address.
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<Connection, String>> + Send + '_>>;
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// A connection that carries calls. Clones are the same connection, which ends when the [`Driver`] is dropped.
#[derive(Clone)]
pub(crate) struct Channel {
    requests: SendRequest<Body>,
    /// True when the connection is over.
    over: watch::Receiver<bool>,
}

/// Keeps a connection going.
pub(crate) struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins HTTP/2 on a connection.
pub(crate) async fn open(connection: Connection) -> Result<(Channel, Driver), String> {
    let Connection { io, to } = connection;
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(2 * STREAM_WINDOW)
        .max_send_buf_size(64 << 10)
        .handshake(TokioIo::new(io))
        .await
        .map_err(|error| format!("{to} does not speak HTTP/2: {}", told(&error)))?;
    let (ends, over) = watch::channel(false);
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(to, error = told(&error), "the connection broke");
        }
        ends.send_replace(true);
    });
    Ok((Channel { requests, over }, Driver(driver)))
}

/// What a controller may send before it is read: a few pieces of a delta.
const STREAM_WINDOW: u32 = 512 << 10;

impl Channel {
    pub(crate) fn enrolment(&self) -> EnrolmentClient<Self> {
        EnrolmentClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LARGEST_FROM_NODE)
            .max_encoding_message_size(LARGEST_ENROLMENT)
    }

    pub(crate) fn distribution(&self) -> DistributionClient<Self> {
        DistributionClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(LARGEST_TO_NODE)
            .max_encoding_message_size(LARGEST_FROM_NODE)
    }

    pub(crate) fn relay(&self) -> RelayClient<Self> {
        RelayClient::with_origin(self.clone(), origin()).max_decoding_message_size(LARGEST_TO_NODE)
    }

    /// Whether the connection is over.
    pub(crate) fn is_over(&self) -> bool {
        *self.over.borrow() || self.over.has_changed().is_err()
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}

/// HTTP/2 needs a name; who is at the other end was verified in the handshake.
fn origin() -> Uri {
    Uri::from_static("https://warren-controller")
}

/// An error with its causes, which hyper leaves out.
fn told(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told.push_str(": ");
        told.push_str(&cause.to_string());
        source = cause.source();
    }
    told
}
