//! What was observed becomes what nodes are told; and how far they are with it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mesh_distribution::hub::{Hub, NodeView};
use mesh_distribution::relay::Fleet;
use mesh_kubernetes::source::Update;
use mesh_kubernetes::status::Acknowledged;
use tokio::sync::{Notify, mpsc, watch};

/// How often is asked how far the nodes are, while some are behind.
const ASK: Duration = Duration::from_millis(500);

/// Another controller watches the same cluster: what we have told for this long, it has told, too.
const SAME: Duration = Duration::from_secs(2);

/// Updates that are remembered until every node has them. Beyond that, the oldest wait for the next ones.
const REMEMBERED: usize = 4_096;

/// What was told, and not by everybody applied yet.
#[derive(Debug, Default)]
pub(super) struct Told {
    updates: Mutex<VecDeque<One>>,
    /// Facts that no node can be told.
    refused: Mutex<Vec<(String, String)>>,
    /// Something was told.
    something: Notify,
}

#[derive(Clone, Copy, Debug)]
struct One {
    sequence: u64,
    /// The generation of our hub that has it.
    generation: u64,
    at: Instant,
}

impl Told {
    /// Facts that no node can be told: which, and why.
    pub(super) fn refused(&self) -> Vec<(String, String)> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.clone()
    }

    fn remember(&self, one: One) {
        let mut updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        if updates.len() == REMEMBERED {
            updates.pop_front();
        }
        updates.push_back(one);
        self.something.notify_one();
    }

    /// The newest update of those that `done` says are done, provided that all before it are; those are forgotten.
    fn newest_done(&self, done: impl Fn(&One) -> bool) -> Option<u64> {
        let mut updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newest = None;
        while let Some(first) = updates.front()
            && done(first)
        {
            newest = Some(first.sequence);
            updates.pop_front();
        }
        newest
    }

    fn is_all_done(&self) -> bool {
        let updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        updates.is_empty()
    }
}

/// Tells the hub, until there are no more updates.
pub(super) async fn run(hub: Hub, told: Arc<Told>, mut updates: mpsc::Receiver<Update>) {
    let mut first = true;
    while let Some(Update { sequence, change }) = updates.recv().await {
        let published = hub.publish(change);
        let mut refused = told.refused.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, why) in published.refused {
            tracing::error!(fact = %key, why, "this cannot be told to nodes");
            refused.retain(|(known, _)| *known != key.to_string());
            refused.push((key.to_string(), why));
        }
        drop(refused);
        told.remember(One {
            sequence,
            generation: published.generation,
            at: Instant::now(),
        });
        if first {
            first = false;
            hub.mark_synced();
            let facts = hub.counts().facts;
            tracing::info!(facts, "the cluster is known; nodes are served");
        }
    }
}

/// Finds out how far the nodes are, while `holding` (nobody else writes that down).
pub(super) async fn acknowledge(
    hub: Hub,
    fleet: Fleet,
    told: Arc<Told>,
    mut holding: watch::Receiver<bool>,
    acknowledged: watch::Sender<Acknowledged>,
) {
    let mut changed = hub.nodes_changed();
    loop {
        if holding.wait_for(|holding| *holding).await.is_err() {
            return;
        }
        if told.is_all_done() {
            tokio::select! {
                () = told.something.notified() => {}
                _lost = holding.changed() => {}
            }
            continue;
        }
        let others = Others::ask(&fleet).await;
        let own = hub.nodes();
        let newest = told.newest_done(|one| {
            own.iter().all(|node| applied(node) >= one.generation) && others.have(one)
        });
        let waiting_for = match told.is_all_done() {
            true => Vec::new(),
            false => behind(&hub, &own, others.behind),
        };
        acknowledged.send_if_modified(|known| {
            let now = Acknowledged {
                sequence: newest.unwrap_or(known.sequence),
                waiting_for,
            };
            let differs = now != *known;
            *known = now;
            differs
        });
        tokio::select! {
            _changed = changed.changed() => {}
            () = tokio::time::sleep(ASK) => {}
        }
    }
}

/// The nodes that follow other controllers, whose generations cannot be compared with ours.
struct Others {
    asked_at: Instant,
    /// There are some.
    any: bool,
    /// Those that do not know everything that their controller knows, or cannot be asked about.
    behind: Vec<String>,
}

impl Others {
    async fn ask(fleet: &Fleet) -> Self {
        let asked_at = Instant::now();
        let (nodes, problems) = fleet.nodes().await;
        let others = || nodes.iter().filter(|node| node.replica.is_some());
        let behind = others().filter(|node| !node.current);
        let behind = behind.map(|node| node.name.clone()).chain(problems);
        Self {
            asked_at,
            any: others().next().is_some(),
            behind: behind.collect(),
        }
    }

    /// Whether they have an update.
    fn have(&self, one: &One) -> bool {
        let settled = self.asked_at.saturating_duration_since(one.at) >= SAME;
        self.behind.is_empty() && (!self.any || settled)
    }
}

/// The generation that a node's data path works by, as far as it says.
fn applied(node: &NodeView) -> u64 {
    match node.report.as_ref().map(|report| report.applied) {
        None | Some(0) => node.held,
        Some(applied) => applied,
    }
}

fn behind(hub: &Hub, own: &[NodeView], mut others: Vec<String>) -> Vec<String> {
    let generation = hub.counts().generation;
    let own = own
        .iter()
        .filter(|node| applied(node) < generation)
        .map(|node| node.name.clone());
    others.extend(own);
    others.sort_unstable();
    others
}

#[cfg(test)]
mod tests;
