//! The agent of a node. Files are named after the steps:
//!
//! [`options`] (what was asked, completed) → [`run_dir`] (one agent at a time) → [`preflight`] (what the machine lacks) →
//! [`compose`] (the parts, in order; the one place that knows all crates) → [`node`] (the loop in which everything
//! happens: configuration, enrolment, identities, the worker, the watchdog).
//!
//! Steps within the loop: [`config`] (file → world), [`select`] (selector → namespace or cgroup), [`enrol`] (workload →
//! captured), [`identities`] (identity → certificate), [`supervise`] (worker process and link), [`watchdog`].
//! What people see of it: [`view`], [`flows`], [`metrics`], [`health`]. The end of it: [`uninstall`].

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::cli::args::NodeArgs;

mod compose;
mod config;
mod describe;
mod enrol;
pub(crate) mod flows;
mod health;
mod identities;
mod metrics;
mod node;
mod options;
pub(crate) mod preflight;
mod run_dir;
mod select;
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
    #[error("the configuration cannot be used:\n{report}")]
    Configuration { report: String },
    #[error("the configuration cannot be used")]
    Source(#[from] mesh_control::source::file::SourceError),
    #[error("the certificate authority cannot be used")]
    Authority(#[from] mesh_identity::authority::AuthorityError),
    #[error("the kernel half cannot be set up")]
    Kernel(#[from] mesh_kernel::KernelError),
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
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // One for the loop is the caller's; the others answer people, who must not wait for it.
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| AgentError::System {
            step: "cannot start the agent's threads",
            source,
        })?;
    runtime.block_on(compose::run(options))
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
