//! The flows that a node remembers: a ring of those that ended, the state of those that are open, and a broadcast of
//! what comes. Kernel drops come in the same form, those of one second and one kind as one flow.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use mesh_core::addr::{ClientAddr, OrigDst};
use mesh_core::outcome::Reason;
use mesh_core::record::{Direction, Party, Process, Record, Transport};
use mesh_core::workload::{Name, WorkloadId};
use mesh_kernel::Drop;
use tokio::sync::broadcast;

use crate::api::flow::Flow;
use crate::api::objects::FlowQuery;

/// Flows of the past that are remembered.
pub(crate) const HELD: usize = 65_536;

/// Flows that a slow reader may be behind before it is told that it missed some.
const BEHIND: usize = 8_192;

/// Kinds of drop that are told apart within one second; beyond that the counters alone speak.
const KINDS_OF_DROP: usize = 1_024;

/// How long equal drops are gathered.
const GATHERED: Duration = Duration::from_secs(1);

/// What the node remembers.
#[derive(Debug)]
pub(crate) struct Flows {
    node: String,
    held: Mutex<Held>,
    coming: broadcast::Sender<Arc<Flow>>,
}

/// Records are held as they came: what people read is made of them when somebody does.
#[derive(Debug, Default)]
struct Held {
    ended: VecDeque<Arc<Record>>,
    /// By id; a worker tells long connections while they are open, and once more when they end.
    open: HashMap<u64, Arc<Record>>,
}

impl Flows {
    /// Nothing yet.
    pub(crate) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            held: Mutex::default(),
            coming: broadcast::channel(BEHIND).0,
        }
    }

    /// Takes a record, and gives what was known of its connection before.
    pub(crate) fn add(&self, record: impl Into<Arc<Record>>) -> Option<Arc<Record>> {
        let record = record.into();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = if record.reason == Reason::Open {
            // What the worker says is bounded like everything else.
            match held.open.len() < HELD || held.open.contains_key(&record.id) {
                true => held.open.insert(record.id, Arc::clone(&record)),
                false => None,
            }
        } else {
            let before = held.open.remove(&record.id);
            if held.ended.len() == HELD {
                held.ended.pop_front();
            }
            held.ended.push_back(Arc::clone(&record));
            before
        };
        // With the lock held, so that a reader sees each flow once. Mostly nobody listens, and then nothing is made.
        if self.coming.receiver_count() > 0 {
            drop(self.coming.send(Arc::new(self.flow(&record))));
        }
        before
    }

    fn flow(&self, record: &Record) -> Flow {
        Flow::from_record(record, &self.node)
    }

    /// Takes out the connections that were open in a worker that died, each ended as such.
    pub(crate) fn orphans(&self, of: impl Fn(u64) -> bool) -> Vec<Record> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<u64> = held.open.keys().copied().filter(|id| of(*id)).collect();
        let orphans = ids.iter().filter_map(|id| held.open.remove(id));
        orphans
            .map(|record| {
                let mut record = Arc::unwrap_or_clone(record);
                record.reason = Reason::ProxyDied;
                let lasted = record.started_at.elapsed().unwrap_or_default();
                record.duration_us = u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX);
                record
            })
            .collect()
    }

    /// The flows of the past that are meant, oldest first, and those to come. Nothing falls between the two.
    pub(crate) fn read(
        &self,
        query: &FlowQuery,
    ) -> (Vec<Arc<Flow>>, broadcast::Receiver<Arc<Flow>>) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let coming = self.coming.subscribe();
        let mut open: Vec<&Arc<Record>> = held.open.values().collect();
        open.sort_by_key(|record| record.started_at);
        let meant = |flow: &Flow| query.means(flow);
        // From the newest back, so that `last` costs no more than what it gives.
        let newest = open.into_iter().rev().chain(held.ended.iter().rev());
        let mut past: Vec<Arc<Flow>> = newest
            .map(|record| self.flow(record))
            .filter(meant)
            .take(query.last.unwrap_or(usize::MAX))
            .map(Arc::new)
            .collect();
        past.reverse();
        (past, coming)
    }

    /// How many flows are remembered.
    pub(crate) fn len(&self) -> usize {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.ended.len() + held.open.len()
    }
}

/// Gathers kernel drops that say the same, so that a flood of packets is one line per second.
#[derive(Debug, Default)]
pub(crate) struct Drops {
    gathered: BTreeMap<Kind, Gathered>,
    /// Drops beyond [`KINDS_OF_DROP`], since the last flush.
    beyond: u64,
    flushed_at: Option<Instant>,
    told: u64,
}

