//! Where programs run: a pod, a host service, a machine outside the mesh. A place has a network namespace, a cgroup and
//! addresses; what it is to the mesh is up to the configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::host::binary;
use crate::host::cgroup::Cgroup;
use crate::host::namespace::Namespace;
use crate::host::process::{Launch, Process};
use crate::probe::load::Count;
use crate::probe::pace::{Paced, Plan};
use crate::probe::session::Answer;
use crate::probe::{Event, Report};

/// Patience with one step of a probe.
const STEP: Duration = Duration::from_secs(10);

/// The user without any rights as whom servers run: some refuse to be root, and none should need to be.
pub const NOBODY: u32 = 65_534;

/// Where programs run.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    namespace: Arc<Namespace>,
    cgroup: Arc<Cgroup>,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// The node that it is on, and how the configuration selects it; nothing outside the mesh.
    pub(super) selected: Option<Selected>,
}

/// How the configuration selects a place.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    pub(super) node: String,
    pub(super) by: Selector,
}

#[derive(Clone, Debug)]
pub(super) enum Selector {
    Namespace,
    Cgroup { ports: Vec<u16> },
}

impl Place {
    pub(super) fn new(
        name: &str,
        namespace: Arc<Namespace>,
        cgroup: Arc<Cgroup>,
        v4: Ipv4Addr,
        v6: Ipv6Addr,
    ) -> Self {
        Self {
            name: name.to_owned(),
            namespace,
            cgroup,
            v4,
            v6,
            selected: None,
        }
    }

    /// Its name, which is also the workload's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// A port of it, IPv4.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.v4, port).into()
    }

    /// A port of it, IPv6.
    pub fn at6(&self, port: u16) -> SocketAddr {
        (self.v6, port).into()
    }

    /// A port of it in both families.
    pub fn both(&self, port: u16) -> [SocketAddr; 2] {
        [self.at(port), self.at6(port)]
    }

    /// Its address of the same family as another one.
    pub fn beside(&self, other: SocketAddr) -> IpAddr {
        if other.is_ipv4() {
            self.v4.into()
        } else {
            self.v6.into()
        }
    }

    /// The same place with programs in another cgroup.
    #[must_use]
    pub fn in_cgroup(&self, cgroup: Arc<Cgroup>) -> Self {
        Self {
            cgroup,
            ..self.clone()
        }
    }

    /// The same place and cgroup with programs in another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: Arc<Namespace>) -> Self {
        Self {
            namespace,
            ..self.clone()
        }
    }

    /// Any program, in this place.
    pub fn program(&self, program: &str) -> Launch {
        Launch::new(program)
            .namespace(self.namespace.name())
            .cgroup(self.cgroup.path())
    }

    /// A mode of `warren-probe`, in this place.
    pub fn probe(&self, arguments: &[&str]) -> Result<Launch> {
        let probe = binary::helper("warren-probe")?;
        Ok(self.program(&probe.to_string_lossy()).args(arguments))
    }

    /// Serves `PORT=BEHAVIOUR`s; comes back when all of them listen.
    pub fn serve(&self, services: &[&str]) -> Result<Server> {
        let process = self.probe(&[&["serve"], services].concat())?.start()?;
        let mut server = Server { process };
        match server.event()? {
            Event::Listening => Ok(server),
            other => bail!("{} began with {other:?}", self.name),
        }
    }

    /// Dials once in a given way, says something, reads to the end.
    pub fn dial(&self, to: SocketAddr, way: &str, send: &str) -> Result<Report> {
        self.dial_within(to, way, send, STEP)
    }

    /// The same, with a time limit.
    pub fn dial_within(
        &self,
        to: SocketAddr,
        way: &str,
        send: &str,
        within: Duration,
    ) -> Result<Report> {
        let output = self
            .probe(&[
                "dial",
                "--to",
                &to.to_string(),
                "--way",
                way,
                "--send",
                send,
                "--millis",
                &within.as_millis().to_string(),
            ])?
            .run()?;
        serde_json::from_str(&output).with_context(|| format!("a report of dial: {output:?}"))
    }

    /// Opens a connection and keeps it.
    pub fn session(&self, to: SocketAddr) -> Result<Session> {
        self.session_by(to, "plain")
    }

    /// Opens a connection in a given way and keeps it.
    pub fn session_by(&self, to: SocketAddr, way: &str) -> Result<Session> {
        let process = self
            .probe(&[
                "session",
                "--to",
                &to.to_string(),
                "--way",
                way,
                "--millis",
                "30000",
            ])?
            .start()?;
        let mut session = Session {
            process,
            opened: Answer::default(),
        };
        session.opened = session.answer(STEP)?;
        Ok(session)
    }

    /// Makes so many connections, a few at a time, each saying `hello`.
    pub fn load(&self, to: SocketAddr, connections: u64, parallel: usize) -> Result<Count> {
        self.load_saying(to, "hello", connections, parallel)
    }

    /// The same with other words.
    pub fn load_saying(
        &self,
        to: SocketAddr,
        words: &str,
        connections: u64,
        parallel: usize,
    ) -> Result<Count> {
        let output = self
            .load_launch(to, connections, parallel, Duration::from_secs(90))?
            .args(["--send", words])
            .run()?;
        serde_json::from_str(&output).with_context(|| format!("a count of load: {output:?}"))
    }

    /// Makes connections for a time, in the background.
    pub fn load_for(&self, to: SocketAddr, parallel: usize, time: Duration) -> Result<Load> {
        let process = self.load_launch(to, 0, parallel, time)?.start()?;
        Ok(Load { process, time })
    }

    /// The same, each connection ending in a reset, so that its port can be used again at once.
    pub fn load_with_resets(
        &self,
        to: SocketAddr,
        parallel: usize,
        time: Duration,
    ) -> Result<Load> {
        let process = self
            .load_launch(to, 0, parallel, time)?
            .args(["--reset"])
            .start()?;
        Ok(Load { process, time })
    }

    /// Load at a given pace, in the background.
    pub fn pace(&self, to: SocketAddr, plan: Plan) -> Result<Pace> {
        let words = [
            ("--to", to.to_string()),
            ("--requests", plan.requests.to_string()),
            ("--kept", plan.kept.to_string()),
            ("--connections", plan.connections.to_string()),
            ("--millis", plan.time.as_millis().to_string()),
        ];
        let mut launch = self.probe(&["pace"])?;
        for (name, value) in &words {
            launch = launch.args([*name, value.as_str()]);
        }
        if let Some(age) = plan.age {
            launch = launch.args(["--age", &age.as_millis().to_string()]);
        }
        Ok(Pace {
            process: launch.start()?,
        })
    }

    fn load_launch(
        &self,
        to: SocketAddr,
        connections: u64,
        parallel: usize,
        time: Duration,
    ) -> Result<Launch> {
        self.probe(&[
            "load",
            "--to",
            &to.to_string(),
            "--connections",
            &connections.to_string(),
            "--parallel",
            &parallel.to_string(),
            "--millis",
            &time.as_millis().to_string(),
        ])
    }
}

