//! Keeping a worker: started, told everything, heard, replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::record::Record;
use mesh_core::workload::WorkloadId;
use mesh_proxy::link::{Figures, MAX_DESCRIPTORS, Purpose, SocketKind, ToAgent, ToWorker, VERSION};
use nix::sys::signal::Signal;

use super::{Node, generation_of};
use crate::agent::AgentError;
use crate::agent::supervise::{Event, Outgoing, Worker, chain};
use crate::agent::uninstall;

impl Node {
    /// Starts a worker and tells it everything.
    pub(super) fn start_worker(&mut self) -> Result<(), AgentError> {
        let generation = self.run_dir.next_generation()?;
        let cgroup = self.kernel.worker_cgroup(u64::from(generation))?;
        let events = self.state.worker_events.clone();
        let worker = Worker::start(generation, &cgroup, &self.options, events)?;
        tracing::info!(generation, pid = worker.pid, "started a worker");
        worker.say(Outgoing::Message(
            ToWorker::Hello {
                version: VERSION,
                node: self.name.clone(),
                generation,
                threads: self.options.threads,
                tunnel_port: self.tunnel_port,
            },
            Vec::new(),
        ));
        worker.say(Outgoing::Identities(self.identities.snapshot()));
        worker.say(Outgoing::World(self.view.snapshot.load_full()));
        {
            let mut state = self.view.state();
            state.worker.pid = worker.pid;
            state.worker.generation = generation;
            state.worker.ready = false;
        }
        self.state.worker = Some(worker);
        self.state.start_at = None;
        self.enrolling(|enrolments, cx| enrolments.announce_all(cx));
        Ok(())
    }

    /// What a worker said, or that it ended.
    pub(super) fn worker_event(&mut self, event: Event) -> Result<(), AgentError> {
        match event {
            Event::Said {
                generation,
                message,
            } => {
                let now = Instant::now();
                match &mut self.state.worker {
                    Some(worker) if worker.generation == generation => worker.heard(now),
                    _ => {}
                }
                self.hear(generation, message);
                Ok(())
            }
            Event::Ended { generation, status } => self.worker_ended(generation, &status),
        }
    }

    fn hear(&mut self, generation: u32, message: ToAgent) {
        let current = self
            .state
            .worker
            .as_ref()
            .is_some_and(|worker| worker.generation == generation);
        match message {
            // Of any worker: these connections were real.
            ToAgent::Records(records) => self.records(generation, records),
            ToAgent::Complaint(text) => tracing::warn!(generation, text, "the worker complains"),
            // A worker that is being replaced has no say about the present.
            _ if !current => {}
            ToAgent::Ready { version } => self.worker_ready(version),
            ToAgent::Enrolled { workload } => {
                self.enrolling(|enrolments, cx| enrolments.acked(workload, cx));
                self.show_enrolments();
                self.tell_predecessors();
                self.tend_pods(Instant::now());
            }
            ToAgent::Unenrolled { workload } => {
                self.enrolling(|enrolments, cx| enrolments.left(workload, cx));
                self.show_enrolments();
            }
            ToAgent::NeedSockets {
                workload,
                kind,
                count,
            } => self.sockets(workload, kind, count),
            ToAgent::Applied { generation } => {
                self.applied(generation);
                self.tend_pods(Instant::now());
            }
            ToAgent::Figures(figures) => self.figures(&figures),
        }
    }

    fn worker_ready(&mut self, version: u16) {
        if version != VERSION {
            // Our own binary: it cannot speak another version, unless it is not what it seems.
            tracing::error!(version, "the worker speaks another version; replacing it");
            if let Some(worker) = &mut self.state.worker {
                worker.kill();
            }
            return;
        }
        if let Some(worker) = &mut self.state.worker {
            worker.ready = true;
            tracing::info!(generation = worker.generation, "the worker serves");
        }
        self.view.state().worker.ready = true;
        self.tell_predecessors();
    }

    /// Workers of an earlier agent drain, once every workload is served by ours.
    fn tell_predecessors(&mut self) {
        let Some(worker) = &self.state.worker else {
            return;
        };
        if self.state.predecessors_told || !worker.ready || !self.state.enrolments.settled() {
            return;
        }
        self.state.predecessors_told = true;
        let old = uninstall::workers(&self.options.mesh_cgroup, Some(&worker.cgroup));
        if !old.is_empty() {
            tracing::info!(?old, "workers of an earlier agent drain");
            uninstall::signal(&old, Signal::SIGTERM);
        }
    }

