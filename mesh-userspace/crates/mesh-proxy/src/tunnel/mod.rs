//! Tunnels that batch: one TLS connection between two workloads that carries many application connections as streams.
//!
//! **One task owns a tunnel**: the TLS connection and the application sockets of all its streams. It reads every socket
//! that is ready, appends the frames to one buffer, encrypts them together and writes once; what it receives it decrypts
//! together and hands to the sockets straight from where it was decrypted. Between an application and its tunnel there is
//! no channel, no lock and no other task.
//!
//! | step | module |
//! |---|---|
//! | a story asks for a stream; it joins a tunnel that is open, or one is opened | [`pool`], `client` |
//! | the other node's worker takes the tunnel and asks the inbound story about each stream | [`server`] |
//! | the tunnel's task: turn by turn, what is received, what is sent | `task`, `receive`, `send`, `raw` |
//! | the streams: their states, their credit, their sockets, which of them are ready | `table`, `stream`, `state`, `credit`, `app`, `ready` |
//! | what a story keeps of its stream | [`handle`] |
//!
//! It must not know worlds, routes, policies or records: the stories decide, and are told how it ended.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use mesh_core::addr::PeerAddr;
use mesh_core::identity::SpiffeId;
use mesh_core::outcome::Reason;
use mesh_core::workload::WorkloadId;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

use crate::wire;

pub mod handle;
pub mod pool;
pub mod server;

mod app;
mod budget;
mod client;
mod credit;
mod error;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod mailbox;
mod raw;
mod ready;
mod receive;
mod send;
mod state;
mod stream;
mod table;
mod task;
#[cfg(test)]
pub(crate) mod tests;

pub use error::TunnelError;
pub use handle::{StreamHandle, StreamReport};
pub use pool::Pool;
pub use server::Server;

/// Which tunnels may carry a stream: those of the same source workload with the same own identity, to the same address,
/// where the same identities are expected.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct TunnelKey {
    /// The workload whose network namespace the tunnel leaves from.
    pub source: WorkloadId,
    /// Its identity.
    pub own: SpiffeId,
    /// The identities of which the peer must have one. Sorted, without repetition.
    pub peers: Arc<[SpiffeId]>,
    /// The peer's tunnel listener.
    pub address: PeerAddr,
}

/// A stream that a story wants.
pub struct OpenRequest {
    /// Which tunnels may carry it.
    pub key: TunnelKey,
    /// How to make a new one; must expect exactly the peers of the key.
    pub config: Arc<rustls::ClientConfig>,
    /// The server name of a new one: it tells host services that share an address apart.
    pub server_name: ServerName<'static>,
    /// What the peer is told.
    pub open: wire::Open,
    /// The application's connection.
    pub app: TcpStream,
    /// Bytes that were already read from it.
    pub kept: Vec<u8>,
}

/// Makes connections for tunnels, from sockets of the source workload's network namespace.
pub trait Dialler {
    /// Connects. It limits its own time.
    fn dial(
        &self,
        source: WorkloadId,
        address: PeerAddr,
    ) -> LocalBoxFuture<'_, std::io::Result<TcpStream>>;
}

/// What proved a peer's identity in the handshake. One per tunnel, shared by its streams: whoever must know later whether
/// it would still be accepted, verifies it again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerChain {
    /// The peer's certificates, its own first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// When they were verified.
    pub verified_at: UnixTime,
}

/// A stream that the peer's application took. Its bytes are on their way already.
#[derive(Debug)]
pub struct Opened {
    /// The identity in the peer's certificate.
    pub peer: SpiffeId,
    /// What proved it.
    pub chain: Arc<PeerChain>,
    /// TLS version and cipher suite.
    pub tls: String,
    /// From the question to the answer: what the endpoint took, without a handshake that came before it.
    pub answered_in: Duration,
    /// To watch it and to cut it.
    pub stream: StreamHandle,
}

/// A stream that was not opened.
#[derive(Debug)]
pub struct OpenError {
    /// The application's connection and its first bytes, to try another endpoint. `None` when it is no longer certain
    /// that no application has seen these bytes, or when the application itself has gone; its connection has been reset
    /// then.
    pub returned: Option<(TcpStream, Vec<u8>)>,
    /// Why.
    pub reason: Reason,
    /// More, for a person.
    pub detail: String,
}

/// Who is at the other end of an accepted tunnel.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The identity in its certificate.
    pub identity: SpiffeId,
    /// What proved it.
    pub chain: Arc<PeerChain>,
    /// Its address.
    pub address: SocketAddr,
    /// The identity in the certificate that we showed: which of our workloads was meant.
    pub server: SpiffeId,
    /// TLS version and cipher suite.
    pub tls: String,
}

/// The inbound story, as the tunnel sees it.
pub trait Inbound: 'static {
    /// Authorizes a stream and connects to the application. Runs beside the other streams of the tunnel; dropped when
    /// the peer gives up.
    fn open(
        &self,
        peer: &Rc<Peer>,
        open: wire::Open,
    ) -> impl Future<Output = Result<Accepted, wire::Refusal>>;
}

/// A stream that the inbound story took.
pub struct Accepted {
    /// The connection to the application.
    pub app: TcpStream,
    /// Called at once with the stream's handle.
    pub on_open: Box<dyn FnOnce(StreamHandle)>,
}

/// The limits of tunnels.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams in one tunnel. The peer's limit is ours: both are the same product.
    pub streams: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long the peer may take to answer OPEN.
    pub open: Duration,
    /// A tunnel without streams is closed after this time.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 256,
            handshake: Duration::from_secs(10),
            open: Duration::from_secs(10),
            idle: Duration::from_secs(300),
        }
    }
}

/// Tunnels of one worker thread, counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TunnelFigures {
    /// Tunnels open now.
    pub tunnels: u64,
    /// Streams open now.
    pub streams: u64,
    /// Handshakes that succeeded.
    pub handshakes: u64,
    /// Handshakes that failed.
    pub handshake_failures: u64,
    /// Tunnels that were closed because the peer broke the protocol.
    pub protocol_errors: u64,
}

impl PeerChain {
    /// Of a handshake that has just verified these.
    fn verified_now(certificates: Vec<CertificateDer<'static>>) -> Arc<Self> {
        Arc::new(Self {
            certificates,
            verified_at: UnixTime::now(),
        })
    }
}

impl fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenRequest")
            .field("key", &self.key)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("app", &self.app)
            .finish_non_exhaustive()
    }
}
