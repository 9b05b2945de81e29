//! The control thread: takes what the agent says and passes it on, and tells the agent what threads have to tell.
//! Receiving, telling and recording wait for nothing but themselves: a slow agent holds up none of the others.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mesh_core::addr::canonical;
use mesh_core::record::Record;
use mesh_core::snapshot::{Snapshot, World};
use mesh_core::workload::WorkloadId;
use tokio::signal::unix::Signal;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Records;
use super::data::{Command, Enrolling, Threads};
use crate::configs::IdentitySet;
use crate::context::{ServedWorkloads, Shared};
use crate::drain::DEFAULT_DEADLINE;
use crate::link::{
    Identities, LinkError, Listener, LocalWorkload, MAX_RECORDS, Received, ToAgent, ToWorker,
    WorkerEnd, payload,
};
use crate::memory::Thrift;
use crate::served::Served;

/// How long a record may wait for company.
const GATHER: Duration = Duration::from_millis(10);

/// How long the last records may take to reach the agent.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves until all threads have drained.
pub(super) async fn run(
    link: WorkerEnd,
    shared: Arc<Shared>,
    mut threads: Threads,
    messages: UnboundedReceiver<ToAgent>,
    records: Records,
    mut terminate: Signal,
) {
    let closing = watch::Sender::new(false);
    let done = threads.take_done();
    let control = Control {
        link: &link,
        shared: &shared,
        threads: &threads,
        alone: AtomicBool::new(false),
    };
    let serve = async {
        tokio::select! {
            () = done.wait() => {}
            () = control.receive() => {}
            () = control.tick() => {}
            () = async {
                while terminate.recv().await.is_some() {
                    shared.drain.begin(DEFAULT_DEADLINE);
                }
            } => {}
        }
        closing.send_replace(true);
    };
    tokio::join!(
        serve,
        control.tell(messages, closing.subscribe()),
        record(&link, &shared, records, closing.subscribe())
    );
}

struct Control<'a> {
    link: &'a WorkerEnd,
    shared: &'a Arc<Shared>,
    threads: &'a Threads,
    /// The agent has gone.
    alone: AtomicBool,
}

/// What the agent said cannot be done; in words for its log.
type Complaint = String;

