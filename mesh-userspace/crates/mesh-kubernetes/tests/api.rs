//! Against a real API server, which needs nothing beside it: no controllers, no nodes. `WARREN_KUBECONFIG` names a kubeconfig
//! with every right there; the server should be for this alone, because our kinds of object are installed and removed in it.
//! Without it, every test says that it is skipped.

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
