//! The record of a connection: made at accept, filled on the way, closed exactly once. The flow API, the access log and
//! all metrics derive from it. Kernel drops take the same form.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::addr::{AppAddr, ClientAddr, OrigDst};
use crate::identity::SpiffeId;
use crate::outcome::Reason;
use crate::workload::Name;

/// Which side of a connection tells the story.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Direction {
    /// The client's node.
    Outbound,
    /// The server's node.
    Inbound,
}

/// How the bytes travelled.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Transport {
    /// Not decided (the connection ended before).
    None,
    /// In a tunnel, mutual TLS 1.3.
    MutualTls,
    /// In clear.
    Plaintext,
    /// Within the node: source and destination are one workload.
    Itself,
    /// Dropped or refused in the kernel.
    Kernel,
}

/// One end of a connection, as far as it is known.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Party {
    /// Workload name.
    pub workload: Option<Name>,
    /// Identity: from the kernel for our own workloads, from the certificate for peers.
    pub identity: Option<SpiffeId>,
}

/// One connection, or one attempt at one.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Record {
    /// Unique on the node: worker generation in the high bits, a count in the low ones.
    pub id: u64,
    /// Which side tells it.
    pub direction: Direction,
    /// When it began.
    pub started_at: SystemTime,
    /// How long it lasted, or has lasted until now, µs.
    pub duration_us: u64,
    /// From `connect()` to the destination application's acceptance, µs; `None` when it did not come to that.
    pub connect_us: Option<u64>,
    /// Who dialled.
    pub source: Party,
    /// Whom it reached, or would have.
    pub destination: Party,
    /// The dialler's address.
    pub client: Option<ClientAddr>,
    /// Where the application dialled.
    pub original_destination: Option<OrigDst>,
    /// The service that this address stands for.
    pub service: Option<Name>,
    /// The route and its rule that decided, e.g. `route web.shop rule canary`.
    pub route: Option<String>,
    /// The chosen backend, e.g. `web.shop/v2`.
    pub backend: Option<String>,
    /// The application address that took the connection.
    pub endpoint: Option<AppAddr>,
    /// Process and user of the dialler, for outbound records.
    pub process: Option<Process>,
    /// How the bytes travelled.
    pub transport: Transport,
    /// TLS version and cipher suite, e.g. `TLSv1.3 TLS13_AES_128_GCM_SHA256`.
    pub tls: Option<String>,
    /// The policy and rule that allowed or denied it, in words that a person can find in the configuration.
    pub rule: Option<String>,
    /// Why it ended; its verdict is [`Reason::verdict`].
    pub reason: Reason,
    /// More about a failure: the operating system's words, the peer's certificate name.
    pub detail: Option<String>,
    /// Application bytes from client to server.
    pub bytes_sent: u64,
    /// Application bytes from server to client.
    pub bytes_received: u64,
    /// The generation of the world that decided.
    pub generation: u64,
}

/// The process that dialled.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Process {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// User id in the initial user namespace.
    pub uid: u32,
}
