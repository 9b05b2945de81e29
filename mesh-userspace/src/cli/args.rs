//! What can be typed. No behaviour: each verb's file says what it does with it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use super::cluster_args::{
    CaPlace, ControllerArgs, DefaultMtls, MembershipArgs, StatusArgs,
};
pub(crate) use super::install_args::{ClusterUninstallArgs, InstallArgs, OnNode};
pub(crate) use super::node_args::{KubernetesArgs, NodeArgs, OnStop, ReadyArgs};

/// The mesh without sidecars: identities, mutual TLS, policy and routing for running workloads, in the kernel.
#[derive(Debug, Parser)]
#[command(
    name = "warren",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        warren node -f warren.yaml            run this node\n  \
        warren flows -f --to svc/web          watch who talks to a service\n  \
        warren explain client.shop web.shop:80\n                                        \
        say what would happen to a connection, and why\n  \
        warren enable ns/shop                 take a namespace of a cluster into the mesh\n\n\
        Where a node's socket is there, verbs ask this node's agent; elsewhere the cluster of the kubeconfig.\n\
        On the PATH as kubectl-warren it is `kubectl warren`, too. Exit codes: warren help exit-codes"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every verb.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Ask the agent behind this socket [default: /run/warren/node.sock where it is there, else the cluster]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "WARREN_SOCKET",
        conflicts_with_all = ["kubeconfig", "context"],
        help_heading = "Global options"
    )]
    pub(crate) socket: Option<PathBuf>,
    /// Ask the cluster of this kubeconfig [default: as kubectl: KUBECONFIG, ~/.kube/config, else the pod's own cluster]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Global options"
    )]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Ask the cluster of this context of the kubeconfig [default: its current one]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) context: Option<String>,
    /// How long to wait for an answer
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = duration, help_heading = "Global options")]
    pub(crate) timeout: Duration,
    /// Colours
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        help_heading = "Global options"
    )]
    pub(crate) color: ColorChoice,
    /// Only ASCII characters
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) ascii: bool,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum ColorChoice {
    Auto,
    Always,
    Never,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run this node: load the kernel programs, enrol workloads, supervise the proxy
    Node(NodeArgs),
    /// Run a proxy worker (started by the agent, never by hand)
    #[command(hide = true)]
    Proxy(ProxyArgs),
    /// Run the controller of a cluster: watch its objects, tell the nodes, sign their certificates, answer questions
    Controller(ControllerArgs),
    /// Act as a CNI plugin (called by container runtimes, as the file warren-cni, never by hand)
    #[command(hide = true)]
    Cni,
    /// Say whether this container's agent is the one that serves the node, and ready (a readiness probe)
    #[command(hide = true)]
    Ready(ReadyArgs),
    /// Show connections, one line each, with identities, route, verdict and the rule that gave it
    Flows(FlowsArgs),
    /// Show the node, or the cluster, in a few lines
    Status(StatusArgs),
    /// List what the node, or the cluster, knows
    Get(GetArgs),
    /// Take a namespace or a pod of a cluster into the mesh: one label, no restart
    Enable(MembershipArgs),
    /// Take a namespace or a pod of a cluster out of the mesh: one label, no restart
    Disable(MembershipArgs),
    /// Look for everything that could be wrong, each with a fix
    Check(CheckArgs),
    /// Say what would happen to a connection, step by step, and why
    Explain(ExplainArgs),
    /// Work with configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Work with the certificate authority of a node or of a cluster
    #[command(subcommand)]
    Ca(CaCommand),
    /// Print the objects that put Warren into a cluster, for kubectl apply
    Install(InstallArgs),
    /// Remove every trace of the mesh from this machine, or from a cluster
    Uninstall(UninstallArgs),
    /// Print versions
    Version(OutputArgs),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print help, also about a topic: exit-codes
    Help {
        /// A verb, or a topic
        topic: Vec<String>,
    },
}

