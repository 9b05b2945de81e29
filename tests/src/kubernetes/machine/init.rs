//! The first process of a node: makes the machine, starts its programs, and starts again what ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, wait};

use super::super::cache::Cache;
use super::super::layout::{Node, PODS};
use super::STARTED;
use super::root::{self, COMPONENTS, IMAGES};
use super::settings::{self, KUBERNETES};
use crate::eventually::until;

/// Where programs are found in a node.
pub(super) const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin:/opt/kubernetes";

const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// As service managers have it: what fails at once is not started without end.
const PAUSE: Duration = Duration::from_secs(1);

/// A program that is to run for as long as the node does.
#[derive(Clone, Debug)]
struct Service {
    name: &'static str,
    /// Others run at the usual priority: what pods run inherits that of containerd.
    nice: bool,
    arguments: Vec<String>,
}

/// Becomes the node; does not come back.
pub fn init(node: Node, cache: &Path) -> Result<()> {
    let cache = Cache::at(cache);
    let name = node.name();
    fs::write("/proc/sys/kernel/hostname", &name).context("set the host name")?;
    let root = root::make(node, &cache)?;
    settings::write(node, &root)?;
    root::enter(&root)?;
    for (setting, value) in [("ip_forward", "1"), ("conf/all/route_localnet", "1")] {
        let path = format!("/proc/sys/net/ipv4/{setting}");
        fs::write(&path, value).with_context(|| format!("write {path}"))?;
    }
    up_loopback()?;

    let mut running = BTreeMap::new();
    start(containerd(), &mut running)?;
    until("containerd answers", Duration::from_secs(60), || {
        Ok(Path::new(CONTAINERD).exists())
    })?;
    import_images()?;
    for service in [kubelet(node), kube_proxy(&name)] {
        start(service, &mut running)?;
    }
    fs::write(STARTED, "").with_context(|| format!("write {STARTED}"))?;
    supervise(running)
}

fn up_loopback() -> Result<()> {
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .env("PATH", PATH)
        .status()
        .context("start ip")?;
    ensure!(status.success(), "set the loopback interface up: {status}");
    Ok(())
}

fn containerd() -> Service {
    Service {
        name: "containerd",
        nice: false,
        arguments: Vec::new(),
    }
}

fn kubelet(node: Node) -> Service {
    let name = node.name();
    Service {
        name: "kubelet",
        nice: true,
        arguments: vec![
            format!("--config={KUBERNETES}/kubelet.yaml"),
            format!("--kubeconfig={KUBERNETES}/{name}.kubeconfig"),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", node.address()),
            "--container-runtime=remote".to_owned(),
            format!("--container-runtime-endpoint=unix://{CONTAINERD}"),
            // Without CAP_SYS_RESOURCE nobody's score may be lowered.
            "--oom-score-adj=0".to_owned(),
            "--v=2".to_owned(),
        ],
    }
}

fn kube_proxy(name: &str) -> Service {
    Service {
        name: "kube-proxy",
        nice: true,
        arguments: vec![
            format!("--kubeconfig={KUBERNETES}/kube-proxy.kubeconfig"),
            format!("--hostname-override={name}"),
            format!("--cluster-cidr={PODS}"),
            "--proxy-mode=iptables".to_owned(),
            // Settings of the whole machine: they stay as they are.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0s".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
            "--oom-score-adj=0".to_owned(),
        ],
    }
}

fn start(service: Service, running: &mut BTreeMap<i32, Service>) -> Result<()> {
    let path = format!("/var/log/{}.log", service.name);
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {path}"))?;
    let own = Path::new(COMPONENTS).join(service.name);
    let program = if own.exists() {
        own
    } else {
        Path::new("/usr/bin").join(service.name)
    };
    let mut command = if service.nice {
        let mut nice = Command::new("/usr/bin/nice");
        nice.args(["-n", "10"]).arg(program);
        nice
    } else {
        Command::new(program)
    };
    let child = command
        .args(&service.arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {}", service.name))?;
    let process = i32::try_from(child.id()).context("its process id is out of range")?;
    running.insert(process, service);
    Ok(())
}

/// The words that import an image from an archive.
pub(super) fn import(archive: &str) -> [String; 6] {
    ["ctr", "--namespace", "k8s.io", "image", "import", archive].map(str::to_owned)
}

fn import_images() -> Result<()> {
    for entry in fs::read_dir(IMAGES).with_context(|| format!("read {IMAGES}"))? {
        let archive = entry.with_context(|| format!("read {IMAGES}"))?.path();
        let words = import(&archive.to_string_lossy());
        let status = Command::new(&words[0])
            .args(&words[1..])
            .env("PATH", PATH)
            .stdout(Stdio::null())
            .status()
            .context("start ctr")?;
        ensure!(status.success(), "import {}: {status}", archive.display());
    }
    Ok(())
}

/// Every process that loses its parent becomes a child of this one.
fn supervise(mut running: BTreeMap<i32, Service>) -> Result<()> {
    loop {
        let process = match wait() {
            Ok(WaitStatus::Exited(process, _) | WaitStatus::Signaled(process, ..)) => process,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) => {
                thread::sleep(PAUSE);
                continue;
            }
            Err(error) => return Err(error).context("wait for the node's processes"),
        };
        if let Some(service) = running.remove(&process.as_raw()) {
            eprintln!("{} has ended; starting it again", service.name);
            thread::sleep(PAUSE);
            start(service, &mut running)?;
        }
    }
}
