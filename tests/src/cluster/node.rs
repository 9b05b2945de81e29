//! One node: a network namespace with a bridge for its pods, a cgroup subtree, a bpffs folder, and its own agent.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::observe::{Flow, Status, last_lines};
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
const METRICS: u16 = 15_020;
const HEALTH: u16 = 15_021;

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
        let run = self.run_folder();
        fs::create_dir_all(&run).with_context(|| format!("create {}", run.display()))?;
        let system = self.cgroup.path().join("system");
        fs::create_dir_all(&system).with_context(|| format!("create {}", system.display()))?;
        let agent = Launch::new(binary::warren()?)
            .args(["node", "--name", &self.name, "--file"])
            .args([&self.file])
            .args(["--run-dir".as_ref(), run.as_path()])
            .args(["--bpffs".as_ref(), self.bpf.path()])
            .args(["--cgroup-root".as_ref(), self.cgroup.path()])
            .args(["--mesh-cgroup".as_ref(), self.mesh_cgroup().as_path()])
            .args(["--metrics-listen", &format!("0.0.0.0:{METRICS}")])
            .args(["--health-listen", &format!("0.0.0.0:{HEALTH}")])
            .env(
                "WARREN_LOG",
                std::env::var_os("WARREN_LOG").unwrap_or_else(|| "debug".into()),
            )
            .namespace(self.namespace.name())
            .cgroup(&system)
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

    /// Runs a verb of the command line against this node.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.cli_command(arguments)?.finish()
    }

    /// A verb of the command line against this node, to run.
    pub fn cli_command(&self, arguments: &[&str]) -> Result<Verb> {
        let launch = Launch::new(binary::warren()?)
            .args(["--socket".as_ref(), self.socket().as_path()])
            .args(arguments)
            .namespace(self.namespace.name())
            .cgroup(&self.system_cgroup()?);
        Ok(Verb(launch))
    }

    /// The cgroup in which the node's own programs run.
    fn system_cgroup(&self) -> Result<PathBuf> {
        let path = self.cgroup.path().join("system");
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// Its status.
    pub fn status(&self) -> Result<Status> {
        let output = self.cli(&["status", "-o", "json"])?;
        if output.code != 0 {
            bail!(
                "`warren status` failed ({}): {}",
                output.code,
                output.stderr
            );
        }
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("a status: {:?}", output.stdout))
    }

    /// Its flows, oldest first, with filters of `warren flows`.
    pub fn flows(&self, filters: &[&str]) -> Result<Vec<Flow>> {
        let output = self.cli(&[&["flows", "--last", "5000", "-o", "json"], filters].concat())?;
        if output.code != 0 {
            bail!("`warren flows` failed ({}): {}", output.code, output.stderr);
        }
        output
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("a flow: {line:?}")))
            .collect()
    }

    /// Waits for a flow.
    pub fn wait_flow(
        &self,
        what: &str,
        filters: &[&str],
        is: impl Fn(&Flow) -> bool,
    ) -> Result<Flow> {
        let mut seen = Vec::new();
        eventually(
            &format!("node {}: a flow: {what}", self.name),
            Duration::from_secs(8),
            || {
                seen = self.flows(filters)?;
                Ok(seen.iter().find(|flow| is(flow)).cloned())
            },
        )
        .with_context(|| {
            let shown: Vec<String> = seen
                .iter()
                .rev()
                .take(10)
                .map(|flow| format!("{flow:?}"))
                .collect();
            format!(
                "{} flows, the last of which:\n{}",
                seen.len(),
                shown.join("\n")
            )
        })
    }

    /// How often the kernel half did something, by the reason's label.
    pub fn kernel_count(&self, reason: &str) -> Result<u64> {
        Ok(self
            .status()?
            .kernel
            .counters
            .get(reason)
            .copied()
            .unwrap_or_default())
    }

    /// The metrics, as Prometheus would read them.
    pub fn metrics(&self) -> Result<String> {
        let (code, body) = self.http(METRICS, "/metrics")?;
        if code != 200 {
            bail!("metrics answered {code}: {body}");
        }
        Ok(body)
    }

    /// The status code of a health path.
    pub fn health(&self, path: &str) -> Result<u16> {
        Ok(self.http(HEALTH, path)?.0)
    }

    fn http(&self, port: u16, path: &str) -> Result<(u16, String)> {
        self.namespace
            .http_get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path)
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
        format!(
            "--- log of node {}, its end\n{}\n",
            self.name,
            last_lines(&log, 80)
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

/// A verb of the command line, to run.
pub struct Verb(Launch);

impl Verb {
    /// Adds an environment variable.
    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        Self(self.0.env(name, value))
    }

    /// Runs it to its end.
    pub fn finish(&self) -> Result<Output> {
        let output = self
            .0
            .command()?
            .stdin(std::process::Stdio::null())
            .output()
            .context("start warren")?;
        Ok(Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts it, to read what it says line by line.
    pub fn start(&self) -> Result<Process> {
        self.0.start()
    }
}

/// What a verb of the command line answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
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

/// Whether a path exists in the node's bpffs.
pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