/// A server that says what it saw.
pub struct Server {
    process: Process,
}

impl Server {
    /// Its next event.
    pub fn event(&mut self) -> Result<Event> {
        let line = self.process.line(STEP)?;
        serde_json::from_str(&line).with_context(|| format!("an event: {line:?}"))
    }

    /// The next client that it accepted.
    pub fn accepted(&mut self) -> Result<SocketAddr> {
        loop {
            if let Event::Accepted { peer, .. } = self.event()? {
                return Ok(peer);
            }
        }
    }

    /// The next connection that ended: bytes, whether they were intact, error.
    pub fn closed(&mut self) -> Result<(u64, Option<bool>, Option<String>)> {
        loop {
            if let Event::Closed {
                bytes,
                intact,
                error,
                ..
            } = self.event()?
            {
                return Ok((bytes, intact, error));
            }
        }
    }

    /// The process behind it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A connection that does what it is told.
pub struct Session {
    process: Process,
    /// What came of connecting.
    pub opened: Answer,
}

impl Session {
    /// Does one thing (see [`crate::probe::session`]) and gives the answer.
    pub fn tell(&mut self, command: &str) -> Result<Answer> {
        self.tell_within(command, Duration::from_secs(35))
    }

    /// The same, with a time limit.
    pub fn tell_within(&mut self, command: &str, within: Duration) -> Result<Answer> {
        self.process.tell(command)?;
        self.answer(within)
    }

    /// Does one thing that must go well.
    pub fn must(&mut self, command: &str) -> Result<Answer> {
        let answer = self.tell(command)?;
        if let Some(error) = &answer.error {
            bail!("`{command}`: {error}");
        }
        Ok(answer)
    }

    /// Says a line and expects it back.
    pub fn echo(&mut self, text: &str) -> Result<Answer> {
        self.must(&format!("say {text}"))?;
        let answer = self.must("line")?;
        if answer.text != text {
            bail!("said {text:?}, got {:?} back", answer.text);
        }
        Ok(answer)
    }

    /// Begins something without waiting for it; [`Session::answer`] has what came of it.
    pub fn begin(&mut self, command: &str) -> Result<()> {
        self.process.tell(command)
    }

    /// The next answer.
    pub fn answer(&mut self, within: Duration) -> Result<Answer> {
        let line = self.process.line(within)?;
        serde_json::from_str(&line).with_context(|| format!("an answer: {line:?}"))
    }

    /// Resets the connection.
    pub fn reset(mut self) -> Result<()> {
        self.process.tell("reset")?;
        self.process.wait(STEP).map(drop)
    }

    /// The process behind it.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Connections being made in the background.
pub struct Load {
    process: Process,
    time: Duration,
}

impl Load {
    /// Waits for the end; gives what came of them.
    pub fn finish(self) -> Result<Count> {
        let line = self.process.line(self.time + STEP * 2)?;
        serde_json::from_str(&line).with_context(|| format!("a count of load: {line:?}"))
    }
}

/// Load at a given pace, in the background.
pub struct Pace {
    process: Process,
}

impl Pace {
    /// Stops it; gives what came of it. What is under way may finish, so it takes a moment.
    pub fn stop(mut self) -> Result<Paced> {
        self.process.tell("stop")?;
        let line = self.process.line(STEP * 3)?;
        serde_json::from_str(&line).with_context(|| format!("what came of the load: {line:?}"))
    }
}
