//! One node: a network namespace with a bridge for its pods, a cgroup subtree, a bpffs folder, and its own agent.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::observe::{Status, last_lines};
use super::place::{Place, Selected, Selector};
use super::{Cluster, wire};
use crate::eventually::{eventually, until};
use crate::host::binary;
use crate::host::bpffs::BpfFolder;
use crate::host::cgroup::{Cgroup, processes_below};
use crate::host::command;
use crate::host::namespace::Namespace;
use crate::host::process::{Launch, Process};

/// How long an agent may take until it is ready.
const READY: Duration = Duration::from_secs(30);

/// Where metrics and health are served.
pub(super) const METRICS: u16 = 15_020;
pub(super) const HEALTH: u16 = 15_021;

/// A node of the cluster.
pub struct Node {
    name: String,
    number: u8,
    folder: PathBuf,
    file: PathBuf,
    places: AtomicU8,
    agent: Mutex<Option<Process>>,
    bpf: BpfFolder,
    cgroup: Arc<Cgroup>,
    namespace: Arc<Namespace>,
}

impl Node {
    pub(super) fn create(
        cluster: &Cluster,
        name: &str,
        number: u8,
        namespace: Arc<Namespace>,
    ) -> Result<Self> {
        let folder = cluster.folder().join(name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        namespace.ip(&format!(
            "link add pods type bridge\naddr add 10.{number}.0.1/24 dev pods\n\
             addr add fd00:{number}::1/64 dev pods nodad\nlink set pods up"
        ))?;
        Ok(Self {
            name: name.to_owned(),
            number,
            file: cluster.file(),
            places: AtomicU8::new(2),
            agent: Mutex::new(None),
            bpf: BpfFolder::create(folder.join("bpf"))?,
            cgroup: Arc::new(cluster.cgroup.child(name)?),
            folder,
            namespace,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The cgroup below which processes are captured.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The folder of its pins.
    pub fn bpf(&self) -> &BpfFolder {
        &self.bpf
    }

    /// Its address on the wire.
    pub fn address(&self) -> Ipv4Addr {
        wire::address4(self.number)
    }

    /// Its IPv6 address on the wire.
    pub fn address6(&self) -> Ipv6Addr {
        wire::address6(self.number)
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_folder().join("node.sock")
    }

    fn run_folder(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Its files.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn mesh_cgroup(&self) -> PathBuf {
        self.cgroup.path().join("mesh")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// Makes a pod: a namespace with a veth pair to the node's bridge, and a cgroup.
    pub fn pod(&self, name: &str) -> Result<Place> {
        let (node, host) = (self.number, self.places.fetch_add(1, Ordering::Relaxed));
        let namespace = Namespace::create(&format!("{}-{name}", self.namespace.name()))?;
        self.namespace.ip(&format!(
            "link add {link} type veth peer name eth0 netns {}\nlink set {link} master pods up",
            namespace.name(),
            link = Self::link_of(name),
        ))?;
        namespace.ip(&format!(
            "addr add 10.{node}.0.{host}/24 dev eth0\naddr add fd00:{node}::{host:x}/64 dev eth0 nodad\n\
             link set eth0 up\nroute add default via 10.{node}.0.1\nroute add default via fd00:{node}::1"
        ))?;
        let mut place = Place::new(
            name,
            Arc::new(namespace),
            Arc::new(self.cgroup.child(&format!("pods/{name}"))?),
            Ipv4Addr::new(10, node, 0, host),
            Ipv6Addr::new(0xfd00, node.into(), 0, 0, 0, 0, 0, host.into()),
        );
        place.selected = Some(Selected {
            node: self.name.clone(),
            by: Selector::Namespace,
        });
        Ok(place)
    }

    /// Makes a place for a service on the host itself: the node's own namespace, a cgroup of its own.
    pub fn host_service(&self, name: &str, ports: &[u16]) -> Result<Place> {
        let mut place = Place::new(
            name,
            Arc::clone(&self.namespace),
            Arc::new(self.cgroup.child(&format!("services/{name}"))?),
            self.address(),
            self.address6(),
        );
        place.selected = Some(Selected {
            node: self.name.clone(),
            by: Selector::Cgroup {
                ports: ports.to_vec(),
            },
        });
        Ok(place)
    }

    /// The node's end of a pod's veth pair. Interface names have at most 15 characters.
    pub fn link_of(pod: &str) -> String {
        format!("v-{pod}").chars().take(15).collect()
    }

    /// Starts the agent; does not wait for it.
    pub fn start(&self) -> Result<()> {
        self.start_with(&self.file)
    }

    /// Starts the agent with another configuration file than the cluster's.
    pub fn start_with(&self, file: &Path) -> Result<()> {
        self.start_from(Launch::new(binary::warren()?), file)
    }

    /// Starts the agent by a program that becomes what its last arguments name.
    pub(super) fn start_through(&self, program: Launch) -> Result<()> {
        self.start_from(program.args([binary::warren()?]), &self.file)
    }

    fn start_from(&self, program: Launch, file: &Path) -> Result<()> {
        let run = self.run_folder();
        fs::create_dir_all(&run).with_context(|| format!("create {}", run.display()))?;
        let agent = program
            .args(["node", "--name", &self.name, "--file"])
            .args([file])
            .args(["--run-dir".as_ref(), run.as_path()])
            .args(["--bpffs".as_ref(), self.bpf.path()])
            .args(["--cgroup-root".as_ref(), self.cgroup.path()])
            .args(["--mesh-cgroup".as_ref(), self.mesh_cgroup().as_path()])
            .args(["--metrics-listen", &format!("0.0.0.0:{METRICS}")])
            .args(["--health-listen", &format!("0.0.0.0:{HEALTH}")])
            .env(
                "WARREN_LOG",
                std::env::var_os("WARREN_LOG")
                    .unwrap_or_else(|| "debug,aya=info,aya_obj=info,rustls=info".into()),
            )
            .namespace(self.namespace.name())
            .cgroup(&self.system_cgroup()?)
            .log(&self.log())
            .start()?;
        *self.agent() = Some(agent);
        Ok(())
    }

    /// Waits until the agent is ready and every workload of the node is enrolled.
    pub fn wait_ready(&self) -> Result<()> {
        self.wait_status("the node is ready", READY, |status| {
            status.ready
                && status.workloads.waiting == 0
                && status.workloads.preparing == 0
                && status.configuration.applied_generation == status.configuration.generation
        })
        .map(drop)
    }

    /// Waits until the status is as wanted.
    pub fn wait_status(
        &self,
        what: &str,
        within: Duration,
        holds: impl Fn(&Status) -> bool,
    ) -> Result<Status> {
        let mut last = None;
        eventually(&format!("node {}: {what}", self.name), within, || {
            if !self.is_running() {
                bail!("the agent has ended; its log is below");
            }
            let status = self.status()?;
            if holds(&status) {
                return Ok(Some(status));
            }
            last = Some(status);
            Ok(None)
        })
        .with_context(|| format!("the last status was {last:#?}"))
    }

    /// Whether the agent runs.
    pub fn is_running(&self) -> bool {
        self.agent()
            .as_mut()
            .is_some_and(|agent| agent.is_running().unwrap_or(false))
    }

    /// The agent's process id.
    pub fn agent_id(&self) -> Result<i32> {
        let agent = self.agent();
        let agent = agent
            .as_ref()
            .ok_or_else(|| anyhow!("no agent on {}", self.name))?;
        i32::try_from(agent.id()).context("its process id is out of range")
    }

    /// Process ids of the workers, old and new.
    pub fn worker_ids(&self) -> Vec<i32> {
        fs::read_dir(self.mesh_cgroup())
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("worker-"))
            .flat_map(|entry| processes_below(&entry.path()))
            .collect()
    }

    /// Ends the agent as the service manager would: SIGTERM, and waits.
    pub fn stop_agent(&self) -> Result<()> {
        self.take_agent()?.stop().map(drop)
    }

    /// Kills the agent; workers go on.
    pub fn kill_agent(&self) -> Result<()> {
        self.take_agent()?.kill()
    }

    /// Stops the agent where it stands, as a node does that is cut off from everything; [`Node::resume_agent`] lets it go on.
    pub fn pause_agent(&self) -> Result<()> {
        self.signal_agent(Signal::SIGSTOP)
    }

    /// Lets a paused agent go on.
    pub fn resume_agent(&self) -> Result<()> {
        self.signal_agent(Signal::SIGCONT)
    }

    fn signal_agent(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.agent_id()?), signal)
            .with_context(|| format!("send {signal} to the agent of {}", self.name))
    }

    /// Kills the workers; the agent starts another.
    pub fn kill_workers(&self) -> Result<()> {
        let workers = self.worker_ids();
        if workers.is_empty() {
            bail!("there is no worker on {}", self.name);
        }
        self.kill_all(&workers)
    }

    /// Kills agent and workers at the same moment.
    pub fn kill_both(&self) -> Result<()> {
        // The agent first, or it would start another worker.
        self.kill_agent()?;
        self.kill_all(&self.worker_ids())
    }

    fn kill_all(&self, processes: &[i32]) -> Result<()> {
        for process in processes {
            kill(Pid::from_raw(*process), Signal::SIGKILL)
                .with_context(|| format!("kill process {process} on {}", self.name))?;
        }
        until("killed processes are gone", Duration::from_secs(5), || {
            Ok(!self
                .worker_ids()
                .iter()
                .any(|worker| processes.contains(worker)))
        })
    }

    /// Removes everything that Warren put on this node, and waits for the agent's end.
    pub fn uninstall(&self) -> Result<()> {
        let running = self.agent().take();
        let output = self.cli(&[
            "uninstall",
            "--bpffs",
            &self.bpf.path().to_string_lossy(),
            "--cgroup-root",
            &self.cgroup.path().to_string_lossy(),
            "--mesh-cgroup",
            &self.mesh_cgroup().to_string_lossy(),
            "--run-dir",
            &self.run_folder().to_string_lossy(),
        ])?;
        if output.code != 0 {
            bail!(
                "`warren uninstall` failed ({}): {}{}",
                output.code,
                output.stdout,
                output.stderr
            );
        }
        if let Some(mut agent) = running {
            agent.wait(Duration::from_secs(20))?;
        }
        Ok(())
    }

    /// The cgroup in which the node's own programs run.
    pub(super) fn system_cgroup(&self) -> Result<PathBuf> {
        let path = self.cgroup.path().join("system");
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// Resident memory of a process, in KiB.
    pub fn memory_of(process: i32) -> Result<u64> {
        let path = format!("/proc/{process}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
            .ok_or_else(|| anyhow!("{path} has no VmRSS"))
    }

    /// The end of the agent's log, for a story that failed.
    pub fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let flows = self
            .cli(&["flows", "--last", "15"])
            .map(|output| output.stdout)
            .unwrap_or_default();
        format!(
            "--- log of node {name}, its end\n{}\n--- flows of node {name}, the last\n{flows}\n",
            last_lines(&log, 80),
            name = self.name
        )
    }

    /// The agent's log.
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn agent(&self) -> MutexGuard<'_, Option<Process>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_agent(&self) -> Result<Process> {
        self.agent()
            .take()
            .ok_or_else(|| anyhow!("no agent runs on {}", self.name))
    }
}

/// Hardware address of an interface in a namespace.
pub fn hardware_address(namespace: &Namespace, interface: &str) -> Result<String> {
    let output = namespace.ip_output(&["-o", "link", "show", "dev", interface])?;
    output
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1)
        .map(str::to_owned)
        .ok_or_else(|| anyhow!("{interface} has no hardware address: {output}"))
}

/// Kernel programs attached to an interface, as `bpftool net` shows them.
pub fn attached_programs(namespace: &Namespace) -> Result<String> {
    namespace.enter(|| command::run("bpftool", &["net", "show"]))?
}
