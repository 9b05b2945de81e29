//! What can be typed about clusters; the rest is in [`super::args`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mesh_core::identity::TrustDomain;

use super::CliError;
use super::args::{LogArgs, TextOutput, duration};

/// `warren controller`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Several controllers of one cluster share the work: each serves nodes, the holder of the Lease writes.\n\
    SIGTERM drains: nodes move to another controller, then this one ends.\n\n\
    Examples:\n  warren controller                                       in its pod\n  \
    warren controller --kubeconfig admin.kubeconfig --pod-name a    elsewhere"
)]
pub(crate) struct ControllerArgs {
    /// The mesh's own namespace
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        default_value = "warren-system"
    )]
    pub(crate) namespace: String,
    /// The name of this controller, which no other one has [default: the host's name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub(crate) pod_name: Option<String>,
    /// The trust domain of the mesh: the first part of every identity
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub(crate) trust_domain: String,
    /// How long the certificates of workloads are valid
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub(crate) certificate_lifetime: Duration,
    /// How long connections may go on when a node's proxy stops
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
    /// Mutual TLS where no MeshPolicy speaks
    #[arg(long, value_enum, default_value = "permissive")]
    pub(crate) mtls: DefaultMtls,
    /// Where nodes, and other controllers of the mesh, are served
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15010")]
    pub(crate) distribution_listen: SocketAddr,
    /// Where the API server asks
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15011")]
    pub(crate) api_listen: SocketAddr,
    /// Where metrics are served
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15020")]
    pub(crate) metrics_listen: SocketAddr,
    /// Where health is served
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15021")]
    pub(crate) health_listen: SocketAddr,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Modes of mutual TLS, as a default.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub(crate) enum DefaultMtls {
    /// What comes in clear from outside the mesh is taken, and shown as such
    Permissive,
    /// Only the mesh may reach the mesh
    Strict,
}

/// `warren status`.
#[derive(Args, Clone, Debug)]
pub(crate) struct StatusArgs {
    /// Only of this namespace of the cluster: for those who may not see all of it
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: TextOutput,
}

/// `warren enable` and `warren disable`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "It sets the label warren.dev/mesh with your own rights; a pod's label beats its namespace's.\n\
    The line that undoes it is printed.\n\n\
    Examples:\n  warren enable ns/shop --wait\n  warren disable pod/shop/debug\n  \
    warren enable ns/shop --dry-run | kubectl apply --server-side -f -"
)]
pub(crate) struct MembershipArgs {
    /// ns/NAME, pod/NAMESPACE/NAME, or NAME for a namespace
    #[arg(value_name = "WHAT")]
    pub(crate) what: String,
    /// Wait until the nodes have done it, at most so long
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "60s", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Change nothing; print the object that would be applied
    #[arg(long, conflicts_with = "wait")]
    pub(crate) dry_run: bool,
}

/// Where the authority is.
#[derive(Args, Clone, Debug)]
#[command(group = clap::ArgGroup::new("place").required(true).args(["directory", "kubernetes"]))]
pub(crate) struct CaPlace {
    /// In this directory: identity.directory of the configuration
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// In the cluster of the kubeconfig
    #[arg(long)]
    pub(crate) kubernetes: bool,
    /// The mesh's own namespace in the cluster
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        default_value = "warren-system",
        conflicts_with = "directory"
    )]
    pub(crate) namespace: String,
    /// Trust domain [default: what the root says]
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) trust_domain: Option<String>,
}

impl CaPlace {
    /// The trust domain, if one was given.
    pub(crate) fn trust_domain(&self) -> Result<Option<TrustDomain>, CliError> {
        let given = self.trust_domain.as_deref();
        given
            .map(|domain| {
                TrustDomain::new(domain).map_err(|error| CliError::Usage(error.to_string()))
            })
            .transpose()
    }

    /// As it is typed.
    pub(crate) fn typed(&self) -> String {
        match &self.directory {
            Some(directory) => format!("--directory {}", directory.display()),
            None if self.namespace == "warren-system" => "--kubernetes".to_owned(),
            None => format!("--kubernetes --namespace {}", self.namespace),
        }
    }
}
