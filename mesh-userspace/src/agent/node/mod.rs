//! The loop in which a node lives. One task owns the kernel half, the enrolments and the worker; everything that happens
//! comes to it as an event, and nothing in it waits for anybody.
//!
//! [`world`] publishes what the configuration says, [`worker`] keeps a worker running and hears it, [`demand`] measures
//! what it needs, [`pods`] answers the runtimes of containers, [`cluster`] is what else there is to do in one, [`end`] is how
//! it ends, and [`open`] what an uninstall begins with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_kernel::{EventStream, Kernel};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::AgentError;
use super::cni_install::watch::InPlace;
use super::config::Configuration;
use super::control::{self, Control};
use super::enrol::{Context, Enrolments};
use super::flows::Drops;
use super::host::Host;
use super::identities::Identities;
use super::kubelet::Kubelet;
use super::metrics::Metrics;
use super::options::Options;
use super::run_dir::RunDir;
use super::select::Finder;
use super::source::Source;
use super::supervise::{self, Backoff, Outgoing, Worker, chain};
use super::view::{Command, HandedOver, View};
use super::watchdog::Watchdog;
use crate::api::objects::Problem;
use crate::cli::args::OnStop;
use crate::memory;
use demand::Demand;
use end::{Ending, Opening};
use open::Open;

mod cluster;
mod demand;
pub(crate) mod end;
mod open;
pub(crate) mod pods;
mod show;
mod worker;
mod world;

/// How often the loop looks at the clock.
const TICK: Duration = Duration::from_millis(100);

/// How often figures for people, certificates and selectors are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often the kernel half clears what nobody needs any more.
const MAINTENANCE: Duration = Duration::from_secs(30);

/// A node and all that it holds.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) options: Options,
    pub(crate) name: String,
    pub(crate) run_dir: RunDir,
    pub(crate) host: Host,
    finder: Finder,
    /// Of a cluster's node.
    cluster: Option<Cluster>,
    control: Option<Control>,
    /// Of every node; fixed for the agent's life, because the kernel programs are told at their start.
    pub(crate) tunnel_port: u16,
    pub(crate) kernel: Kernel,
    pub(crate) identities: Identities,
    pub(crate) configuration: Configuration,
    pub(crate) view: Arc<View>,
    pub(crate) metrics: Arc<Metrics>,
    state: State,
}

/// What a node of a cluster has beside the others.
#[derive(Debug)]
struct Cluster {
    kubelet: Kubelet,
    /// Whether the CNI plugin is in place.
    plugin: tokio::sync::watch::Receiver<InPlace>,
    /// What was written down about namespaces.
    written: Option<crate::cni::namespaces::Namespaces>,
    /// What the controller was told last.
    reported: Option<control::Report>,
}

/// What only the loop knows.
#[derive(Debug)]
struct State {
    /// Of the world: grows with every change.
    generation: u64,
    /// The first generation of the world that had all that the source told with this generation of its own.
    of_source: (u64, u64),
    /// The source's generation by which the worker decides.
    applied_of_source: u64,
    enrolments: Enrolments,
    drops: Drops,
    watchdog: Watchdog,
    worker: Option<Worker>,
    backoff: Backoff,
    /// When the next worker is started; `None`: there is one, or none is wanted.
    start_at: Option<Instant>,
    worker_events: mpsc::Sender<supervise::Event>,
    demand: Demand,
    /// Pods whose runtime waits for an answer.
    pending: pods::Pending,
    /// The generation of the world at which certificates were told last.
    identities_told_at: Option<u64>,
    /// Workers of earlier agents were told to drain.
    predecessors_told: bool,
    ending: Option<Ending>,
    /// An uninstall was announced.
    open: Option<Open>,
    /// Everything is about to be taken away.
    opening: Option<Opening>,
    looked_at: Instant,
    maintained_at: Instant,
    /// What only the start needed was given back.
    settled: bool,
}

/// The parts of a node, before it lives.
pub(crate) struct Parts {
    pub(crate) options: Options,
    pub(crate) name: String,
    pub(crate) run_dir: RunDir,
    pub(crate) host: Host,
    /// The cgroup2 mount.
    pub(crate) cgroup2: std::path::PathBuf,
    pub(crate) kernel: Kernel,
    pub(crate) identities: Identities,
    pub(crate) configuration: Configuration,
    pub(crate) view: Arc<View>,
    pub(crate) metrics: Arc<Metrics>,
    /// Of a cluster's node: the link to the controller, and whether the CNI plugin is in place.
    pub(crate) cluster: Option<(Control, tokio::sync::watch::Receiver<InPlace>)>,
}

