//! What the controller tells the nodes, and how.
//!
//! | step | module |
//! |---|---|
//! | the controller publishes facts | [`hub`] |
//! | the hub knows which node needs which of them | `hub::interest` |
//! | nodes follow it over gRPC with mutual TLS | [`server`] |
//! | a node gets its certificate, and those of its pods | [`gatekeeper`] decides, [`server`] carries |
//! | the node holds what it was told, and keeps it on disk | [`node`] |
//! | somebody asks a node, through the controller | [`question`] |
//! | … through another replica of the controller | [`relay`] |
//!
//! Rules: nothing here knows Kubernetes, the kernel or the proxy. TLS configurations are handed in, and who a peer is is
//! told by the one verifier of `mesh-identity`, through [`server::Identify`]. A node costs the controller a bounded set of
//! keys, however slow it is, and never a queue. The cost of a change depends on the nodes that need it, and on nothing else.

pub mod gatekeeper;
pub mod hub;
pub mod node;
pub mod question;
pub mod relay;
pub mod server;

mod channel;
mod wire;

pub use wire::Hash;

use std::time::Duration;

/// Messages and services, made of `distribution.proto`.
mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::map_err_ignore,
        clippy::or_fun_call,
        clippy::unwrap_used,
        clippy::large_futures,
        clippy::redundant_clone,
        reason = "generated; the documentation is in distribution.proto"
    )]
    include!(concat!(env!("OUT_DIR"), "/warren.distribution.v1alpha1.rs"));
}

/// About how much of a delta or of a hello goes into one message. The controller holds one for a node that is slow, and keeps
/// a buffer of this size for every node.
const PIECE: usize = 32 << 10;

/// Largest fact, as JSON: a service with some 30,000 endpoints. It travels in a message of its own.
pub const LARGEST_FACT: usize = 4 << 20;

/// Largest message to a node: a fact, its key, and a piece before it.
const LARGEST_TO_NODE: usize = LARGEST_FACT + 2 * PIECE;

/// Largest message from a node: a piece of a hello whose last key is as long as can be, certificate requests.
const LARGEST_FROM_NODE: usize = 256 << 10;

/// Largest enrolment: a service account token of some KiB and a certificate request.
const LARGEST_ENROLMENT: usize = 32 << 10;

/// Most of an answer's body in one message.
const LARGEST_CHUNK: usize = 32 << 10;

/// A peer that has not been heard of for this long is asked for a sign of life …
const PING_EVERY: Duration = Duration::from_secs(5);

/// … and is dead when it gives none for this long: noticed within 15 s.
const PING_PATIENCE: Duration = Duration::from_secs(10);
