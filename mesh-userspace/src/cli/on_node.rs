//! What the pods do that `warren uninstall --kubernetes` runs on every node: see [`super::cluster_uninstall`].
//!
//! A mark in the run directory keeps agents from beginning anew while the node is being cleaned: the cluster goes on starting
//! them until their DaemonSet is gone. The first step sets it, the last one removes it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use super::args::{OnNode, UninstallArgs};
use super::output::clean;
use super::{CliError, Context, Exit};
use crate::agent::AgentError;
use crate::agent::host::Host;
use crate::agent::run_dir::Plugin;
use crate::agent::uninstall;
use crate::api::client::{Client, ClientError};

/// The node's processes, as the pod sees them.
const PROC: &str = "/proc";

/// What is kept across restarts of the node, there.
const STATE_DIR: &str = "/var/lib/warren";

/// The folders of the CNI, where the pod has them mounted.
const CNI_BIN_DIR: &str = "/opt/cni/bin";
const CNI_CONF_DIR: &str = "/etc/cni/net.d";

/// The cgroup of the mesh, below the root of the node's.
const MESH_CGROUP: &str = "warren-mesh";

/// The mark.
const MARK: &str = "uninstalling";

/// How long the agent may take: its workloads' connections end in their own time, within limits.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a node is looked at that an agent is just leaving, or starting on.
const LOOK: Duration = Duration::from_millis(250);

/// An agent that had begun before the mark was set has taken the node within this.
const SETTLE: Duration = Duration::from_secs(2);

/// Waits until told to end, if this node is being cleaned: an agent must not begin then.
pub(crate) fn wait_while_cleaned(run_dir: &Path) -> Result<bool, CliError> {
    if !run_dir.join(MARK).exists() {
        return Ok(false);
    }
    tracing::info!("Warren is being removed from this node; waiting to be ended");
    until_ended()?;
    Ok(true)
}

/// Does a step.
pub(crate) async fn run(
    context: &mut Context<'_>,
    args: &UninstallArgs,
    step: OnNode,
) -> Result<Exit, CliError> {
    let node = Node::new(args);
    match step {
        OnNode::Open => node.open(context, args.cluster.open_for).await,
        OnNode::Wait => until_ended().map(|()| Exit::Ok),
        OnNode::Clean => node.clean(context).await,
        OnNode::Stay => node.stay(),
    }
}

/// The node, through its first process. Its folders are not mounts here: what is to be removed must not be one.
struct Node {
    host: Host,
    run_dir: PathBuf,
    state_dir: PathBuf,
    places: uninstall::Places,
}

impl Node {
    fn new(args: &UninstallArgs) -> Self {
        let host = Host::behind(Path::new(PROC));
        let run_dir = args
            .run_dir
            .clone()
            .unwrap_or_else(|| host.path(Path::new(crate::api::DEFAULT_RUN_DIR)));
        let cgroup_root = args.cgroup_root.clone().or_else(|| host.cgroup2());
        let mesh_cgroup = args
            .mesh_cgroup
            .clone()
            .or_else(|| Some(cgroup_root.as_ref()?.join(MESH_CGROUP)));
        Self {
            state_dir: host.path(Path::new(STATE_DIR)),
            places: uninstall::Places {
                run_dir: run_dir.clone(),
                bpffs: args.bpffs.clone(),
                cgroup_root,
                mesh_cgroup,
            },
            host,
            run_dir,
        }
    }

    /// Has the agent open the mesh. Without one nothing can, and nothing must: connections go on as they are until this node
    /// is cleaned.
    async fn open(&self, context: &mut Context<'_>, within: Duration) -> Result<Exit, CliError> {
        let open = format!("open?seconds={}", within.as_secs());
        match self.agent().post::<()>(&open).await {
            Ok(()) => say(context, &["the mesh is open".to_owned()])?,
            Err(ClientError::Unreachable { .. } | ClientError::Broken { .. }) => {
                eprintln!("there is no agent that could open the mesh");
            }
            Err(error) => eprintln!("the agent does not open the mesh: {error}"),
        }
        Ok(Exit::Ok)
    }