/// What a node hears.
pub(crate) struct Inputs {
    pub(crate) source: Source,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// What the controller answers; nothing ever comes where there is none.
    pub(crate) controller: mpsc::Receiver<control::Event>,
    pub(crate) signals: Signals,
}

/// Signals that end the agent. One that comes before anybody waits is not lost.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, AgentError> {
        let failed = |source| AgentError::System {
            step: "cannot watch for signals",
            source,
        };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// Gives what becomes of the proxy; `asked` is what was asked for SIGTERM. A person at a terminal wants it gone.
    pub(crate) async fn next(&mut self, asked: OnStop) -> OnStop {
        tokio::select! {
            _ = self.terminate.recv() => asked,
            _ = self.interrupt.recv() => OnStop::Drain,
        }
    }
}

impl Node {
    /// Lives until it is told to end, and says how.
    pub(crate) async fn live(parts: Parts, inputs: Inputs) -> Result<(Self, Ending), AgentError> {
        let Inputs {
            mut source,
            mut commands,
            mut controller,
            mut signals,
        } = inputs;
        let (worker_events, mut heard) = mpsc::channel(256);
        let mut node = Self::new(parts, worker_events);
        let mut drops = node.kernel.events()?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        node.begin()?;
        loop {
            // Before each step: what the other agent enrolled is not ours to touch.
            if node.kernel.is_superseded() {
                return Err(AgentError::Superseded);
            }
            tokio::select! {
                event = heard.recv() => if let Some(event) = event { node.worker_event(event)?; },
                Some(change) = source.next() => node.configure(change),
                Some(event) = controller.recv() => node.controller_event(event),
                Some(command) = commands.recv() => if let Some(answer) = node.command(command) {
                    node.leave().await;
                    return Ok((node, Ending::hand_over(answer)));
                },
                stop = signals.next(node.options.on_stop) => match stop {
                    OnStop::Drain => node.end(Ending::stop(node.configuration.drain)),
                    OnStop::Leave => {
                        node.leave().await;
                        return Ok((node, Ending::leave()));
                    }
                },
                dropped = next_drops(&mut drops) => node.dropped(dropped),
                _ = tick.tick() => node.tick()?,
            }
            if let Some(ending) = node.ended() {
                return Ok((node, ending));
            }
        }
    }

    fn new(parts: Parts, worker_events: mpsc::Sender<supervise::Event>) -> Self {
        let Parts {
            options,
            name,
            run_dir,
            host,
            cgroup2,
            kernel,
            identities,
            configuration,
            view,
            metrics,
            cluster,
        } = parts;
        let now = Instant::now();
        let (control, plugin) = cluster.unzip();
        Self {
            options,
            name,
            run_dir,
            finder: Finder::new(host.clone(), &cgroup2),
            cluster: plugin.map(|plugin| Cluster {
                kubelet: Kubelet::new(host.clone(), &cgroup2),
                plugin,
                written: None,
                reported: None,
            }),
            control,
            host,
            tunnel_port: configuration.tunnel_port,
            kernel,
            identities,
            configuration,
            view,
            metrics,
            state: State {
                generation: 0,
                of_source: (0, 0),
                applied_of_source: 0,
                enrolments: Enrolments::default(),
                drops: Drops::default(),
                watchdog: Watchdog::new(now),
                worker: None,
                backoff: Backoff::default(),
                start_at: None,
                worker_events,
                demand: Demand::default(),
                pending: pods::Pending::default(),
                identities_told_at: None,
                predecessors_told: false,
                ending: None,
                open: None,
                opening: None,
                looked_at: now,
                maintained_at: now,
                settled: false,
            },
        }
    }

    /// The first configuration, the first worker.
    fn begin(&mut self) -> Result<(), AgentError> {
        self.view.state().kernel.attached = true;
        self.tend_cluster(Instant::now());
        self.apply();
        self.start_worker()?;
        self.advance(Instant::now());
        Ok(())
    }

