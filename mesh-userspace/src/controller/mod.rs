//! The controller of a cluster. Files are named after what it does:
//!
//! [`compose`] (the parts, in order; the one place that knows all crates) → [`keys`] (what it signs with, and what it shows) →
//! [`tell`] (what was observed becomes what nodes are told, and how far they are) → [`gatekeeper`] (who gets which
//! certificate) → [`lead`] (what only one of several controllers does) → [`api`] (what people ask, with [`knowledge`] of the
//! mesh as a whole) → [`metrics`], [`health`].
//!
//! Nothing is kept here that is not in the Kubernetes API: a controller can be replaced at any time.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::args::ControllerArgs;

mod answers;
pub(crate) mod api;
mod compose;
mod gatekeeper;
mod health;
mod keys;
mod knowledge;
mod lead;
mod listen;
mod metrics;
mod replicas;
mod tell;

/// Why the controller cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControllerError {
    #[error("--trust-domain {text:?} cannot be used")]
    TrustDomain {
        text: String,
        #[source]
        source: mesh_core::identity::InvalidIdentity,
    },
    #[error(
        "--certificate-lifetime is too short: at least 5 minutes, or nodes do nothing but renew"
    )]
    Lifetime,
    #[error(
        "the Kubernetes API server cannot be used; is this a pod with a service account? (elsewhere: --kubeconfig)"
    )]
    Client(#[from] mesh_kubernetes::client::ClientError),
    #[error(
        "the certificate authority in Secret {namespace}/warren-ca cannot be used; put back what was there, or delete the \
         Secret for a new one (every certificate is then issued anew)"
    )]
    Authority {
        namespace: String,
        #[source]
        source: mesh_identity::authority::AuthorityError,
    },
    #[error("the controller's own identity cannot be made of namespace {namespace:?}")]
    Identity {
        namespace: String,
        #[source]
        source: mesh_core::identity::InvalidIdentity,
    },
    #[error("the controller's own TLS cannot be set up")]
    Tls(#[from] mesh_identity::IdentityError),
    #[error(
        "cannot listen on {address} for {purpose}; does another process? choose another address"
    )]
    Listen {
        address: SocketAddr,
        purpose: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{step}")]
    System {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Runs the controller until it is told to end. The cluster is that of the kubeconfig, else of the pod.
pub(crate) fn run(
    args: ControllerArgs,
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
) -> Result<(), ControllerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| ControllerError::System {
            step: "cannot start the controller's threads",
            source,
        })?;
    runtime.block_on(compose::run(args, kubeconfig, context))
}
