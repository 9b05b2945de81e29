//! The node API: HTTP/1.1 with JSON over a unix socket that only root may open.
//!
//! The wire types ([`flow`], [`objects`]) are an interface of their own, versioned and covered by golden tests; they are
//! made from the domain types and never shared with them, so that neither pins the other. [`filter`] says which flows are
//! meant, on both ends alike. [`client`] is what the command line uses, [`server`] what the agent serves.

pub(crate) mod client;
pub(crate) mod filter;
pub(crate) mod flow;
pub(crate) mod objects;
pub(crate) mod server;

#[cfg(test)]
pub(crate) mod tests;

/// The version that every object carries.
pub(crate) const VERSION: &str = "warren.dev/v1alpha1";

/// Where the agent's socket is found, unless something else is said.
pub(crate) const DEFAULT_RUN_DIR: &str = "/run/warren";

/// The socket's name in the run directory.
pub(crate) const SOCKET_NAME: &str = "node.sock";
