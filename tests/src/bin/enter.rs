//! `warren-enter [--namespace NAME] [--cgroup FOLDER] -- PROGRAM…`: becomes a program inside a network namespace and a
//! cgroup. Unlike `ip netns exec` it leaves the mounts alone, so that cgroups and pins stay visible.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Parser;
use nix::sched::{CloneFlags, setns};

#[derive(Parser)]
#[command(
    name = "warren-enter",
    about = "Run a program in a network namespace and a cgroup"
)]
struct Arguments {
    /// Name below /run/netns, or a path.
    #[arg(long)]
    namespace: Option<PathBuf>,
    /// Folder of the cgroup.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

fn main() -> Result<()> {
    let Arguments {
        namespace,
        cgroup,
        program,
    } = Arguments::parse();
    if let Some(cgroup) = cgroup {
        // 0 stands for the writing process.
        fs::write(cgroup.join("cgroup.procs"), "0")
            .with_context(|| format!("enter the cgroup {}", cgroup.display()))?;
    }
    if let Some(namespace) = namespace {
        let path = Path::new("/run/netns").join(namespace);
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter the namespace {}", path.display()))?;
    }
    let (name, arguments) = program
        .split_first()
        .context("there is no program to run")?;
    let error = Command::new(name).args(arguments).exec();
    Err(error).with_context(|| format!("run {name}"))
}
