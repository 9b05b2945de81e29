//! One node that follows: the keys that it still has to be told of, and its next message. It knows no connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::{HashMap, HashSet};
use mesh_control::facts::FactKey;
use tokio::sync::{Notify, oneshot};

use super::session::{Ending, Opened};
use super::state::State;
use super::{NodeReport, NodeView};
use crate::proto::to_node::Message;
use crate::wire::{key_size, key_to_wire, told};
use crate::{PIECE, proto};

/// A delta ends at the latest when its follower has been refilled this often, however much changes meanwhile.
const REFILLS: u32 = 8;

pub(super) struct Follower {
    /// Tells this session from a later one of the same node.
    pub(super) id: u64,
    pub(super) version: String,
    pub(super) since: SystemTime,
    /// Keys that it has to be told of, in the next delta …
    dirty: HashSet<Arc<FactKey>>,
    /// … and in the one that is being told.
    telling: Vec<Arc<FactKey>>,
    refills: u32,
    /// It has not been told anything complete yet.
    first: bool,
    /// Generation of the last complete delta, and the last that it has taken.
    sent: u64,
    held: u64,
    bundle: u64,
    report: Option<NodeReport>,
    /// Questions that it has not been put yet.
    questions: VecDeque<proto::Question>,
    /// Everything that it was asked, with who waits for the answer to begin.
    asked: HashMap<u64, Option<oneshot::Sender<Opened>>>,
    pub(super) ending: Option<Ending>,
    wake: Arc<Notify>,
}

impl Follower {
    pub(super) fn new(
        id: u64,
        version: String,
        different: Vec<Arc<FactKey>>,
        wake: Arc<Notify>,
    ) -> Self {
        Self {
            id,
            version,
            since: SystemTime::now(),
            dirty: HashSet::default(),
            telling: different,
            refills: 0,
            first: true,
            sent: 0,
            held: 0,
            bundle: 0,
            report: None,
            questions: VecDeque::new(),
            asked: HashMap::default(),
            ending: None,
            wake,
        }
    }

    /// It has to be told of this key.
    pub(super) fn mark(&mut self, key: &Arc<FactKey>, most: usize) {
        if self.dirty.len() >= most {
            self.end(Ending::TooFarBehind);
            return;
        }
        let wakes = self.dirty.is_empty();
        self.dirty.insert(key.clone());
        if wakes {
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        self.dirty = HashSet::default();
        self.telling = Vec::new();
        self.wake();
    }

    pub(super) fn acknowledge(&mut self, generation: u64) {
        // A node cannot hold what it was not told.
        self.held = self.held.max(generation.min(self.sent));
    }

    pub(super) fn report(&mut self, report: NodeReport) {
        self.report = Some(report);
    }

    pub(super) fn is_current(&self) -> bool {
        !self.first && self.dirty.is_empty() && self.telling.is_empty() && self.held >= self.sent
    }

    pub(super) fn view(&self, name: &Arc<str>) -> NodeView {
        NodeView {
            name: name.to_string(),
            version: self.version.clone(),
            connected_since: self.since,
            current: self.is_current(),
            held: self.held,
            report: self.report.clone(),
        }
    }

    pub(super) fn questions(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn ask(&mut self, question: proto::Question, opened: oneshot::Sender<Opened>) {
        self.asked.insert(question.id, Some(opened));
        self.questions.push_back(question);
        self.wake();
    }

    /// Whoever waits for the answer to begin.
    pub(super) fn answers(&mut self, question: u64) -> Option<oneshot::Sender<Opened>> {
        self.asked.get_mut(&question)?.take()
    }

    /// Nobody wants the answer any more.
    pub(super) fn withdraw(&mut self, question: u64) {
        self.asked.remove(&question);
        self.questions.retain(|waiting| waiting.id != question);
    }

    fn is_silent(&self) -> bool {
        !self.first && self.dirty.is_empty() && self.telling.is_empty()
    }
}

impl State {
    /// The next message for a node; `None` while there is nothing to say.
    pub(super) fn next_message(&mut self, node: &str) -> Option<Message> {
        let follower = self.followers.get_mut(node)?;
        if let Some(question) = follower.questions.pop_front() {
            return Some(Message::Question(question));
        }
        if let Some(bundle) = &self.bundle
            && bundle.number != follower.bundle
        {
            follower.bundle = bundle.number;
            let roots = bundle.roots.to_string();
            return Some(Message::Bundle(proto::Bundle { roots }));
        }
        if follower.is_silent() {
            return None;
        }
        self.next_piece(node).map(Message::Delta)
    }

    /// The next piece of a delta: what is true now of the keys that the node has to be told of.
    fn next_piece(&mut self, node: &str) -> Option<proto::Delta> {
        let follower = self.followers.get_mut(node)?;
        let mut telling = std::mem::take(&mut follower.telling);
        let mut dirty = std::mem::take(&mut follower.dirty);
        let mut refills = follower.refills;
        let mut piece = proto::Delta::default();
        let mut size = 0;
        while size < PIECE {
            let Some(key) = telling.pop() else {
                if dirty.is_empty() || refills >= REFILLS {
                    piece.complete = true;
                    break;
                }
                // What has changed since goes along: the node sees one moment, not two.
                refills += 1;
                telling.extend(std::mem::take(&mut dirty));
                continue;
            };
            size += key_size(&key);
            match self.knows(node, &key) {
                Some(entry) => {
                    size += entry.body.bytes.len();
                    piece.set.push(told(&key, &entry.body));
                }
                None => piece.removed.push(key_to_wire(&key)),
            }
        }
        self.told.set += piece.set.len() as u64;
        self.told.removed += piece.removed.len() as u64;
        self.told.bytes += size as u64;
        piece.generation = self.generation;
        let follower = self.followers.get_mut(node)?;
        follower.telling = telling;
        follower.dirty = dirty;
        follower.refills = refills;
        if piece.complete {
            // It may have grown to everything there is.
            follower.telling.shrink_to(64);
            follower.refills = 0;
            follower.first = false;
            follower.sent = piece.generation;
        }
        Some(piece)
    }
}
