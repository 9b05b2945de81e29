//! The controller's side: what is known, who follows, and what each follower still has to be told.
//!
//! ```text
//! publish ─▶ state (facts, interest) ─▶ per follower: a set of keys ─▶ session ─▶ one piece of a delta when it can be sent
//! ```
//!
//! A follower costs a set of keys, never a queue: what it is told is what is true when it is told. It resumes by the hashes
//! of what it holds, so that it can go on with any hub that knows the same facts.

mod follower;
mod interest;
mod session;
mod state;
mod store;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use foldhash::HashSet;
use mesh_control::facts::{Fact, FactChange, FactKey, FactKind};
use mesh_control::objects::WorkloadSpec;
use mesh_core::workload::Name;
use tokio::sync::watch;

use crate::question::{Answer, AskError, Question, read};
use crate::wire::{self, Body};
use crate::{LARGEST_FACT, proto};
use state::{Change, State};
use store::{Bearing, Entry};

pub(crate) use session::{Ending, Hello, Opened, Session};

/// A node's words about itself that are longer than this are not kept.
const LARGEST_DETAILS: usize = 16 << 10;

/// How long a node may take to begin an answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// What the controller knows, and the nodes that follow it. Clones are the same hub.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    /// Of this hub among all that there ever were, so that generations of different ones are not compared.
    id: u64,
    state: Mutex<State>,
    /// Counts changes of [`Hub::nodes`].
    nodes: watch::Sender<u64>,
}

/// What became of a change.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Published {
    /// The generation that has it; the one before when nothing was different.
    pub generation: u64,
    /// Facts that cannot be told, and why. What was known of them before stays.
    pub refused: Vec<(FactKey, String)>,
}

/// A node that follows.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Its name, as its certificate says it.
    pub name: String,
    /// Its release.
    pub version: String,
    /// Since when.
    pub connected_since: SystemTime,
    /// It holds everything that it is to hold.
    pub current: bool,
    /// The generation up to which it has said that it holds everything.
    pub held: u64,
    /// What it last said of itself.
    pub report: Option<NodeReport>,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeReport {
    /// Pods may start on it: whatever is to be captured is.
    pub ready: bool,
    /// What stands in the way, or is worth knowing; for people.
    pub message: String,
    /// Workloads that are enrolled.
    pub enforcing: u32,
    /// Workloads that are not yet.
    pub pending: u32,
    /// Workloads that cannot be.
    pub blocked: u32,
    /// The generation of this hub that its data path works by; 0 where it does not say.
    pub applied: u64,
    /// Anything else, JSON, of at most 16 KiB: the controller holds one for every node.
    pub details: String,
}

/// Numbers, for metrics.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HubCounts {
    /// The generation.
    pub generation: u64,
    /// Facts.
    pub facts: usize,
    /// What they take as JSON.
    pub fact_bytes: usize,
    /// Nodes that follow.
    pub nodes: usize,
    /// Those of them that do not hold everything yet.
    pub behind: usize,
    /// Questions that are being answered.
    pub questions: usize,
    /// Facts that followers were told, each time and each follower counted.
    pub told: u64,
    /// Facts that followers were told to forget.
    pub untold: u64,
    /// What all of that took, without framing.
    pub told_bytes: u64,
}