    pub(super) fn applied(&mut self, generation: u64) {
        // Whatever a worker claims, it cannot be ahead of us.
        let generation = generation.min(self.state.generation);
        let shown = i64::try_from(generation).unwrap_or(i64::MAX);
        self.metrics.config_applied_generation.set(shown);
        self.view.state().configuration.applied_generation = generation;
        let (first, of_source) = self.state.of_source;
        if generation >= first {
            self.state.applied_of_source = of_source;
        }
        tracing::debug!(generation, "the worker applied the world");
    }

    fn records(&mut self, generation: u32, records: Vec<Record>) {
        for mut record in records {
            // Ids of one worker never collide with another's, or with kernel drops, whatever it says.
            record.id = u64::from(generation) << 32 | record.id & u64::from(u32::MAX);
            let record = Arc::new(record);
            let before = self.view.flows.add(Arc::clone(&record));
            self.metrics.record(&record, before.as_deref());
        }
    }

    /// Makes sockets for a worker's reservoir, in batches that one message can carry.
    fn sockets(&mut self, workload: WorkloadId, kind: SocketKind, count: u16) {
        let count = usize::from(count).min(MAX_DESCRIPTORS);
        self.state
            .demand
            .asked(Instant::now(), workload, kind, count);
        self.give_sockets(workload, kind, count);
    }

    pub(super) fn give_sockets(&self, workload: WorkloadId, kind: SocketKind, count: usize) {
        let purpose = match kind.purpose {
            Purpose::Dial => mesh_kernel::Purpose::Dial,
            Purpose::Deliver => mesh_kernel::Purpose::Deliver,
        };
        match self.kernel.sockets(workload, purpose, kind.ipv6, count) {
            Ok(sockets) => self.say(Outgoing::Sockets {
                workload,
                kind,
                sockets,
            }),
            Err(error) => {
                tracing::warn!(%workload, error = chain(&error), "no sockets for the worker");
            }
        }
    }

    fn figures(&mut self, figures: &Figures) {
        self.metrics.figures(figures);
        let mut state = self.view.state();
        let traffic = &mut state.traffic;
        traffic.open_outbound = figures.open_outbound;
        traffic.open_inbound = figures.open_inbound;
        traffic.tunnels_outbound = figures.tunnels_outbound;
        traffic.tunnels_inbound = figures.tunnels_inbound;
        traffic.handshakes = figures.handshakes;
        traffic.handshake_failures = figures.handshake_failures;
        traffic.records_lost = figures.records_lost;
    }

    fn worker_ended(&mut self, generation: u32, status: &str) -> Result<(), AgentError> {
        let lost = self
            .view
            .flows
            .orphans(|id| generation_of(id) == generation);
        for record in lost {
            // What was known before was taken out with it: tell the metrics the rest of it.
            self.metrics.record(&record, Some(&record));
            self.view.flows.add(record);
        }
        let Some(worker) = self
            .state
            .worker
            .take_if(|worker| worker.generation == generation)
        else {
            return Ok(());
        };
        self.metrics.worker_replaced();
        {
            let mut state = self.view.state();
            state.worker.ready = false;
            state.worker.pid = None;
            state.traffic.open_outbound = 0;
            state.traffic.open_inbound = 0;
            state.traffic.tunnels_outbound = 0;
            state.traffic.tunnels_inbound = 0;
        }
        if self.state.ending.is_some() {
            tracing::info!(generation, status, "the worker ended");
            return Ok(());
        }
        tracing::error!(generation, status, "the worker ended; starting another");
        self.metrics.worker_restarts.inc();
        self.view.state().worker.restarts += 1;
        let now = Instant::now();
        let wait = self.state.backoff.after(worker.age(now));
        self.state.start_at = Some(now + wait);
        if wait == Duration::ZERO {
            self.start_or_retry();
        }
        Ok(())
    }

    /// Starts the next worker when it is time, and ends one that answers nobody.
    pub(super) fn tend_worker(&mut self, now: Instant) -> Result<(), AgentError> {
        if self.state.start_at.is_some_and(|at| at <= now) && self.state.ending.is_none() {
            self.start_or_retry();
        }
        if let Some(worker) = &mut self.state.worker
            && worker.is_silent(now)
        {
            tracing::error!(
                generation = worker.generation,
                "the worker does not answer; ending it"
            );
            worker.kill();
        }
        self.tell_predecessors();
        Ok(())
    }

    /// A worker that cannot be started (no memory, no process ids) is tried again: the agent holds the listeners.
    fn start_or_retry(&mut self) {
        if let Err(error) = self.start_worker() {
            tracing::error!(
                error = chain(&error),
                "no worker could be started; trying again"
            );
            self.state.start_at = Some(Instant::now() + self.state.backoff.after(Duration::ZERO));
        }
    }
}