impl Control<'_> {
    /// Takes messages, for ever: when the agent has gone there are none.
    async fn receive(&self) {
        loop {
            match self.link.recv().await {
                Ok(Some(received)) => {
                    if let Err(complaint) = self.carry_out(received) {
                        tracing::warn!(%complaint, "a message of the agent was not carried out");
                        self.say(ToAgent::Complaint(complaint));
                    }
                }
                Ok(None) => break,
                Err(error @ LinkError::Socket { .. }) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "the link failed");
                    break;
                }
                Err(error) => self.say(ToAgent::Complaint(error.to_string())),
            }
        }
        self.alone.store(true, Ordering::Relaxed);
        tracing::warn!("the agent has gone; serving with what there is");
        std::future::pending().await
    }

    fn carry_out(&self, received: Received<ToWorker>) -> Result<(), Complaint> {
        let descriptors = received.descriptors;
        match received.message {
            ToWorker::Hello { .. } => Err("the agent said hello twice".to_owned()),
            ToWorker::Enrol {
                workload,
                listeners,
            } => self.enrol(workload, pair(&listeners, descriptors)?),
            ToWorker::Host { listeners } => {
                let listeners = pair(&listeners, descriptors)?;
                self.threads
                    .send_listeners(&listeners, Command::Host)
                    .map_err(|error| format!("the host's listeners cannot be shared: {error}"))
            }
            ToWorker::Unenrol { workload } => self.unenrol(workload),
            ToWorker::Sockets { workload, kind } => {
                self.served(workload)?.reservoir.put(kind, descriptors);
                Ok(())
            }
            ToWorker::World => self.world(&descriptors),
            ToWorker::Identities => self.identities(&descriptors),
            ToWorker::Drain { deadline } => {
                self.shared.drain.begin(deadline);
                Ok(())
            }
        }
    }

    fn enrol(
        &self,
        local: LocalWorkload,
        listeners: Vec<(Listener, OwnedFd)>,
    ) -> Result<(), Complaint> {
        let (id, name) = (local.id, local.name.clone());
        if self.shared.served.load().by_id.contains_key(&id) {
            return Err(format!("workload {id} ({name}) is enrolled already"));
        }
        let agent = self.shared.agent.clone();
        let own = addresses(&listeners)
            .map_err(|error| format!("a descriptor of {name} is not a listener: {error}"))?;
        let served = Served::new(local, own, agent.clone(), &self.shared.counters);
        let enrolling = Enrolling::new(Arc::clone(&served), agent);
        // Known before anything is accepted for it: connections may have been waiting in the listeners for long.
        self.change_served(|all| {
            all.by_id.insert(id, Arc::clone(&served));
            all.by_name.insert(name.clone(), Arc::clone(&served));
        });
        let sent = self.threads.send_listeners(&listeners, |listeners| {
            Command::Enrol(Arc::clone(&enrolling), listeners)
        });
        if let Err(error) = sent {
            enrolling.abandon();
            self.change_served(|all| {
                all.by_id.remove(&id);
                all.by_name.remove(&name);
            });
            return Err(format!(
                "the listeners of {name} cannot be shared among threads: {error}"
            ));
        }
        served.prime();
        Ok(())
    }

    fn unenrol(&self, id: WorkloadId) -> Result<(), Complaint> {
        self.served(id)?.leaving.begin();
        Ok(())
    }

    fn world(&self, descriptors: &[OwnedFd]) -> Result<(), Complaint> {
        let world: World = open(descriptors, "the world")?;
        let generation = world.generation;
        self.shared.world.store(Arc::new(Snapshot::new(world)));
        self.threads.send(|| Command::Recheck);
        self.say(ToAgent::Applied { generation });
        Ok(())
    }

    fn identities(&self, descriptors: &[OwnedFd]) -> Result<(), Complaint> {
        let identities: Identities = open(descriptors, "the identities")?;
        let set = IdentitySet::new(&identities)
            .map_err(|error| format!("the identities cannot be used: {error}"))?;
        self.shared.identities.store(Arc::new(set));
        self.threads.send(|| Command::Recheck);
        Ok(())
    }

    fn served(&self, id: WorkloadId) -> Result<Arc<Served>, Complaint> {
        let served = self.shared.served.load();
        served
            .by_id
            .get(&id)
            .cloned()
            .ok_or_else(|| format!("workload {id} is not enrolled here"))
    }

    fn change_served(&self, change: impl FnOnce(&mut ServedWorkloads)) {
        // Only this thread writes.
        let mut all = ServedWorkloads::clone(&self.shared.served.load());
        change(&mut all);
        self.shared.served.store(Arc::new(all));
    }

    fn say(&self, message: ToAgent) {
        // The receiver lives as long as the worker.
        drop(self.shared.agent.send(message));
    }

    /// Tells the agent what there is to tell.
    async fn tell(
        &self,
        mut messages: UnboundedReceiver<ToAgent>,
        mut closing: watch::Receiver<bool>,
    ) {
        loop {
            let message = tokio::select! {
                biased;
                message = messages.recv() => message,
                _ = closing.wait_for(|closing| *closing) => None,
            };
            let Some(message) = message else { break };
            if let ToAgent::Unenrolled { workload } = message {
                self.forget(workload);
            }
            tokio::select! {
                sent = self.link.send(&message, &[]) => if let Err(error) = sent {
                    tracing::debug!(%error, "the agent was not told");
                },
                _ = closing.wait_for(|closing| *closing) => break,
            }
        }
    }

    /// The last connection of a workload has ended: what is left of it goes.
    fn forget(&self, id: WorkloadId) {
        self.change_served(|all| {
            all.by_id.remove(&id);
            all.by_name.retain(|_, served| served.local.id != id);
        });
        self.threads.send(|| Command::Forget(id));
    }

    /// Once a second: demand and figures.
    async fn tick(&self) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut thrift = Thrift::default();
        loop {
            ticks.tick().await;
            // Records of other threads end here, and are freed here.
            let figures = self.shared.counters.read(self.threads.figures());
            let open = usize::try_from(figures.open_outbound + figures.open_inbound);
            if thrift.tick(open.unwrap_or(usize::MAX), self.shared.sink.opened()) {
                (self.shared.memory.give_back)();
            }
            if thrift.became_idle() {
                (self.shared.memory.unmap_code)();
            }
            // What an agent gave before it went is for the time without one, however quiet that begins.
            if !self.alone.load(Ordering::Relaxed) {
                for served in self.shared.served.load().by_id.values() {
                    served.reservoir.tick();
                }
            }
            // Figures are absolute: one that does not fit now is made good by the next.
            if let Err(error) = self.link.try_send(&ToAgent::Figures(figures), &[]) {
                tracing::debug!(%error, "the agent did not get figures");
            }
        }
    }
}

