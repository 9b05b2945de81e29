//! `cargo xtask kubernetes`: a real Kubernetes cluster on this machine, to try things in and for the stories that only a
//! real one can tell. The cluster itself is the binary `warren-kubernetes` of the tests' package; here what it needs is
//! seen to.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use crate::{deps, run, workspace};

/// Programs with which the parts of a cluster are made, once.
const TO_MAKE: &[&str] = &[
    "cc",
    "debootstrap",
    "dpkg-source",
    "go",
    "jq",
    "make",
    "rsync",
];

/// Programs of which a running cluster consists, beside those that were made.
const TO_RUN: &[&str] = &["bpftool", "curl", "etcd", "ip"];

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make what clusters are brought up from: about 10 minutes, once. `up` does it by itself.
    Setup,
    /// Bring a cluster up, and print how to use it; it goes on until `down`.
    Up {
        /// How many nodes.
        #[arg(long, default_value_t = 2)]
        nodes: u8,
    },
    /// Take the cluster down, with everything in it.
    Down,
    /// What there is: cache, cluster, nodes; exit code 1 when no cluster runs.
    Status,
    /// Import images on every node, from archives such as `cargo xtask image` makes.
    Import {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Run a program where it reaches the API server, with KUBECONFIG set: `exec kubectl get nodes`.
    Exec {
        /// The program and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "a cluster's nodes are made of namespaces, which needs root; run `sudo -E cargo xtask kubernetes`"
        );
    }
    build()?;
    let mut program = helper();
    match &options.verb {
        Verb::Setup => return setup(),
        Verb::Up { nodes } => {
            prepare()?;
            program.args(["up", "--nodes", &nodes.to_string()]);
        }
        Verb::Down => {
            program.arg("down");
        }
        Verb::Status => {
            program.arg("status");
        }
        Verb::Import { archives } => {
            program.arg("import").args(archives);
        }
        Verb::Exec { words } => {
            program.args(["exec", "--"]).args(words);
        }
    }
    // In our place, so that Ctrl-C reaches it alone, and the terminal waits until it has cleaned up.
    Err(program.exec()).with_context(|| format!("run {}", run::words(&program)))
}

/// Whether what clusters are brought up from has been made; the binaries of the tests' package have been built.
fn is_made() -> Result<bool> {
    let check = helper()
        .args(["setup", "--check"])
        .output()
        .context("start warren-kubernetes")?;
    Ok(check.status.success())
}

/// Makes what clusters are brought up from, unless it is there.
fn setup() -> Result<()> {
    if is_made()? {
        return Ok(());
    }
    deps::ensure(TO_MAKE)?;
    run::step(helper().arg("setup"))
}

fn build() -> Result<()> {
    run::step(workspace::cargo().args(["build", "--package", "mesh-tests", "--bins"]))
}

fn helper() -> Command {
    Command::new(workspace::target().join("debug").join("warren-kubernetes"))
}

/// Sees to everything that a cluster needs; an error says why there can be none on this machine.
pub(crate) fn prepare() -> Result<()> {
    build()?;
    setup()?;
    deps::ensure(TO_RUN)
}

/// A cluster for stories: the one that runs already, or one that is taken down at the end.
pub(crate) struct Running {
    ours: bool,
}

impl Running {
    /// Brings one up, unless one runs, after [`prepare`].
    pub(crate) fn bring_up() -> Result<Self> {
        let status = helper()
            .arg("status")
            .output()
            .context("start warren-kubernetes")?;
        if status.status.success() {
            eprintln!("the stories are told in the cluster that runs on this machine");
            return Ok(Self { ours: false });
        }
        run::step(helper().arg("up"))?;
        Ok(Self { ours: true })
    }

    /// A command that runs where it reaches the API server, with `WARREN_KUBECONFIG` set.
    pub(crate) fn within(&self, command: &Command) -> Command {
        let mut within = helper();
        within
            .args(["exec", "--"])
            .arg(command.get_program())
            .args(command.get_args());
        if let Some(folder) = command.get_current_dir() {
            within.current_dir(folder);
        }
        let set = command.get_envs();
        within.envs(set.filter_map(|(name, value)| value.map(|value| (name, value))));
        within
    }

    /// Whether it was brought up for the stories.
    pub(crate) fn is_ours(&self) -> bool {
        self.ours
    }

    /// Takes it down, if it was brought up for the stories; an error when something is left.
    pub(crate) fn take_down(mut self) -> Result<()> {
        if !std::mem::replace(&mut self.ours, false) {
            return Ok(());
        }
        run::step(helper().arg("down"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = run::step(helper().arg("down"))
        {
            eprintln!("{error:#}");
        }
    }
}
