//! The link between the agent and its worker: a `SOCK_SEQPACKET` pair of unix sockets.
//!
//! One message is one packet: a postcard-encoded [`ToWorker`] or [`ToAgent`], with file descriptors beside it (at most
//! 253, `SCM_MAX_FD`). What may be larger than a packet (the world, keys) travels as a sealed memfd. Both ends are the
//! same build in ordinary use; [`VERSION`] is checked at the start, because an upgrade may pair different ones.
//!
//! The worker trusts the agent. The agent trusts nothing that the worker sends beyond what it can check: it counts,
//! clamps and escapes.

mod error;
pub mod payload;
mod transport;

use std::net::IpAddr;
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::record::Record;
use mesh_core::workload::{Name, WorkloadId};
use serde::{Deserialize, Serialize};

pub use error::LinkError;
pub use transport::{
    AgentEnd, Endpoint, MAX_DESCRIPTORS, MAX_PACKET, MAX_RECORDS, Received, WorkerEnd, pair,
};

/// Version of the messages.
pub const VERSION: u16 = 1;

/// The file descriptor on which a worker finds its end of the link.
pub const WORKER_FD: i32 = 3;

/// What the agent says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum ToWorker {
    /// First message. Descriptors: none.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// Name of the node.
        node: String,
        /// Generation of the worker: high bits of record ids.
        generation: u32,
        /// Threads that carry connections.
        threads: u16,
        /// Port of peers' tunnel listeners.
        tunnel_port: u16,
    },
    /// A workload to serve. Descriptors: one per entry of `listeners`, in order, already listening, non-blocking.
    Enrol {
        /// The workload.
        workload: LocalWorkload,
        /// What each descriptor is.
        listeners: Vec<Listener>,
    },
    /// Tunnel listeners on the node's own addresses, shared by all host services (which one is meant is told by the TLS
    /// server name and the destination of each stream). Sent before the first host service is enrolled. Descriptors: one
    /// per entry.
    Host {
        /// What each descriptor is.
        listeners: Vec<Listener>,
    },
    /// A workload to leave: stop accepting now, let its connections finish.
    Unenrol {
        /// Its number.
        workload: WorkloadId,
    },
    /// Sockets for dialling, in a workload's network namespace, unconnected, non-blocking. Descriptors: the sockets.
    Sockets {
        /// The workload.
        workload: WorkloadId,
        /// What they are for.
        kind: SocketKind,
    },
    /// A world. Descriptor: a sealed memfd with a postcard-encoded [`mesh_core::snapshot::World`].
    World,
    /// Certificates, keys and roots. Descriptor: a sealed memfd with a postcard-encoded [`Identities`].
    Identities,
    /// Stop accepting; finish within `deadline`, then exit.
    Drain {
        /// How long connections may go on.
        deadline: Duration,
    },
}

/// What the worker says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum ToAgent {
    /// The worker is set up: confined, threads running.
    Ready {
        /// [`VERSION`].
        version: u16,
    },
    /// A workload's listeners are being accepted from.
    Enrolled {
        /// The workload.
        workload: WorkloadId,
    },
    /// A workload's last connection ended after [`ToWorker::Unenrol`].
    Unenrolled {
        /// The workload.
        workload: WorkloadId,
    },
    /// More sockets, please.
    NeedSockets {
        /// The workload.
        workload: WorkloadId,
        /// What for.
        kind: SocketKind,
        /// How many.
        count: u16,
    },
    /// This world decides from now on.
    Applied {
        /// Its generation.
        generation: u64,
    },
    /// Connections that ended, or (reason `Open`) that have been open for a while. At most 64 per message.
    Records(Vec<Record>),
    /// Figures, once a second.
    Figures(Figures),
    /// A message that could not be carried out, in words for the log.
    Complaint(String),
}

/// A workload of this node, as the worker needs it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LocalWorkload {
    /// Its number.
    pub id: WorkloadId,
    /// Its name.
    pub name: Name,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its own addresses, in its network namespace.
    pub addresses: Vec<IpAddr>,
    /// It shares the host's network namespace: deliveries do not carry the client's address.
    pub host: bool,
}

/// What a listening descriptor is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listener {
    /// What arrives on it.
    pub kind: ListenerKind,
    /// IPv6 (only).
    pub ipv6: bool,
}

/// What arrives on a listener.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum ListenerKind {
    /// The workload's own dials.
    Outbound,
    /// Tunnels from other workloads.
    Tunnel,
    /// Connections in clear from outside the mesh.
    Plaintext,
}

/// What an unconnected socket is for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct SocketKind {
    /// Its purpose.
    pub purpose: Purpose,
    /// IPv6.
    pub ipv6: bool,
}

/// The purpose of a socket, which decides how the agent prepares it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Purpose {
    /// To other nodes' tunnel listeners, and to destinations outside the mesh.
    Dial,
    /// To the workload's own application: transparent, marked, so that it can be bound to the client's address.
    Deliver,
}

/// What [`ToWorker::Identities`] carries. Whole each time: what is missing is gone.
#[derive(Clone, Deserialize, Serialize)]
pub struct Identities {
    /// The trust domain that the roots stand for.
    pub trust_domain: TrustDomain,
    /// Certificates with their keys, as `mesh_identity::Certificate::to_handover` writes them.
    pub certificates: Vec<Vec<u8>>,
    /// Trusted roots, DER.
    pub roots: Vec<Vec<u8>>,
    /// Grows with every change.
    pub generation: u64,
}

/// Figures of a worker.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Figures {
    /// Application connections open now, outbound.
    pub open_outbound: u64,
    /// Application connections open now, inbound.
    pub open_inbound: u64,
    /// Tunnels open now, dialled by us.
    pub tunnels_outbound: u64,
    /// Tunnels open now, accepted by us.
    pub tunnels_inbound: u64,
    /// TLS handshakes that succeeded, since the start.
    pub handshakes: u64,
    /// TLS handshakes that failed, since the start.
    pub handshake_failures: u64,
    /// Accepts that failed (descriptors, memory), since the start.
    pub accept_failures: u64,
    /// Records that were dropped because the agent did not take them, since the start.
    pub records_lost: u64,
    /// Dials that had to wait for the agent because the reservoir was empty, since the start.
    pub reservoir_waits: u64,
}
