//! What was asked on the command line, with what was left open filled in.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::host::Host;
use super::{AgentError, preflight};
use crate::cli::args::{KubernetesArgs, LogArgs, NodeArgs, OnStop};

/// The controller's Service, whose address every pod of its namespace finds in its environment, and by name.
const CONTROLLER: &str = "warren-controller";

/// Its port for nodes.
const CONTROLLER_PORT: u16 = 15010;

/// The options of a node.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where the configuration comes from.
    pub(crate) from: From,
    pub(crate) host: Host,
    /// The node's cgroup v2 hierarchy.
    pub(crate) cgroup2: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) bpffs: PathBuf,
    pub(crate) cgroup_root: PathBuf,
    pub(crate) mesh_cgroup: PathBuf,
    pub(crate) metrics_listen: SocketAddr,
    pub(crate) health_listen: SocketAddr,
    pub(crate) threads: u16,
    pub(crate) on_stop: OnStop,
    /// Handed on to the worker.
    pub(crate) log: LogArgs,
}

/// Where a node's configuration comes from.
#[derive(Clone, Debug)]
pub(crate) enum From {
    /// A file; the node's name, when it was given, else the file or the host says it.
    File { file: PathBuf, name: Option<String> },
    /// The controller of a cluster.
    Cluster(Box<Cluster>),
}

/// The options of a node of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// The node's name in the cluster.
    pub(crate) node: String,
    /// The agent's pod, where it is told.
    pub(crate) pod: Option<String>,
    /// The namespace of the mesh itself.
    pub(crate) namespace: String,
    /// Where the controller is: HOST:PORT.
    pub(crate) controller: String,
    pub(crate) trust_dir: PathBuf,
    pub(crate) token_file: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) cni_bin_dir: PathBuf,
    pub(crate) cni_conf_dir: PathBuf,
}

impl Options {
    /// Completes what was typed.
    pub(crate) fn complete(args: NodeArgs) -> Result<Self, AgentError> {
        let NodeArgs {
            file,
            name,
            run_dir,
            bpffs,
            cgroup_root,
            mesh_cgroup,
            metrics_listen,
            health_listen,
            threads,
            on_stop,
            kubernetes,
            log,
        } = args;
        let host = match kubernetes.kubernetes {
            true => Host::behind(&kubernetes.host_proc),
            false => Host::own(),
        };
        let cgroup2 = host.cgroup2();
        let from = match kubernetes.kubernetes {
            true => From::Cluster(Box::new(cluster(name, kubernetes)?)),
            false => From::File { file, name },
        };
        let mesh_cgroup = match (mesh_cgroup, &from, &cgroup2) {
            (Some(path), _, _) => path,
            // Outside of the agent's container, whose processes end with it: the proxy must not.
            (None, From::Cluster(_), Some(mount)) => mount.join("warren-mesh"),
            (None, _, mount) => {
                default_mesh_cgroup(mount.as_deref()).ok_or(AgentError::NoCgroup)?
            }
        };
        let cgroup2 = cgroup2.ok_or(AgentError::NoCgroup)?;
        let cgroup_root = cgroup_root.unwrap_or_else(|| cgroup2.clone());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            from,
            host,
            cgroup2,
            run_dir,
            bpffs,
            cgroup_root,
            mesh_cgroup,
            metrics_listen,
            health_listen,
            threads: threads.unwrap_or_else(|| u16::try_from(cores).unwrap_or(u16::MAX)),
            on_stop,
            log,
        })
    }
}

impl Options {
    /// What there is beside, on a node of a cluster.
    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        match &self.from {
            From::File { .. } => None,
            From::Cluster(cluster) => Some(cluster),
        }
    }

    /// What outlives a restart of the machine, on a node of a cluster.
    pub(crate) fn state_dir(&self) -> Option<&PathBuf> {
        self.cluster().map(|cluster| &cluster.state_dir)
    }

    /// Where the configuration comes from, in words.
    pub(crate) fn source(&self) -> String {
        match &self.from {
            From::File { file, .. } => file.display().to_string(),
            From::Cluster(cluster) => format!("controller {}", cluster.controller),
        }
    }
}

fn cluster(name: Option<String>, args: KubernetesArgs) -> Result<Cluster, AgentError> {
    let KubernetesArgs {
        kubernetes: _,
        controller,
        trust_dir,
        token_file,
        state_dir,
        cni_bin_dir,
        cni_conf_dir,
        host_proc: _,
    } = args;
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let namespace = variable("POD_NAMESPACE").unwrap_or_else(|| "warren-system".to_owned());
    Ok(Cluster {
        node: name
            .or_else(|| variable("NODE_NAME"))
            .ok_or(AgentError::NoName)?,
        pod: variable("POD_NAME"),
        controller: controller.unwrap_or_else(|| {
            // Kubernetes puts the Services of a pod's namespace into its environment, so that no name has to be resolved.
            let host = variable("WARREN_CONTROLLER_SERVICE_HOST");
            match host.as_deref().map(str::parse::<IpAddr>) {
                Some(Ok(address)) => SocketAddr::new(address, CONTROLLER_PORT).to_string(),
                _ => format!("{CONTROLLER}.{namespace}.svc:{CONTROLLER_PORT}"),
            }
        }),
        namespace,
        trust_dir,
        token_file,
        state_dir,
        cni_bin_dir,
        cni_conf_dir,
    })
}

/// The host's name.
pub(crate) fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

/// `warren`, below the agent's own cgroup. An agent that another one's command line started finds itself in that one's.
fn default_mesh_cgroup(mount: Option<&Path>) -> Option<PathBuf> {
    let own = preflight::own_cgroup(mount?)?;
    let inside = own.ancestors().find(|path| {
        path.file_name().is_some_and(|name| name == "warren") && path.parent().is_some()
    });
    match inside {
        // Started again from within: from `<mesh cgroup>/agent`.
        Some(mesh) if own.file_name().is_some_and(|name| name == "agent") => Some(mesh.to_owned()),
        _ => Some(own.join("warren")),
    }
}
