//! A node: a machine made of namespaces. Its first process makes the root file system, starts containerd, kubelet and
//! kube-proxy, and reaps; when it ends, everything in the machine ends with it.
//!
//! From outside: [`start`], [`Machine`]. Inside, in this order: [`enter`] (the helper that leaves our namespaces),
//! [`init()`] (the first process): `root` (mounts), `settings` (files), then the programs.

mod init;
mod root;
mod settings;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

pub use init::init;

use super::build::tail;
use super::cache::Cache;
use super::daemon::Daemon;
use super::layout::Node;
use super::{hierarchy, network};
use crate::eventually::until;
use crate::host::binary;
use crate::host::command::finish;
use crate::host::namespace::{FOLDER, http_get};

/// The program that has [`enter`] and [`init()`], among others, as its modes.
pub(super) const HELPER: &str = "warren-kubernetes";

/// Importing images, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Starts a node in its network namespace, which is there already; comes back when its kubelet was started.
pub(super) fn start(node: Node, cache: &Cache) -> Result<()> {
    let folder = node.folder();
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    hierarchy::create(&node.namespace())?;
    let status = Daemon::new(binary::helper(HELPER)?, &node.log())
        .args(["machine", &node.0.to_string()])
        .args([cache.folder()])
        .start()?
        .wait()
        .context("wait for the machine's helper")?;
    ensure!(
        status.success(),
        "{} was not made: {status}; {}",
        node.name(),
        tail(&node.log())
    );
    Ok(())
}

/// Waits until a started node has begun to run its kubelet.
pub(super) fn wait_started(node: Node) -> Result<()> {
    let machine = Machine::of(node)?;
    let started = until("the kubelet runs", PATIENCE, || {
        ensure!(machine.is_running(), "the first process has ended");
        Ok(machine.path(STARTED).exists())
    });
    started.with_context(|| format!("{}: {}", node.name(), tail(&node.log())))
}

/// In a node's folder: the process id of its first process.
const INIT: &str = "init.pid";

/// In the node: all of its programs were started.
const STARTED: &str = "/run/started";

/// The helper: leaves our namespaces and starts a first process in new ones, which stays.
pub fn enter(node: Node, cache: &Path) -> Result<()> {
    hierarchy::join(&node.namespace())?;
    let network = Path::new(FOLDER).join(node.namespace());
    let file = fs::File::open(&network).with_context(|| format!("open {}", network.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("enter {}", network.display()))?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWCGROUP,
    )
    .context("make namespaces")?;
    // Nothing that is mounted here may be seen outside.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .context("make all mounts private")?;
    // The first child of a process that has left its process namespace is the first process of the new one. This one may
    // end: it has done its work.
    let child = Command::new(binary::helper(HELPER)?)
        .args(["init", &node.0.to_string()])
        .arg(cache)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("start the first process")?;
    let file = node.folder().join(INIT);
    fs::write(&file, child.id().to_string()).with_context(|| format!("write {}", file.display()))
}

/// A node that was started, seen from outside.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    node: Node,
    /// Its first process, as the machine's other processes see it.
    process: u32,
}

impl Machine {
    /// The machine of a node.
    pub fn of(node: Node) -> Result<Self> {
        let file = node.folder().join(INIT);
        let process = fs::read_to_string(&file)
            .with_context(|| format!("read {}", file.display()))?
            .parse()
            .with_context(|| format!("{} has no process id", file.display()))?;
        Ok(Self { node, process })
    }

    /// Its node.
    pub fn node(&self) -> Node {
        self.node
    }

    /// The process id of its first process, in our own process namespace.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        // Process ids are used again: the cgroup says whether it is still the same.
        fs::read_to_string(format!("/proc/{}/cgroup", self.process))
            .is_ok_and(|cgroups| cgroups.contains(&format!("/{}", self.node.namespace())))
    }

    /// A file of the node, from outside: also those on file systems that are mounted only inside.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.process))
    }

    /// A program in the node's namespaces, found in the node's own file system.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.process.to_string(),
                "--all",
                "--root",
                "--wd=/",
                "--",
            ])
            .args(words)
            .env("PATH", init::PATH)
            .stdin(Stdio::null());
        command
    }

    /// A program of ours, in the node's network.
    pub fn in_its_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--net".to_owned(), format!("--target={}", self.process)])
            .args(["--", program]);
        command
    }

    /// One HTTP request from the node's network; gives status code and body.
    pub fn http_get(&self, to: SocketAddr, path: &str) -> Result<(u16, String)> {
        network::enter(&self.node.namespace(), || http_get(to, path))
            .with_context(|| format!("GET http://{to}{path}"))
    }

    /// Runs a program in the node; gives its standard output.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.command(words).output().context("start nsenter")?;
        finish(
            &format!("{}: {}", self.node.name(), words.join(" ")),
            output,
        )
    }

    /// Imports an image from an archive on this machine.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let file =
            fs::File::open(archive).with_context(|| format!("open {}", archive.display()))?;
        let words = init::import("-");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = self
            .command(&words)
            .stdin(file)
            .output()
            .context("start nsenter")?;
        finish(
            &format!("{}: import {}", self.node.name(), archive.display()),
            output,
        )
        .map(drop)
    }

    /// Ends one of the node's programs (`kubelet`, `containerd`, `kube-proxy`) at once; the first process starts it again.
    pub fn kill(&self, program: &str) -> Result<()> {
        self.run(&["pkill", "-KILL", "--exact", program]).map(drop)
    }

    /// What one of the node's programs has written.
    pub fn log(&self, program: &str) -> String {
        tail(&self.path(&format!("/var/log/{program}.log")))
    }
}

/// Ends a node and everything in it, and removes what is borrowed from the machine for it; its files stay.
pub(super) fn end(node: Node) -> Result<()> {
    hierarchy::remove(&node.namespace())?;
    network::detach(node)?;
    network::remove(&node.namespace())
}

/// Ends a node and removes its files.
pub(super) fn remove(node: Node) -> Result<()> {
    end(node)?;
    let folder = node.folder();
    // Removed with the last process, whose end the kernel may still be busy with.
    until(
        "its mounts are gone",
        Duration::from_secs(10),
        || match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => bail!(error),
            _ => Ok(true),
        },
    )
    .with_context(|| format!("remove {}", folder.display()))
}
