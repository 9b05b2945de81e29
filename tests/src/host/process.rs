//! Starting programs inside a namespace and a cgroup, talking to them in lines, and ending them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::binary;
use crate::eventually::eventually;

/// How long a program may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program about to be started, through `warren-enter`, which becomes the program: same process id.
#[derive(Clone, Debug)]
pub struct Launch {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    namespace: Option<String>,
    cgroup: Option<PathBuf>,
    capabilities: Option<String>,
    user: Option<u32>,
    log: Option<PathBuf>,
}

impl Launch {
    /// A program by name or path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            namespace: None,
            cgroup: None,
            capabilities: None,
            user: None,
            log: None,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Runs it in this network namespace.
    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        self.namespace = Some(name.to_owned());
        self
    }

    /// Runs it in this cgroup.
    #[must_use]
    pub fn cgroup(mut self, path: &Path) -> Self {
        self.cgroup = Some(path.to_owned());
        self
    }

    /// Leaves it only these capabilities, e.g. `net_admin,net_raw`, as a container would.
    #[must_use]
    pub fn capabilities(mut self, names: &str) -> Self {
        self.capabilities = Some(names.to_owned());
        self
    }

    /// Runs it as another user, without supplementary groups.
    #[must_use]
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// Sends its output to a file, rather than to [`Process::line`].
    #[must_use]
    pub fn log(mut self, path: &Path) -> Self {
        self.log = Some(path.to_owned());
        self
    }

    /// The command as it will be started.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(binary::helper("warren-enter")?);
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        if let Some(cgroup) = &self.cgroup {
            command.arg("--cgroup").arg(cgroup);
        }
        command.arg("--");
        if let Some(names) = &self.capabilities {
            let kept: String = names.split(',').map(|name| format!(",+{name}")).collect();
            command
                .arg("setpriv")
                .arg(format!("--bounding-set=-all{kept}"))
                .arg(format!("--inh-caps=-all{kept}"));
        }
        if let Some(user) = self.user {
            command
                .args(["setpriv", "--clear-groups"])
                .arg(format!("--reuid={user}"))
                .arg(format!("--regid={user}"));
        }
        command.arg(&self.program).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Starts it.
    pub fn start(&self) -> Result<Process> {
        let name = Path::new(&self.program)
            .file_name()
            .unwrap_or(&self.program)
            .to_string_lossy()
            .into_owned();
        let mut command = self.command()?;
        command.stdin(Stdio::piped());
        if let Some(path) = &self.log {
            let log = File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("open {}", path.display()))?;
            command
                .stdout(log.try_clone().context("share the log")?)
                .stderr(log);
        } else {
            command.stdout(Stdio::piped());
        }
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let lines = child.stdout.take().map(read_lines);
        Ok(Process {
            name,
            stdin: child.stdin.take(),
            child,
            lines,
        })
    }

    /// Runs it to its end; gives exit status and standard output. Standard error goes with the story's own.
    pub fn output(&self) -> Result<(ExitStatus, String)> {
        let output = self
            .command()?
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("start {}", self.program.to_string_lossy()))?;
        Ok((
            output.status,
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    }

    /// Runs it to its end; gives its standard output. An error when it fails.
    pub fn run(&self) -> Result<String> {
        let (status, output) = self.output()?;
        if !status.success() {
            bail!("{self:?} failed: {status}\n{output}");
        }
        Ok(output)
    }
}

/// Lines arrive on a thread, so that waiting for one can have a deadline.
fn read_lines(output: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A running program; ended when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Option<Receiver<String>>,
}

impl Process {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self
            .stdin
            .as_mut()
            .ok_or_else(|| anyhow!("{} has no standard input", self.name))?;
        writeln!(stdin, "{line}").with_context(|| format!("write to {}", self.name))
    }

    /// Its next line.
    pub fn line(&self, within: Duration) -> Result<String> {
        let lines = self
            .lines
            .as_ref()
            .ok_or_else(|| anyhow!("the output of {} goes to a file", self.name))?;
        match lines.recv_timeout(within) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!(
                    "{} said nothing within {} ms",
                    self.name,
                    within.as_millis()
                )
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("{} ended without a further word", self.name)
            }
        }
    }

    /// Its next line; `None` when it has said its last.
    pub fn next_line(&self, within: Duration) -> Result<Option<String>> {
        let lines = self
            .lines
            .as_ref()
            .ok_or_else(|| anyhow!("the output of {} goes to a file", self.name))?;
        match lines.recv_timeout(within) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!(
                "{} said nothing within {} ms",
                self.name,
                within.as_millis()
            ),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        let ended = self
            .child
            .try_wait()
            .with_context(|| format!("look after {}", self.name))?;
        Ok(ended.is_none())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("its process id is out of range")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("signal {}", self.name))
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        eventually(&format!("{} ends", self.name), within, || {
            self.child.try_wait().map_err(Into::into)
        })
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(PATIENCE)
    }

    /// Asks it to end as Ctrl-C would, and waits.
    pub fn interrupt(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGINT)?;
        self.wait(PATIENCE)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .and_then(|()| self.child.wait().map(drop))
            .with_context(|| format!("end {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running().unwrap_or(false)
            && let Err(error) = self.kill()
        {
            eprintln!("{error:#}");
        }
    }
}
