//! Against a real API server, which needs nothing beside it: no controllers, no nodes. `WARREN_KUBECONFIG` names a kubeconfig
//! with every right there; the server should be for this alone, because our kinds of object are installed and removed in it.
//! They are ignored unless they are asked for:
//! `cargo xtask test --kubernetes` runs them in a cluster of its own.

#[path = "api/access.rs"]
mod access;
#[path = "api/cluster.rs"]
mod cluster;
#[path = "api/lease.rs"]
mod lease;
#[path = "api/secret.rs"]
mod secret;
#[path = "api/source.rs"]
mod source;
