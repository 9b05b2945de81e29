//! Agents one of whose system calls fails, and what is found of a pod afterwards, seen from outside.
//!
//! The scene has a peer in the mesh, and one that the configuration calls a workload although no agent runs on its node.
//! The second tells the two good states apart: who is not enrolled reaches it as ever, who is enrolled never does.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Cluster;
use super::capture::{Capture, MARKER};
use super::node::{Node, attached_programs};
use super::place::{Place, Server};
use crate::eventually::eventually;
use crate::host::binary;
use crate::host::fault::Kind;
use crate::host::process::Launch;

/// How long a dial that nobody answers is waited for.
const PATIENCE: Duration = Duration::from_millis(250);

/// The same, when the first look was of something in between: a machine that is busy answers late.
const MORE_PATIENCE: Duration = Duration::from_secs(3);

/// How long an agent may take to be ready or to give up. Retries included: one call fails, the next attempt goes well.
const SETTLE: Duration = Duration::from_secs(60);

/// Said where it may be read.
const OPENLY: &str = "in-the-open";

/// The names of errors with which calls fail, in turn.
pub const ERRORS: [&str; 3] = ["ENOMEM", "EPERM", "E2BIG"];

/// What becomes of an agent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is ready and everything is enrolled.
    Ready,
    /// It ended with an error.
    Ended,
}

/// What a pod is found to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// Nothing past the mesh, in either direction.
    Enforcing,
    /// Everything as if there were no mesh.
    Untouched,
}

/// Client and peers.
pub struct Scene {
    /// The node whose agent is made to fail.
    pub a: Arc<Node>,
    /// On node a.
    pub client: Place,
    /// In the mesh, on node b, whose agent runs.
    pub server: Place,
    /// A workload in name only.
    pub stranger: Place,
    log: PathBuf,
    capture: Capture,
    _applications: [Server; 3],
}

impl Scene {
    /// Builds it and starts the agent of node b.
    pub fn build(cluster: &mut Cluster) -> Result<Self> {
        let (a, b) = cluster.two_nodes()?;
        let (client, server, stranger) = (a.pod("client")?, b.pod("server")?, b.pod("stranger")?);
        let applications = [
            client.serve(&["7000=echo"])?,
            server.serve(&["8080=echo"])?,
            stranger.serve(&["8080=echo"])?,
        ];
        cluster
            .configuration()
            .enrol(&client)
            .enrol(&server)
            .enrol_with(&stranger, serde_json::json!({"node": "nowhere"}));
        cluster.write()?;
        b.start()?;
        b.wait_ready()?;
        let capture = Capture::on(cluster, a.namespace(), &Node::link_of("client"))?;
        capture.prove(client.namespace(), server.at(0))?;
        Ok(Self {
            log: a.folder().join("calls"),
            a,
            client,
            server,
            stranger,
            capture,
            _applications: applications,
        })
    }

    /// Starts the agent with its n-th call of a kind failing, or only counted; waits until it is ready or has ended.
    pub fn start(&self, kind: Kind, fail: Option<(u64, &str)>) -> Result<Outcome> {
        let mut supervisor = Launch::new(binary::helper("warren-fault")?)
            .args(["--call", &kind.to_string(), "--log"])
            .args([&self.log]);
        if let Some((number, error)) = fail {
            supervisor = supervisor.args(["--fail", &number.to_string(), "--error", error]);
        }
        self.a.start_through(supervisor.args(["--"]))?;
        self.settled()
    }

    /// Waits until the agent is ready or has ended.
    pub fn settled(&self) -> Result<Outcome> {
        let mut last = None;
        eventually("the agent is ready or has ended", SETTLE, || {
            if !self.a.is_running() {
                return Ok(Some(Outcome::Ended));
            }
            let status = self.a.status()?;
            let ready = status.ready && status.workloads.enrolled == 1;
            last = Some(status);
            Ok(ready.then_some(Outcome::Ready))
        })
        .with_context(|| format!("the last status was {last:#?}"))
    }

    /// How many calls the agent has made so far.
    pub fn calls(&self) -> Result<u64> {
        Ok(self.call_lines()?.len() as u64)
    }

