//! What people see of a node. The loop writes it, the node API and health read it; nobody waits for the loop.

mod checks;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Name;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::describe;
use super::flows::Flows;
use super::node::pods::Answer;
use crate::api::filter::nearest;
use crate::api::flow::Flow;
use crate::api::objects::{
    Certificate, Checks, Configuration, Enrolment, EnrolmentState, Explanation, FlowQuery, Kernel,
    Policy, Problem, Route, Service, Status, Traffic, Worker, Workload, WorkloadCounts,
};
use crate::api::server;
use crate::cni::wire::{PodAnswer, PodRequest};

/// How long a question waits for figures of this moment.
const REFRESH: Duration = Duration::from_millis(100);

/// What people can ask the loop to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Look at everything now, for a person or a scraper who wants to see it.
    Look(oneshot::Sender<()>),
    /// Refuse nobody: an uninstall is to follow within this time.
    Open(Duration, oneshot::Sender<Result<(), Problem>>),
    /// Take everything away and end.
    Uninstall(oneshot::Sender<Result<Vec<String>, Problem>>),
    /// A container runtime announces a pod, and waits for it to be enforced.
    AddPod(PodRequest, Answer),
    /// It takes one down.
    RemovePod(PodRequest, oneshot::Sender<()>),
    /// It asks whether one is enforced.
    CheckPod(PodRequest, Answer),
    /// Leave the node to the next agent, which waits.
    HandOver(HandedOver),
}

/// Who waits for a node to be handed over.
pub(crate) type HandedOver = oneshot::Sender<Result<(), Problem>>;

/// A node, as it is seen.
#[derive(Debug)]
pub(crate) struct View {
    node: String,
    started_at: Timestamp,
    /// The world that was published last.
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) flows: Arc<Flows>,
    state: Mutex<State>,
    commands: mpsc::Sender<Command>,
    /// Agents that are about to take the node over.
    successors: AtomicUsize,
}

/// The changing part.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) configuration: Configuration,
    pub(crate) worker: Worker,
    pub(crate) kernel: Kernel,
    pub(crate) traffic: Traffic,
    pub(crate) enrolments: BTreeMap<Name, Enrolment>,
    pub(crate) certificates: Vec<Certificate>,
    /// Roots that the worker was told to trust.
    pub(crate) trusted_roots: usize,
    /// An uninstall was announced, and nobody is refused: until then.
    pub(crate) open_until: Option<Timestamp>,
    /// The agent was told to end.
    pub(crate) ending: bool,
    /// Every workload that was here when the agent began is served, or it is known why not.
    pub(crate) served: bool,
    /// The network configuration that has the CNI plugin, or why none has; `None`: none is to have it.
    pub(crate) plugin: Result<Option<String>, String>,
    /// What follows from kubelet not being known.
    pub(crate) kubelet_missing: Option<String>,
}

impl View {
    /// A node about which nothing is known yet. `source` is where its configuration comes from, in words.
    pub(crate) fn new(
        node: &str,
        source: &str,
        flows: Arc<Flows>,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            node: node.to_owned(),
            started_at: Timestamp::now(),
            snapshot: ArcSwap::default(),
            flows,
            state: Mutex::new(State {
                configuration: Configuration {
                    file: source.to_owned(),
                    generation: 0,
                    applied_generation: 0,
                    read_at: None,
                    problems: Vec::new(),
                },
                worker: Worker::default(),
                kernel: Kernel::default(),
                traffic: Traffic::default(),
                enrolments: BTreeMap::new(),
                certificates: Vec::new(),
                trusted_roots: 0,
                open_until: None,
                ending: false,
                served: false,
                plugin: Ok(None),
                kubelet_missing: None,
            }),
            commands,
            successors: AtomicUsize::new(0),
        }
    }

    /// The changing part, for a moment.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the loop look at everything, so that what is shown is of this moment. A loop that is busy is not waited for.
    pub(crate) async fn refresh(&self) {
        let (done, looked) = oneshot::channel();
        if self.commands.try_send(Command::Look(done)).is_ok() {
            // Late or never: then what was seen last is shown.
            drop(tokio::time::timeout(REFRESH, looked).await);
        }
    }

    /// What is missing before the agent is ready, in words.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let mut missing = not_ready(&self.state());
        if self.successors.load(Ordering::Relaxed) > 0 {
            missing.push("the next agent is about to take the node over".to_owned());
        }
        missing
    }
}

pub(crate) fn not_ready(state: &State) -> Vec<String> {
    let mut missing = Vec::new();
    let mut lacks = |lacking: bool, what: &str| {
        if lacking {
            missing.push(what.to_owned());
        }
    };
    lacks(
        !state.kernel.attached,
        "the kernel programs are not attached",
    );
    if let Some(why) = &state.kernel.uncaptured {
        lacks(true, &format!("not every destination is captured: {why}"));
    }
    lacks(!state.worker.ready, "the worker does not serve yet");
    lacks(
        state.configuration.applied_generation == 0,
        "no configuration was applied yet",
    );
    if let Err(why) = &state.plugin {
        lacks(true, why);
    }
    lacks(
        state.plugin != Ok(None) && !state.served,
        "not every workload that runs is served yet",
    );
    lacks(state.ending, "the agent is ending");
    missing
}