/// Drops of the same kind. Source ports differ with every attempt, so they do not tell kinds apart.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Kind {
    workload: Option<WorkloadId>,
    reason: u32,
    protocol: u8,
    source: Option<IpAddr>,
    destination: SocketAddr,
}

#[derive(Debug)]
struct Gathered {
    first: Drop,
    last_at: SystemTime,
    count: u64,
}

/// What is known about the ends of a drop.
pub(crate) trait Parties {
    /// The workload of this node with this number.
    fn local(&self, id: WorkloadId) -> Option<Party>;
    /// Whoever has this address, and the service behind it.
    fn at(&self, address: SocketAddr) -> (Party, Option<Name>);
    /// The process that dialled, if it still runs.
    fn process(&self, pid: u32) -> Option<Process>;
    /// The generation of the world.
    fn generation(&self) -> u64;
}

impl Drops {
    /// Takes a drop.
    pub(crate) fn add(&mut self, drop: Drop) {
        let kind = Kind {
            workload: drop.workload,
            reason: drop.reason as u32,
            protocol: drop.protocol,
            source: drop.source.map(|source| source.ip()),
            destination: drop.destination,
        };
        let full = self.gathered.len() >= KINDS_OF_DROP;
        match self.gathered.get_mut(&kind) {
            Some(gathered) => {
                gathered.count += 1;
                gathered.last_at = drop.at;
            }
            None if full => self.beyond += 1,
            None => {
                let last_at = drop.at;
                self.gathered.insert(
                    kind,
                    Gathered {
                        first: drop,
                        last_at,
                        count: 1,
                    },
                );
            }
        }
    }

    /// Whether there is something that has been gathered for long enough.
    pub(crate) fn due(&mut self, now: Instant) -> bool {
        if self.gathered.is_empty() {
            return false;
        }
        // A first drop after quiet is told at once.
        if self
            .flushed_at
            .is_none_or(|flushed| now.duration_since(flushed) >= GATHERED)
        {
            self.flushed_at = Some(now);
            return true;
        }
        false
    }

    /// The drops as records.
    pub(crate) fn flush(&mut self, parties: &dyn Parties) -> Vec<Record> {
        if self.beyond > 0 {
            tracing::warn!(
                count = self.beyond,
                "more kinds of kernel drops in one second than are told apart; metrics have them all"
            );
            self.beyond = 0;
        }
        let gathered = std::mem::take(&mut self.gathered);
        gathered
            .into_values()
            .map(|gathered| {
                self.told += 1;
                // The highest bit keeps these apart from the ids of workers.
                record(gathered, 1 << 63 | self.told, parties)
            })
            .collect()
    }
}

fn record(gathered: Gathered, id: u64, parties: &dyn Parties) -> Record {
    let Gathered {
        first,
        last_at,
        count,
    } = gathered;
    let own = first
        .workload
        .and_then(|id| parties.local(id))
        .unwrap_or_default();
    let inbound = matches!(
        first.reason,
        mesh_kernel::Reason::InboundNoListener
            | mesh_kernel::Reason::InboundUnknown
            | mesh_kernel::Reason::InboundUnreadable
            | mesh_kernel::Reason::InboundAssignFailed
    );
    let (there, service) = parties.at(first.destination);
    let (direction, source, destination) = if inbound {
        let source = first
            .source
            .map(|source| parties.at(source).0)
            .unwrap_or_default();
        (Direction::Inbound, source, own)
    } else {
        (Direction::Outbound, own, there)
    };
    let protocol = match first.protocol {
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        other => format!("IP protocol {other}"),
    };
    let mut detail = format!("{protocol}, {count} times");
    if let Some(owner) = first.owner {
        detail.push_str(&format!(", cgroup {owner}"));
    }
    let lasted = last_at.duration_since(first.at).unwrap_or_default();
    Record {
        id,
        direction,
        started_at: first.at,
        duration_us: u64::try_from(lasted.as_micros()).unwrap_or(u64::MAX),
        connect_us: None,
        source,
        destination,
        client: first.source.map(ClientAddr),
        original_destination: Some(OrigDst(first.destination)),
        service,
        route: None,
        backend: None,
        endpoint: None,
        process: first.pid.and_then(|pid| parties.process(pid)),
        transport: Transport::Kernel,
        tls: None,
        rule: Some(first.reason.label().to_owned()),
        reason: Reason::Kernel,
        detail: Some(detail),
        bytes_sent: 0,
        bytes_received: 0,
        generation: parties.generation(),
    }
}

#[cfg(test)]
mod tests;