    /// Gives everything back, and makes sure that it stays so.
    async fn clean(&self, context: &mut Context<'_>) -> Result<Exit, CliError> {
        let mark = self.run_dir.join(MARK);
        fs::create_dir_all(&self.run_dir)
            .and_then(|()| fs::write(&mark, ""))
            .map_err(|source| CliError::Io {
                what: format!(
                    "cannot write {}, which keeps agents from beginning",
                    mark.display()
                ),
                source,
            })?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.let_agent_leave(context).await?;
            self.offline(context, deadline).await?;
            tokio::time::sleep(SETTLE).await;
            if self.is_nobodys() {
                return Ok(Exit::Ok);
            }
            if Instant::now() >= deadline {
                return Err(CliError::TimedOut(
                    "an agent takes this node again and again, although it is being cleaned; is it another release?".to_owned(),
                ));
            }
        }
    }

    fn agent(&self) -> Client {
        Client::of_node(&self.run_dir.join(crate::api::SOCKET_NAME), PATIENCE)
    }

    /// An agent that runs knows how to leave while connections go on.
    async fn let_agent_leave(&self, context: &mut Context<'_>) -> Result<(), CliError> {
        match self.agent().post::<Vec<String>>("uninstall").await {
            Ok(done) => say(context, &done),
            Err(ClientError::Unreachable { .. } | ClientError::Broken { .. }) => Ok(()),
            Err(error) => {
                eprintln!("the agent does not leave by itself: {error}");
                Ok(())
            }
        }
    }

    /// Whatever earlier agents left, and all of it where none runs.
    async fn offline(&self, context: &mut Context<'_>, deadline: Instant) -> Result<(), CliError> {
        loop {
            match uninstall::offline(&self.places) {
                Ok(done) => say(context, &done)?,
                Err(AgentError::Running { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            }
            // Also where a restart of the node has made it forget that there is a plugin.
            let plugin = Plugin {
                bin_dir: self.host.path_on_it(Path::new(CNI_BIN_DIR)),
                conf_dir: self.host.path_on_it(Path::new(CNI_CONF_DIR)),
                state_dir: STATE_DIR.into(),
                run_dir: crate::api::DEFAULT_RUN_DIR.into(),
            };
            let done = uninstall::plugin_away(&self.host, &plugin).map_err(failed)?;
            return say(context, &done);
        }
    }

    /// Whether there is nothing but the mark.
    fn is_nobodys(&self) -> bool {
        let Ok(entries) = fs::read_dir(&self.run_dir) else {
            return false;
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        names.into_iter().all(|name| name == MARK)
    }

    /// Waits for the end, which comes when the agents' DaemonSet is gone; then nothing needs the mark and the folders.
    fn stay(&self) -> Result<Exit, CliError> {
        until_ended()?;
        for folder in [&self.run_dir, &self.state_dir] {
            match fs::remove_dir_all(folder) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(CliError::Io {
                        what: format!("cannot remove {}", folder.display()),
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(Exit::Ok)
    }
}

fn until_ended() -> Result<(), CliError> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals
        .thread_block()
        .and_then(|()| signals.wait())
        .map(drop)
        .map_err(|error| CliError::failed("cannot wait for the end", error))
}

fn failed(error: AgentError) -> CliError {
    match error {
        error @ AgentError::NotRoot => CliError::NotPermitted(error.to_string()),
        error => CliError::failed("this node could not be cleaned", error),
    }
}

fn say(context: &mut Context<'_>, done: &[String]) -> Result<(), CliError> {
    for line in done {
        writeln!(context.out, "{}", clean(line))?;
    }
    Ok(context.out.flush()?)
}