impl server::Node for View {
    async fn refresh(&self) {
        Self::refresh(self).await;
    }

    fn status(&self) -> Status {
        let snapshot = self.snapshot.load();
        let flows_held = u64::try_from(self.flows.len()).unwrap_or(u64::MAX);
        let state = self.state();
        let not_ready = not_ready(&state);
        let count = |wanted| {
            let found = state
                .enrolments
                .values()
                .filter(|enrolment| enrolment.state == wanted);
            u32::try_from(found.count()).unwrap_or(u32::MAX)
        };
        let remote = snapshot
            .world
            .workloads
            .iter()
            .filter(|workload| !state.enrolments.contains_key(&workload.name));
        Status {
            api_version: crate::api::VERSION.to_owned(),
            kind: "Status".to_owned(),
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: self.started_at,
            trust_domain: snapshot.world.trust_domain.to_string(),
            trusted_roots: state.trusted_roots,
            ready: not_ready.is_empty(),
            not_ready,
            configuration: state.configuration.clone(),
            worker: state.worker.clone(),
            kernel: state.kernel.clone(),
            workloads: WorkloadCounts {
                enrolled: count(EnrolmentState::Enrolled),
                preparing: count(EnrolmentState::Preparing),
                waiting: count(EnrolmentState::Waiting),
                leaving: count(EnrolmentState::Leaving),
                remote: u32::try_from(remote.count()).unwrap_or(u32::MAX),
            },
            traffic: Traffic {
                flows_held,
                ..state.traffic.clone()
            },
        }
    }

    fn workloads(&self) -> Vec<Workload> {
        let snapshot = self.snapshot.load();
        let state = self.state();
        describe::workloads(&snapshot.world, &state.enrolments, &state.certificates)
    }

    fn services(&self) -> Vec<Service> {
        describe::services(&self.snapshot.load())
    }

    fn routes(&self) -> Vec<Route> {
        describe::routes(&self.snapshot.load().world)
    }

    fn policies(&self) -> Vec<Policy> {
        describe::policies(&self.snapshot.load().world)
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.state().certificates.clone()
    }

    fn checks(&self) -> Checks {
        Checks {
            api_version: crate::api::VERSION.to_owned(),
            kind: "Checks".to_owned(),
            items: checks::all(&self.state(), Timestamp::now()),
        }
    }

    fn flows(&self, query: &FlowQuery) -> (Vec<Arc<Flow>>, broadcast::Receiver<Arc<Flow>>) {
        self.flows.read(query)
    }

    fn explain(&self, source: &str, destination: &str) -> Result<Explanation, Problem> {
        describe::explain(&self.snapshot.load(), source, destination)
    }

    fn open(&self, within: Duration) -> impl Future<Output = Result<(), Problem>> + Send {
        self.ask(move |answer| Command::Open(within, answer))
    }

    fn uninstall(&self) -> impl Future<Output = Result<Vec<String>, Problem>> + Send {
        self.ask(Command::Uninstall)
    }

    fn add_pod(&self, pod: PodRequest) -> impl Future<Output = Result<PodAnswer, Problem>> + Send {
        self.ask(|answer| Command::AddPod(pod, answer))
    }

    async fn remove_pod(&self, pod: PodRequest) -> Result<(), Problem> {
        let (done, removed) = oneshot::channel();
        let sent = self.commands.send(Command::RemovePod(pod, done)).await;
        sent.map_err(|_closed| ending())?;
        removed.await.map_err(|_closed| ending())
    }

    fn check_pod(
        &self,
        pod: PodRequest,
    ) -> impl Future<Output = Result<PodAnswer, Problem>> + Send {
        self.ask(|answer| Command::CheckPod(pod, answer))
    }

    async fn announced(&self) {
        /// Ends with the announcement, however that ends.
        struct Count<'a>(&'a AtomicUsize);
        impl Drop for Count<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.successors.fetch_add(1, Ordering::Relaxed);
        let _count = Count(&self.successors);
        std::future::pending().await
    }

    fn hand_over(&self) -> impl Future<Output = Result<(), Problem>> + Send {
        self.ask(Command::HandOver)
    }
}

impl View {
    /// Has the loop do something, and waits for its answer.
    fn ask<T, F>(&self, command: F) -> impl Future<Output = Result<T, Problem>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(oneshot::Sender<Result<T, Problem>>) -> Command,
    {
        let (answer, answered) = oneshot::channel();
        let command = command(answer);
        let commands = self.commands.clone();
        async move {
            let sent = commands.send(command).await;
            sent.map_err(|_closed| ending())?;
            answered.await.map_err(|_closed| ending())?
        }
    }
}

fn ending() -> Problem {
    Problem::new("the agent is ending; try again in a moment")
}

/// A hint for a name that nothing has.
pub(crate) fn did_you_mean(text: &str, names: &[String]) -> String {
    nearest(text, names.iter().map(String::as_str))
        .map(|near| format!(" (did you mean {near}?)"))
        .unwrap_or_default()
}