    /// Calls a step of enrolment with what it works with.
    fn enrolling<T>(&mut self, step: impl FnOnce(&mut Enrolments, &mut Context<'_>) -> T) -> T {
        let worker = &self.state.worker;
        let say = |outgoing: Outgoing| {
            if let Some(worker) = worker {
                worker.say(outgoing);
            }
        };
        let identities = &self.identities;
        let mut cx = Context {
            kernel: &mut self.kernel,
            finder: &mut self.finder,
            certified: &|identity| identities.holds(identity),
            current: self.configuration.current,
            say: &say,
        };
        step(&mut self.state.enrolments, &mut cx)
    }

    /// Tries what waits to be enrolled; the world is published with its addresses before the worker hears of it.
    fn advance(&mut self, now: Instant) {
        if self.state.ending.is_some() || self.state.opening.is_some() {
            return;
        }
        let known = self.state.enrolments.addresses();
        let prepared = self.enrolling(|enrolments, cx| enrolments.advance(now, cx));
        if known != self.state.enrolments.addresses() {
            self.publish();
        }
        let any = !prepared.is_empty();
        for (workload, listeners) in prepared {
            self.enrolling(|enrolments, cx| enrolments.announce(&workload, listeners, cx));
        }
        if any {
            self.show_enrolments();
        }
    }

    fn tick(&mut self) -> Result<(), AgentError> {
        let now = Instant::now();
        self.advance(now);
        self.tend_pods(now);
        self.tend_worker(now)?;
        self.tend_open(now);
        self.tend_uninstall(now);
        self.flush_drops(now);
        if now.duration_since(self.state.looked_at) >= LOOK {
            self.state.looked_at = now;
            self.look();
        }
        if now.duration_since(self.state.maintained_at) >= MAINTENANCE {
            self.state.maintained_at = now;
            memory::give_back();
            let enrolments = &self.state.enrolments;
            self.state
                .demand
                .keep(|workload| enrolments.workload(workload).is_some());
            if let Err(error) = self.kernel.maintain() {
                tracing::warn!(
                    error = chain(&error),
                    "the kernel half could not clear what is stale"
                );
            }
        }
        let faults = self.state.watchdog.look(now, &mut self.kernel);
        if let Some(faults) = faults {
            self.show_faults(&faults);
        }
        Ok(())
    }

    /// What is looked at once a second.
    fn look(&mut self) {
        let now = Instant::now();
        self.tend_identities();
        if self.state.ending.is_none() {
            self.capture_again();
            self.enrolling(|enrolments, cx| enrolments.check(cx));
            self.enrolling(|enrolments, cx| enrolments.expire(now, cx));
            self.tend_cluster(now);
        }
        self.show_enrolments();
        self.show_counters();
        self.settle();
    }

    /// Verifying programs and reading types takes several times the memory that the rest of the agent's life does.
    fn settle(&mut self) {
        if !self.state.settled && self.state.enrolments.settled() {
            self.state.settled = true;
            memory::give_back();
            memory::unmap_code();
        }
    }

    /// Does what somebody asks. Gives who waits for the node to be handed over, when that is asked for.
    fn command(&mut self, command: Command) -> Option<HandedOver> {
        match command {
            Command::Look(done) => {
                self.show_enrolments();
                self.show_counters();
                // An error says that nobody waits any more.
                done.send(()).unwrap_or_default();
            }
            Command::Open(within, answer) => self.open(Some(within), Some(answer)),
            Command::Uninstall(answer) => self.uninstall(answer),
            Command::AddPod(request, answer) => self.pod_added(request, answer),
            Command::RemovePod(request, done) => {
                self.pod_removed(&request);
                // As above.
                done.send(()).unwrap_or_default();
            }
            Command::CheckPod(request, answer) => {
                let standing = self.pod_checked(&request);
                // As above.
                answer.send(standing).unwrap_or_default();
            }
            Command::HandOver(answer) => {
                if self.state.ending.is_none() && self.state.opening.is_none() {
                    return Some(answer);
                }
                let ending = Problem::new("the agent is ending; try again in a moment");
                // As above.
                answer.send(Err(ending)).unwrap_or_default();
            }
        }
        None
    }

    fn dropped(&mut self, drops: Vec<mesh_kernel::Drop>) {
        for drop in drops {
            self.state.drops.add(drop);
        }
        self.flush_drops(Instant::now());
    }

    fn flush_drops(&mut self, now: Instant) {
        if !self.state.drops.due(now) {
            return;
        }
        let known = world::Known {
            snapshot: &self.view.snapshot.load(),
            enrolments: &self.state.enrolments,
        };
        for record in self.state.drops.flush(&known) {
            self.view.flows.add(record);
        }
    }

    fn say(&self, outgoing: Outgoing) {
        if let Some(worker) = &self.state.worker {
            worker.say(outgoing);
        }
    }
}

/// The next drops. An error of the stream is logged and does not end the node: counters stay right without it.
async fn next_drops(stream: &mut EventStream) -> Vec<mesh_kernel::Drop> {
    match stream.next().await {
        Ok(drops) => drops,
        Err(error) => {
            tracing::error!(%error, "kernel events cannot be read");
            tokio::time::sleep(LOOK).await;
            Vec::new()
        }
    }
}

/// Flows are remembered by id; a worker's generation is in the high bits.
fn generation_of(id: u64) -> u32 {
    u32::try_from(id >> 32).unwrap_or(u32::MAX)
}
