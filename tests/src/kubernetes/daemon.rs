//! Programs that go on after whoever started them has ended: the parts of a cluster. They are found again, and ended, by
//! their cgroup.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::host::binary;

/// A program about to be started.
#[derive(Debug)]
pub(super) struct Daemon {
    program: OsString,
    arguments: Vec<OsString>,
    log: PathBuf,
}

impl Daemon {
    pub(super) fn new(program: impl AsRef<OsStr>, log: &Path) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            log: log.to_owned(),
        }
    }

    #[must_use]
    pub(super) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    /// Starts it in a network namespace and a cgroup, behind whatever else the machine does.
    pub(super) fn start_in(self, namespace: &str, cgroup: &Path) -> Result<Child> {
        let mut command = Command::new(binary::helper("warren-enter")?);
        command
            .args(["--namespace", namespace, "--cgroup"])
            .arg(cgroup)
            .args(["--", "nice", "-n", "10"])
            .arg(&self.program);
        self.detach(command)
    }

    /// Starts it where we are.
    pub(super) fn start(self) -> Result<Child> {
        let command = Command::new(&self.program);
        self.detach(command)
    }

    fn detach(self, mut command: Command) -> Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            // Ctrl-C at the terminal is not meant for it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", self.program.to_string_lossy()))
    }
}
