//! The API: of a node, HTTP/1.1 with JSON over a unix socket that only root may open; of a cluster, the same objects through
//! the Kubernetes API server, which asks the controller (API aggregation).
//!
//! The wire types ([`flow`], [`objects`], [`cluster`]) are an interface of their own, versioned and covered by golden tests;
//! they are made from the domain types and never shared with them, so that neither pins the other. [`filter`] says which
//! flows are meant, on both ends alike, and [`query`] how that is written in a URL. [`client`] is what the command line uses,
//! [`server`] what the agent serves; what the controller serves is in `controller/api`.

pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod filter;
pub(crate) mod flow;
pub(crate) mod objects;
pub(crate) mod query;
pub(crate) mod server;

#[cfg(test)]
pub(crate) mod tests;

/// The version that every object carries.
pub(crate) const VERSION: &str = "warren.dev/v1alpha1";

/// Where the agent's socket is found, unless something else is said.
pub(crate) const DEFAULT_RUN_DIR: &str = "/run/warren";

/// The socket's name in the run directory.
pub(crate) const SOCKET_NAME: &str = "node.sock";

/// The group of the API that the API server asks the controller for.
pub(crate) const CLUSTER_GROUP: &str = "api.warren.dev";

/// Its version.
pub(crate) const CLUSTER_VERSION: &str = "v1alpha1";

/// Where it is found.
pub(crate) const CLUSTER_PATH: &str = "/apis/api.warren.dev/v1alpha1";

/// The object that tells the API server whom to ask.
pub(crate) const API_SERVICE: &str = "v1alpha1.api.warren.dev";