/// Passes records on, in batches, and those that are there at the end too.
async fn record(
    link: &WorkerEnd,
    shared: &Shared,
    mut records: Records,
    closing: watch::Receiver<bool>,
) {
    let closed = wait_until_closing(closing.clone());
    let late = async {
        wait_until_closing(closing).await;
        sleep(FAREWELL).await;
    };
    let pass_on = async {
        let mut closed = std::pin::pin!(closed);
        let mut last = false;
        while !last {
            let mut batch = Vec::with_capacity(MAX_RECORDS);
            tokio::select! {
                biased;
                _ = records.recv_many(&mut batch, MAX_RECORDS) => {}
                () = &mut closed => last = true,
            }
            if batch.len() < MAX_RECORDS && !last {
                sleep(GATHER).await;
                gather(&mut records, &mut batch);
            }
            if !batch.is_empty() {
                give(link, shared, batch).await;
            }
        }
    };
    tokio::select! {
        () = pass_on => {}
        () = late => tracing::warn!("the agent did not take the last records"),
    }
}

async fn wait_until_closing(mut closing: watch::Receiver<bool>) {
    drop(closing.wait_for(|closing| *closing).await);
}

fn gather(records: &mut Records, batch: &mut Vec<Record>) {
    while batch.len() < MAX_RECORDS {
        match records.try_recv() {
            Ok(record) => batch.push(record),
            Err(_) => break,
        }
    }
}

async fn give(link: &WorkerEnd, shared: &Shared, batch: Vec<Record>) {
    let count = batch.len() as u64;
    // Without an agent records are lost, like those that it does not take.
    let lost = link.send_records(batch).await.unwrap_or(count);
    shared
        .counters
        .records_lost
        .fetch_add(lost, Ordering::Relaxed);
}

fn open<T: serde::de::DeserializeOwned>(
    descriptors: &[OwnedFd],
    what: &str,
) -> Result<T, Complaint> {
    let [payload] = descriptors else {
        return Err(format!(
            "{what} came with {} descriptors, not one",
            descriptors.len()
        ));
    };
    payload::unseal(payload).map_err(|error| format!("{what} cannot be read: {error}"))
}

fn addresses(listeners: &[(Listener, OwnedFd)]) -> io::Result<Vec<SocketAddr>> {
    listeners
        .iter()
        .map(|(_, descriptor)| {
            let address = socket2::SockRef::from(descriptor).local_addr()?.as_socket();
            let address = address.ok_or(io::ErrorKind::InvalidInput)?;
            Ok(canonical(address))
        })
        .collect()
}

fn pair(
    listeners: &[Listener],
    descriptors: Vec<OwnedFd>,
) -> Result<Vec<(Listener, OwnedFd)>, Complaint> {
    if listeners.len() != descriptors.len() {
        return Err(format!(
            "{} listeners came with {} descriptors",
            listeners.len(),
            descriptors.len()
        ));
    }
    Ok(listeners.iter().copied().zip(descriptors).collect())
}
