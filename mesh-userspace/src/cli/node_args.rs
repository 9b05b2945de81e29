//! What can be typed about nodes; the rest is in [`super::args`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::args::LogArgs;

/// `warren node`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  warren node -f warren.yaml\n  warren node -f warren.yaml --name a --run-dir /run/warren-a\n  \
    warren node --kubernetes                  in its pod, see the Helm chart\n\n\
    SIGTERM ends the agent. Capture stays in the kernel and the proxy goes on (but see --on-stop), until the next agent takes over;\n\
    SIGINT (Ctrl-C) drains the proxy, too. Either way nothing leaves in clear. To take everything away: warren uninstall"
)]
pub(crate) struct NodeArgs {
    /// The configuration; read again whenever it changes
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/warren/warren.yaml"
    )]
    pub(crate) file: PathBuf,
    /// Name of this node [default: node.name of the file, else the host's name; in a cluster NODE_NAME]
    #[arg(long, value_name = "NODE")]
    pub(crate) name: Option<String>,
    /// Folder for the socket and what is kept between starts
    #[arg(long, value_name = "DIR", default_value = "/run/warren")]
    pub(crate) run_dir: PathBuf,
    /// Folder for pinned programs and maps; mounted when it is not a BPF file system
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/warren")]
    pub(crate) bpffs: PathBuf,
    /// The cgroup whose processes can be captured [default: the root of the cgroup2 mount]
    #[arg(long, value_name = "DIR")]
    pub(crate) cgroup_root: Option<PathBuf>,
    /// The cgroup for the agent and its proxies [default: warren, below the agent's own; in a cluster warren-mesh, below the
    /// node's root]
    #[arg(long, value_name = "DIR")]
    pub(crate) mesh_cgroup: Option<PathBuf>,
    /// Where metrics are served
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15020")]
    pub(crate) metrics_listen: SocketAddr,
    /// Where health is served
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15021")]
    pub(crate) health_listen: SocketAddr,
    /// Threads of the proxy that carry connections [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Option<u16>,
    /// What becomes of the proxy on SIGTERM
    #[arg(long, value_enum, default_value = "leave")]
    pub(crate) on_stop: OnStop,
    #[command(flatten)]
    pub(crate) kubernetes: KubernetesArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Flags of a node of a Kubernetes cluster.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Nodes of a cluster")]
pub(crate) struct KubernetesArgs {
    /// Be the node of a Kubernetes cluster: the controller says what a file would
    #[arg(long, conflicts_with = "file")]
    pub(crate) kubernetes: bool,
    /// Where the controller is: HOST:PORT [default: the Service warren-controller of the agent's namespace]
    #[arg(long, value_name = "HOST:PORT", requires = "kubernetes")]
    pub(crate) controller: Option<String>,
    /// Folder with what everybody trusts: bundle.pem and trust-domain, as in the ConfigMap warren-trust
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/warren/trust",
        requires = "kubernetes"
    )]
    pub(crate) trust_dir: PathBuf,
    /// The token that shows the controller which node this is
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/tokens/warren-controller",
        requires = "kubernetes"
    )]
    pub(crate) token_file: PathBuf,
    /// Folder for what outlives a restart of the machine: what the controller said last, network configurations as they were
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/warren",
        requires = "kubernetes"
    )]
    pub(crate) state_dir: PathBuf,
    /// Where the container runtime looks for CNI plugins
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/opt/cni/bin",
        requires = "kubernetes"
    )]
    pub(crate) cni_bin_dir: PathBuf,
    /// Where it looks for network configurations
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/etc/cni/net.d",
        requires = "kubernetes"
    )]
    pub(crate) cni_conf_dir: PathBuf,
    /// The node's /proc
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/proc",
        requires = "kubernetes"
    )]
    pub(crate) host_proc: PathBuf,
}

/// What becomes of the proxy when the agent is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum OnStop {
    /// It goes on, until the next agent's takes over: a restart that nobody notices
    Leave,
    /// It finishes its connections (node.drain) and ends, then the agent: where everything is ended together anyway
    Drain,
}

/// `warren ready`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReadyArgs {
    /// Where health is served
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15021")]
    pub(crate) health: SocketAddr,
    /// The pod of the agent that is meant
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub(crate) pod_name: Option<String>,
}
