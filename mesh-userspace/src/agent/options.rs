//! What was asked on the command line, with what was left open filled in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{AgentError, preflight};
use crate::cli::args::{LogArgs, NodeArgs, OnStop};

/// The options of a node.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The configuration.
    pub(crate) file: PathBuf,
    /// The node's name, when it was given; else the file or the host says it.
    pub(crate) name: Option<String>,
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
            log,
        } = args;
        let mount = preflight::cgroup2_mount();
        let cgroup_root = cgroup_root
            .or_else(|| mount.clone())
            .ok_or(AgentError::NoCgroup)?;
        let mesh_cgroup = match mesh_cgroup {
            Some(path) => path,
            None => default_mesh_cgroup(mount.as_deref()).ok_or(AgentError::NoCgroup)?,
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            file,
            name,
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