/// Flags about the log.
#[derive(Args, Clone, Debug)]
pub(crate) struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or per module (mesh_kernel=debug,info)
    #[arg(long, value_name = "LEVEL", env = "WARREN_LOG", default_value = "info")]
    pub(crate) log_level: String,
    /// How it is written
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// Forms of the log.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    /// As on the command line.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// `warren proxy`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ProxyArgs {
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `warren flows`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "The same filter twice means either; different filters must all hold; --not turns the next one around.\n\
    WHO is a name (web, web.shop), svc/web, workload/web-v1, ns/shop, an address, a network, or an identity (spiffe://…).\n\
    In a cluster flows are those of the kubeconfig's namespace, unless -n or -A says otherwise.\n\n\
    Examples:\n  warren flows --verdict denied --since 5m\n  warren flows -f --to svc/web --not --from ns/ops\n  \
    warren flows --last 1000 -o json > saved.ndjson; warren flows --input saved.ndjson --reason no_rule_allows"
)]
pub(crate) struct FlowsArgs {
    /// From this source
    #[arg(long, value_name = "WHO", help_heading = "Filters")]
    pub(crate) from: Vec<String>,
    /// To this destination
    #[arg(long, value_name = "WHO", help_heading = "Filters")]
    pub(crate) to: Vec<String>,
    /// Either end is in this namespace
    #[arg(
        short = 'n',
        long = "ns",
        visible_alias = "namespace",
        value_name = "NAMESPACE",
        help_heading = "Filters"
    )]
    pub(crate) ns: Vec<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "ns", help_heading = "Filters")]
    pub(crate) all_namespaces: bool,
    /// Either end is this workload
    #[arg(long, value_name = "NAME", help_heading = "Filters")]
    pub(crate) workload: Vec<String>,
    /// To this service
    #[arg(long, value_name = "NAME", help_heading = "Filters")]
    pub(crate) service: Vec<String>,
    /// allowed, denied or failed
    #[arg(long, value_name = "VERDICT", help_heading = "Filters")]
    pub(crate) verdict: Vec<String>,
    /// How it ended, e.g. no_rule_allows
    #[arg(long, value_name = "REASON", help_heading = "Filters")]
    pub(crate) reason: Vec<String>,
    /// outbound (told by the client's node) or inbound
    #[arg(long, value_name = "DIRECTION", help_heading = "Filters")]
    pub(crate) direction: Vec<String>,
    /// mtls, plaintext, itself, kernel or none
    #[arg(long, value_name = "TRANSPORT", help_heading = "Filters")]
    pub(crate) transport: Vec<String>,
    /// To this port
    #[arg(long, value_name = "PORT", help_heading = "Filters")]
    pub(crate) port: Vec<String>,
    /// Turn the next filter around
    #[arg(long, num_args = 0, default_missing_value = "true", action = clap::ArgAction::Append, help_heading = "Filters")]
    pub(crate) not: Vec<bool>,
    /// Go on with new flows
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only flows of this last time (5m), or since a moment (2026-01-31T12:00:00Z)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// At most so many of the past [default: 20; with --since or --input: all]
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<usize>,
    /// How they are shown
    #[arg(short, long, value_enum, default_value = "compact")]
    pub(crate) output: FlowsOutput,
    /// Read flows saved with -o json from a file, or - for standard input, instead of asking
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    pub(crate) input: Option<PathBuf>,
    /// Leave out the table's header
    #[arg(long)]
    pub(crate) no_headers: bool,
}

/// How flows are shown.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum FlowsOutput {
    Compact,
    Table,
    Json,
}

/// `-o` of verbs that show one thing.
#[derive(Args, Clone, Debug)]
pub(crate) struct OutputArgs {
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: TextOutput,
}

/// Text or JSON.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum TextOutput {
    Text,
    Json,
}

/// `warren get`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "In a cluster, objects are those of the kubeconfig's namespace, unless -n or -A says otherwise.\n\n\
    Examples:\n  warren get workloads -o wide\n  warren get services -n shop -o json\n  warren get certs -A"
)]
pub(crate) struct GetArgs {
    /// workloads, services, routes, policies or certs
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// Only of this name
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Only of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Of all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// How they are shown
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: GetOutput,
    /// Leave out the table's header
    #[arg(long)]
    pub(crate) no_headers: bool,
}

