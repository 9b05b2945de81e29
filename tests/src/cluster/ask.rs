//! Asking a node: the command line, metrics, health.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::node::{HEALTH, METRICS, Node};
use super::observe::{Flow, Status};
use crate::eventually::eventually;
use crate::host::binary;
use crate::host::process::{Launch, Process};

impl Node {
    /// Runs a verb of the command line against this node.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.cli_command(arguments)?.finish()
    }

    /// A verb of the command line against this node, to run.
    pub fn cli_command(&self, arguments: &[&str]) -> Result<Verb> {
        let launch = Launch::new(binary::warren()?)
            .args(["--socket".as_ref(), self.socket().as_path()])
            .args(arguments)
            .namespace(self.namespace().name())
            .cgroup(&self.system_cgroup()?);
        Ok(Verb(launch))
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
            &format!("node {}: a flow: {what}", self.name()),
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

    /// Waits until the kernel half has done something at least so often; gives how often. Counters are read now and then.
    pub fn wait_kernel_count(&self, reason: &str, least: u64) -> Result<u64> {
        let mut last = 0;
        eventually(
            &format!("node {}: {reason} is counted {least} times", self.name()),
            Duration::from_secs(8),
            || {
                last = self.kernel_count(reason)?;
                Ok((last >= least).then_some(last))
            },
        )
        .with_context(|| format!("it was counted {last} times"))
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
        self.namespace()
            .http_get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path)
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

    /// Runs it as another user, without any privilege.
    #[must_use]
    pub fn as_user(self, user: u32) -> Self {
        Self(self.0.user(user))
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