    /// The call that failed, as the log has it; nothing when it was never made.
    pub fn failed_call(&self) -> Result<Option<String>> {
        Ok(self
            .call_lines()?
            .into_iter()
            .find(|line| line.ends_with("failed")))
    }

    fn call_lines(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.log)
            .with_context(|| format!("read {}", self.log.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// What the client is. An error when it is something in between, and stays so.
    pub fn found(&self) -> Result<Found> {
        let first = self.look(PATIENCE)?;
        let seen = match found_of(&first) {
            Some(found) => return Ok(found),
            None => self.look(MORE_PATIENCE)?,
        };
        found_of(&seen).with_context(|| {
            format!("something in between: whether clear text was answered: {seen:?}")
        })
    }

    /// Dials in clear, out and in, and notes whether there was an answer.
    fn look(&self, patience: Duration) -> Result<Vec<(SocketAddr, bool)>> {
        let out = self.stranger.both(8080).map(|to| (&self.client, to));
        let inward = self.client.both(7000).map(|to| (&self.stranger, to));
        out.into_iter()
            .chain(inward)
            .map(|(from, to)| {
                let report = from.dial_within(to, "plain", OPENLY, patience)?;
                Ok((to, report.received == OPENLY))
            })
            .collect()
    }

    /// Everything goes through the mesh, and nothing of it can be read.
    pub fn assert_meshed(&self) -> Result<()> {
        for to in self.server.both(8080) {
            let report = self.client.dial(to, "plain", MARKER)?;
            ensure!(report.received == MARKER, "{to}: {report:?}");
        }
        self.assert_unread()
    }

    /// Whatever the client dials: what it says cannot be read, and strangers do not hear it.
    pub fn assert_closed(&self) -> Result<()> {
        for to in [self.server.both(8080), self.stranger.both(8080)].concat() {
            let report = self.client.dial_within(to, "plain", MARKER, PATIENCE)?;
            let meshed = self.server.both(8080).contains(&to) && report.error.is_none();
            ensure!(meshed || report.received.is_empty(), "{to}: {report:?}");
        }
        self.assert_unread()
    }

    fn assert_unread(&self) -> Result<()> {
        let read = self.capture.count(MARKER)?;
        ensure!(
            read == 0,
            "the marker was readable {read} times on the pod's interface"
        );
        Ok(())
    }

    /// Nothing of ours is in the client's namespace, on its interfaces or among the pins that are its own.
    pub fn assert_untouched(&self) -> Result<()> {
        let inside = self.client.namespace();
        for (where_, namespace) in [("pod", inside), ("node", self.a.namespace().as_ref())] {
            let programs = attached_programs(namespace)?;
            let ours = ["ingress", "guard"];
            let left: Vec<&str> = programs
                .lines()
                .filter(|line| ours.iter().any(|name| line.contains(&format!(" {name} "))))
                .collect();
            ensure!(
                left.is_empty(),
                "programs on interfaces of the {where_}: {left:?}"
            );
        }
        for family in ["-4", "-6"] {
            let rules = inside.ip_output(&[family, "rule", "show"])?;
            ensure!(!rules.contains("150:"), "a rule is left: {rules}");
            let routes = inside.ip_output(&[family, "route", "show", "table", "all"])?;
            ensure!(!routes.contains("15008"), "a route is left: {routes}");
        }
        let pins: Vec<PathBuf> = self
            .a
            .bpf()
            .pins()
            .into_iter()
            .filter(|pin| {
                let text = pin.to_string_lossy();
                text.contains("/links/guard")
                    || text.contains("/links/ingress")
                    || text.contains("/workloads/")
            })
            .collect();
        ensure!(pins.is_empty(), "pins are left: {pins:?}");
        Ok(())
    }
}

fn found_of(seen: &[(SocketAddr, bool)]) -> Option<Found> {
    let answered = seen.iter().filter(|(_, answered)| *answered).count();
    match answered {
        0 => Some(Found::Enforcing),
        all if all == seen.len() => Some(Found::Untouched),
        _ => None,
    }
}