/// How listings are shown.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum GetOutput {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

/// `warren check`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  warren check --pre     before anything runs: does this machine, or this cluster, have what is needed?\n  warren check"
)]
pub(crate) struct CheckArgs {
    /// Look at what is needed only; nothing of the mesh has to run
    #[arg(long)]
    pub(crate) pre: bool,
    /// Look at this namespace of the cluster only: for those who may not see all of it
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "pre")]
    pub(crate) namespace: Option<String>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: TextOutput,
}

/// `warren explain`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit code: 0 allowed, 1 not.\n\nExamples:\n  warren explain client.shop web.shop:80\n  \
    warren explain workload/client.shop 10.2.0.3:8080\n  warren explain -n shop pod/client svc/web"
)]
pub(crate) struct ExplainArgs {
    /// Who dials: a workload of the mesh (client.shop)
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Whom: a service, a workload or an address, with a port unless the service has only one
    #[arg(value_name = "DST[:PORT]")]
    pub(crate) destination: String,
    /// The namespace of names without one [default: the kubeconfig's]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: TextOutput,
}

/// `warren config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Report every mistake in a configuration file (exit code 1 when there is one)
    Validate {
        /// The file
        file: PathBuf,
        /// As which node to read it [default: node.name of the file, else the host's name]
        #[arg(long, value_name = "NODE")]
        name: Option<String>,
    },
    /// Print the JSON Schema of configuration files, for editors
    Schema,
}

/// `warren ca`.
#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Replace the root certificate, in steps that never break a connection
    #[command(subcommand)]
    Rotate(RotateCommand),
}

/// `warren ca rotate`.
#[derive(Debug, Subcommand)]
pub(crate) enum RotateCommand {
    /// First: make a new root and trust it beside the old one. Wait until every node has read it
    Stage(CaPlace),
    /// Second: sign with the new root. Wait until every certificate was renewed
    Activate(CaPlace),
    /// Last: trust the old root no longer
    Finish(CaPlace),
    /// Say how far a rotation has come
    Status(CaPlace),
}

/// `warren uninstall`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Of a machine: through the running agent when there is one (workloads are un-enrolled, then it exits), else\n\
    directly. Configuration and the certificate authority's folder stay.\n\
    Of a cluster: with the rights of the kubeconfig. Labels of namespaces and pods stay.\n\n\
    Examples:\n  warren uninstall\n  warren uninstall --kubernetes\n  warren uninstall --kubernetes --crds   with every policy in the cluster"
)]
pub(crate) struct UninstallArgs {
    /// Folder for pinned programs and maps
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/warren")]
    pub(crate) bpffs: PathBuf,
    /// The cgroup whose processes can be captured [default: the root of the cgroup2 mount]
    #[arg(long, value_name = "DIR")]
    pub(crate) cgroup_root: Option<PathBuf>,
    /// The cgroup for the agent and its proxies [default: as remembered by the last agent]
    #[arg(long, value_name = "DIR")]
    pub(crate) mesh_cgroup: Option<PathBuf>,
    /// Folder for the socket and what is kept between starts [default: that of --socket]
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) cluster: ClusterUninstallArgs,
}

/// Longer than anybody waits, and short enough to be added to any time.
const LONGEST: Duration = Duration::from_secs(36_500 * 86_400);

/// Reads `250ms`, `5s`, `10m`, `2h`, `1d`; a bare number is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("{unit:?} is no unit of time; use ms, s, m, h or d")),
    };
    let number: f64 = number.parse().map_err(|_wrong| {
        "a time is a number and a unit, as in 250ms, 5s, 10m, 2h, 1d".to_owned()
    })?;
    let time = Duration::try_from_secs_f64(number * seconds).ok();
    time.filter(|time| *time <= LONGEST)
        .ok_or_else(|| "this time is too long; 36500d are the most".to_owned())
}