impl Hub {
    /// A hub that knows nothing. Nodes can follow it when [`Hub::mark_synced`] was called and it knows of the mesh.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            id: rand::random(),
            state: Mutex::default(),
            nodes: watch::Sender::new(0),
        }))
    }

    /// Takes a change, all of it at once. What is not different costs nobody anything; of two versions of one fact the last
    /// counts.
    pub fn publish(&self, change: FactChange) -> Published {
        let (change, refused) = encode(change);
        let mut state = self.lock();
        let generation = state.apply(change);
        Published {
            generation,
            refused,
        }
    }

    /// What was published is everything there is: nodes may be told what to forget.
    pub fn mark_synced(&self) {
        self.lock().synced = true;
    }

    /// Whether nodes can follow.
    pub fn is_ready(&self) -> bool {
        self.lock().is_ready()
    }

    /// PEM of all roots, for every node, now and when it comes.
    pub fn set_bundle(&self, roots: &str) {
        self.lock().set_bundle(roots);
    }

    /// A fact.
    pub fn fact(&self, key: &FactKey) -> Option<Fact> {
        let bytes = self.lock().facts.get(key)?.1.body.bytes.clone();
        // It was made of a fact.
        serde_json::from_slice(&bytes).ok()
    }

    /// A workload.
    pub fn workload(&self, name: &Name) -> Option<WorkloadSpec> {
        match self.fact(&FactKey::named(FactKind::Workload, name))? {
            Fact::Workload(spec) => Some(spec),
            _ => None,
        }
    }

    /// Every fact, sorted by key.
    pub fn facts(&self) -> Vec<Fact> {
        let mut bodies = self.lock().facts.all();
        bodies.sort_by(|(a, _), (b, _)| a.cmp(b));
        bodies
            .iter()
            .filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok())
            .collect()
    }

    /// Everything that a node is to hold, sorted by key.
    pub fn view(&self, node: &str) -> Vec<Fact> {
        let mut bodies = {
            let state = self.lock();
            let keys = state.view(node);
            let entry = |key: Arc<FactKey>| {
                let bytes = state.facts.get(&key)?.1.body.bytes.clone();
                Some((key, bytes))
            };
            keys.into_iter().filter_map(entry).collect::<Vec<_>>()
        };
        bodies.sort_by(|(a, _), (b, _)| a.cmp(b));
        bodies
            .iter()
            .filter_map(|(_, bytes)| serde_json::from_slice(bytes).ok())
            .collect()
    }

    /// The nodes that follow this hub, sorted by name.
    pub fn nodes(&self) -> Vec<NodeView> {
        let mut nodes = self.lock().nodes();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        nodes
    }

    /// Changes when a node comes, goes or reports.
    pub fn nodes_changed(&self) -> watch::Receiver<u64> {
        self.0.nodes.subscribe()
    }

    /// Numbers, for metrics.
    pub fn counts(&self) -> HubCounts {
        self.lock().counts()
    }

    /// Asks a node. Whoever drops the future or the answer's body has the node stop.
    ///
    /// # Errors
    /// The node does not follow this hub, has too many questions, goes away or says nothing.
    pub async fn ask(&self, node: &str, question: Question) -> Result<Answer, AskError> {
        let (asked, opened) = self.put(node, &question)?;
        let opened = match tokio::time::timeout(ANSWER_PATIENCE, opened).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_gone)) => return Err(AskError::Gone { node: node.into() }),
            Err(_late) => {
                return Err(AskError::Silent {
                    node: node.into(),
                    patience: ANSWER_PATIENCE,
                });
            }
        };
        let Opened { parts, taken } = opened;
        read(parts, node, (asked, taken)).await
    }

    /// Ends every session, as a controller does that is stopping: nodes go to another one at once.
    pub fn end_sessions(&self) {
        self.lock().end_sessions();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes_have_changed(&self) {
        self.0.nodes.send_modify(|count| *count += 1);
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("id", &self.0.id)
            .finish_non_exhaustive()
    }
}

impl NodeReport {
    pub(crate) fn to_wire(&self) -> proto::Report {
        let Self {
            ready,
            message,
            enforcing,
            pending,
            blocked,
            applied,
            details,
        } = self.clone();
        proto::Report {
            ready,
            message,
            enforcing,
            pending,
            blocked,
            applied_generation: applied,
            details,
        }
    }

    pub(crate) fn from_wire(report: proto::Report) -> Self {
        let proto::Report {
            ready,
            message,
            enforcing,
            pending,
            blocked,
            applied_generation,
            details,
        } = report;
        let bounded = |text: String| {
            if text.len() > LARGEST_DETAILS {
                String::new()
            } else {
                text
            }
        };
        Self {
            ready,
            message: bounded(message),
            enforcing,
            pending,
            blocked,
            applied: applied_generation,
            details: bounded(details),
        }
    }
}

/// Makes bodies before anything is locked.
fn encode(change: FactChange) -> (Change, Vec<(FactKey, String)>) {
    let FactChange { set, removed } = change;
    let mut encoded = Change {
        set: Vec::with_capacity(set.len()),
        removed,
    };
    let mut refused = Vec::new();
    let mut seen = HashSet::default();
    // Of doubles the last counts.
    for fact in set.iter().rev() {
        let key = fact.key();
        if !seen.insert(key.clone()) {
            continue;
        }
        match wire::body(fact) {
            Ok(body) if body.bytes.len() > LARGEST_FACT => {
                let why = format!(
                    "it takes {} bytes, and a node can be told {LARGEST_FACT} at once; what was known of it stays",
                    body.bytes.len()
                );
                refused.push((key, why));
            }
            Ok(body) => encoded.set.push((key, entry(fact, body))),
            Err(error) => refused.push((key, format!("it cannot be written: {error}"))),
        }
    }
    (encoded, refused)
}

fn entry(fact: &Fact, body: Body) -> Entry {
    Entry {
        body,
        bearing: Bearing::of(fact),
    }
}
