//! The agent of a node. Files are named after the steps:
//!
//! [`options`] (what was asked, completed) → [`host`] (the node, from where the agent runs) → [`preflight`] (what the machine
//! lacks) → [`handover`] and [`run_dir`] (one agent at a time) → [`compose`] (the parts, in order; the one place that knows all crates) → [`node`] (the loop in which everything
//! happens: configuration, enrolment, identities, the worker, the watchdog).
//!
//! Steps within the loop: [`source`] (file or controller) → [`config`] (→ world), [`select`] (selector → namespace or cgroup), [`enrol`] (workload →
//! captured), [`identities`] (identity → certificate), [`supervise`] (worker process and link), [`watchdog`].
//! Of a node of a cluster: [`control`] (the link to the controller), [`cni_install`] and [`node::pods`] (pods that start),
//! [`kubelet`] (its probes), [`anchor`] (the agent's container).
//! What people see of it: [`view`], [`flows`], [`metrics`], [`health`]. The end of it: [`uninstall`].

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::args::NodeArgs;

mod anchor;
mod cni_install;
mod compose;
mod config;
mod control;
pub(crate) mod describe;
mod enrol;
pub(crate) mod flows;
mod handover;
mod health;
pub(crate) mod host;
mod identities;
mod kubelet;
mod metrics;
mod node;
mod options;
pub(crate) mod preflight;
pub(crate) mod run_dir;
mod select;
mod source;
mod supervise;
pub(crate) mod uninstall;
mod view;
mod watchdog;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("the agent needs root; try again with sudo")]
    NotRoot,
    #[error("another agent runs with {}; stop it, or choose another --run-dir", path.display())]
    Running { path: PathBuf },
    #[error("the run directory {} cannot be used; choose another with --run-dir", path.display())]
    RunDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("this machine lacks what is needed:\n  {}\nrun `warren check --pre` for everything at once", missing.join("\n  "))]
    Missing { missing: Vec<String> },
    #[error(
        "cannot listen on {address} for {purpose}; is another agent running? choose another address"
    )]
    Listen {
        address: SocketAddr,
        purpose: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the node's socket {}", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "no cgroup v2 hierarchy is mounted; mount one, or give --cgroup-root and --mesh-cgroup"
    )]
    NoCgroup,
    #[error(
        "the node's name is not known; give --name, or set NODE_NAME from the pod's spec.nodeName"
    )]
    NoName,
    #[error(
        "the agent is not in the node's network, where it would have to make everything; its pod needs hostNetwork and hostPID"
    )]
    OtherNetwork,
    #[error("{0}")]
    Trust(control::bootstrap::TrustError),
    #[error("the configuration cannot be used:\n{report}")]
    Configuration { report: String },
    #[error("the configuration cannot be used")]
    Source(#[from] mesh_control::source::file::SourceError),
    #[error("the certificate authority cannot be used")]
    Authority(#[from] mesh_identity::authority::AuthorityError),
    #[error("the kernel half cannot be set up")]
    Kernel(#[from] mesh_kernel::KernelError),
    #[error("the CNI plugin was not taken away")]
    Plugin(#[from] cni_install::InstallError),
    #[error(
        "another agent with another run directory has taken this node over, and serves it from now on; run one agent per \
         node"
    )]
    Superseded,
    #[error("{step}")]
    System {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Runs the agent until it is told to end.
pub(crate) fn run(args: NodeArgs) -> Result<(), AgentError> {
    if !preflight::is_root() {
        return Err(AgentError::NotRoot);
    }
    let options = options::Options::complete(args)?;
    raise_limits()?;
    if options.cluster().is_some() {
        anchor::cast()?;
        // Before there are threads.
        if let Err(error) = options.host.see_its_cgroups() {
            tracing::warn!(%error, "the node's cgroups are not seen as it sees them; pods are found by their processes alone");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One for the loop is the caller's; the others answer people, who must not wait for it.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| AgentError::System {
            step: "cannot start the agent's threads",
            source,
        })?;
    match runtime.block_on(compose::run(options)) {
        Ok(compose::After::End) => Ok(()),
        Ok(compose::After::Again) => Err(again()),
        Err(error) => Err(error),
    }
}

/// Begins anew, as if just started. Comes back only when that fails.
fn again() -> AgentError {
    use std::os::unix::process::CommandExt;
    let source = std::process::Command::new("/proc/self/exe")
        .arg0("warren")
        .args(std::env::args_os().skip(1))
        .exec();
    AgentError::System {
        step: "cannot begin anew",
        source,
    }
}

/// The agent holds every listener of the node, and the sockets that are on their way to a worker.
fn raise_limits() -> Result<(), AgentError> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
        .map_err(|error| AgentError::System {
            step: "cannot raise the limit of open files",
            source: error.into(),
        })
}
