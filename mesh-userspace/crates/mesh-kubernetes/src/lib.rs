//! The only crate that knows the Kubernetes API.
//!
//! The way of an object: [`source`] (lists and watches it) → `observe` (what of it matters) → `translate` (pure: facts for
//! the nodes, and what is to be said about it) → the controller's hub, and [`status`] (says it, while [`lease`] is held).
//! [`view`] answers questions about the same state, [`objects`] those about objects that are not in effect. Beside that way: [`authority_secret`] (the root key and what everybody
//! trusts), [`access`] (who is asking, and may they), [`taint`] (nodes that may take pods), [`client`] (how the API server is
//! reached), [`raw`] (a person's own requests), [`crds`] (our own kinds of object).
//!
//! How a controller puts it together:
//!
//! ```no_run
//! # use mesh_kubernetes::{client, lease, source, status, view::View};
//! # use tokio::sync::{mpsc, watch};
//! # async fn controller() -> Result<(), Box<dyn std::error::Error>> {
//! let client = client::in_cluster()?;
//! let settings = source::Settings::default();
//! let view = View::new(settings.clone());
//! // Facts: each update goes to the hub; its sequence comes back below when every connected node applies it.
//! let (updates, mut hub) = mpsc::channel(16);
//! tokio::spawn(source::run(client.clone(), view.clone(), updates));
//! // Writers: one replica at a time.
//! let (held, holding) = watch::channel(false);
//! let lease = lease::Settings::new("warren-system", "warren-controller", "pod-name");
//! tokio::spawn(lease::run(client.clone(), lease, held));
//! let (acknowledge, acknowledged) = watch::channel(status::Acknowledged::default());
//! tokio::spawn(status::run(client, view, holding, acknowledged));
//! while let Some(update) = hub.recv().await {
//!     // hub.publish(update.change); and once all nodes have it:
//!     acknowledge.send_replace(status::Acknowledged { sequence: update.sequence, waiting_for: Vec::new() });
//! }
//! # Ok(())
//! # }
//! ```

pub mod access;
pub mod aggregation;
pub mod authority_secret;
pub mod client;
pub mod crds;
pub mod lease;
pub mod objects;
mod observe;
pub mod raw;
pub mod source;
pub mod status;
pub mod taint;
mod translate;
pub mod view;

pub use kube::Client;

/// Names that Warren's parts in a cluster know each other by.
pub mod names {
    /// The namespace of Warren itself, unless it was installed elsewhere.
    pub const SYSTEM_NAMESPACE: &str = "warren-system";
    /// The controller's Deployment, Service, ServiceAccount and Lease.
    pub const CONTROLLER: &str = "warren-controller";
    /// The node agents' DaemonSet and ServiceAccount.
    pub const NODE: &str = "warren-node";
    /// The Secret with the root key.
    pub const AUTHORITY_SECRET: &str = "warren-ca";
    /// The ConfigMap that tells everybody whom to trust.
    pub const TRUST_CONFIG_MAP: &str = "warren-trust";
    /// The label by which namespaces and pods are of the mesh.
    pub const MESH_LABEL: &str = "warren.dev/mesh";
    /// The taint of nodes that may not take pods yet.
    pub const NOT_READY_TAINT: &str = "warren.dev/not-ready";
    /// Who a node's token is for.
    pub const TOKEN_AUDIENCE: &str = "warren-controller";
    /// The annotation of services that says which namespaces are told of them.
    pub const EXPORT_TO: &str = "warren.dev/export-to";
    /// The annotation of pods and namespaces that lets UDP to workloads of the mesh through: `allow` or `deny`.
    pub const UDP: &str = "warren.dev/udp";
    /// The name under which routes hear from us.
    pub const ROUTE_CONTROLLER: &str = "warren.dev/controller";
}
