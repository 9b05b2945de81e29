//! What a hub knows at one moment, and how a change of facts becomes sets of keys at the followers that it concerns. It
//! knows no tasks and no connections; everything here happens under the hub's lock.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use mesh_control::facts::{FactKey, FactKind};

use super::follower::Follower;
use super::interest::{Flip, Interest, What};
use super::store::{Audience, Bearing, Entry, Store};
use super::{HubCounts, NodeView};
use crate::wire::Hash;

#[derive(Default)]
pub(super) struct State {
    /// Grows by one with every change that is one.
    pub(super) generation: u64,
    pub(super) facts: Store,
    pub(super) interest: Interest,
    pub(super) followers: HashMap<Arc<str>, Follower>,
    /// Everything there is has been published.
    pub(super) synced: bool,
    /// The controller is stopping.
    pub(super) stopping: bool,
    pub(super) bundle: Option<Bundle>,
    pub(super) last_id: u64,
    pub(super) told: Told,
}

/// What followers were told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) set: u64,
    pub(super) removed: u64,
    pub(super) bytes: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Bundle {
    pub(super) number: u64,
    pub(super) roots: Arc<str>,
}

/// A change, ready to be taken.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) set: Vec<(FactKey, Entry)>,
    pub(super) removed: Vec<FactKey>,
}

impl State {
    /// Takes a change. Returns the generation that has it.
    ///
    /// Whoever knew a fact before or is to know it afterwards has to look at it again. What is added comes before what is
    /// removed, so that a pod that takes the place of another does not make its node forget the namespace in between.
    pub(super) fn apply(&mut self, change: Change) -> u64 {
        let Change { mut set, removed } = change;
        let removed = self.really_removed(&set, removed);
        set.retain(|(key, entry)| self.is_different(key, entry));
        // What a namespace reaches comes before what is in it.
        set.sort_by_key(|(key, _)| key.kind);
        let different = !set.is_empty() || !removed.is_empty();

        for key in set.iter().map(|(key, _)| key).chain(&removed) {
            self.tell(key);
        }
        let mut flips = Vec::new();
        let mut keys = Vec::with_capacity(set.len());
        for (key, entry) in set {
            keys.push(self.set(key, entry, &mut flips));
        }
        for key in &removed {
            self.remove(key, &mut flips);
        }
        for key in &keys {
            self.tell(key);
        }
        for Flip { node, what } in flips {
            self.tell_flip(&node, &what);
        }
        self.generation += u64::from(different);
        self.generation
    }

    fn is_different(&self, key: &FactKey, entry: &Entry) -> bool {
        let before = self.facts.get(key);
        before.is_none_or(|(_, before)| before.body.hash != entry.body.hash)
    }

    /// Facts that were known and are not among those that are set.
    fn really_removed(&self, set: &[(FactKey, Entry)], removed: Vec<FactKey>) -> Vec<FactKey> {
        let kept: HashSet<&FactKey> = set.iter().map(|(key, _)| key).collect();
        removed
            .into_iter()
            .filter(|key| !kept.contains(key) && self.facts.get(key).is_some())
            .collect()
    }

    fn set(&mut self, key: FactKey, entry: Entry, flips: &mut Vec<Flip>) -> Arc<FactKey> {
        let before = self.facts.get(&key);
        let old = before.map_or(Bearing::None, |(_, before)| before.bearing.clone());
        let new = entry.bearing.clone();
        let key = self.facts.insert(key, entry);
        if old != new {
            self.bear(&key, &old, &new, flips);
        }
        key
    }

    fn remove(&mut self, key: &FactKey, flips: &mut Vec<Flip>) {
        if let Some((key, entry)) = self.facts.remove(key) {
            self.bear(&key, &entry.bearing, &Bearing::None, flips);
        }
    }

    /// Tells the interest what a fact says about who needs what.
    fn bear(&mut self, key: &FactKey, old: &Bearing, new: &Bearing, flips: &mut Vec<Flip>) {
        match key.kind {
            FactKind::Workload => {
                let namespace = Arc::from(key.namespace.as_str());
                // Arrival first: what stays needed is not taken for lost.
                if let Bearing::RunsOn(node) = new {
                    self.interest.arrive(node, &namespace, flips);
                }
                if let Bearing::RunsOn(node) = old {
                    self.interest.leave(node, &namespace, flips);
                }
            }
            FactKind::Namespace => {
                let reach = match new {
                    Bearing::Reaches(reach) => Some(reach),
                    Bearing::None | Bearing::RunsOn(_) | Bearing::ExportedTo(_) => None,
                };
                let namespace = Arc::from(key.name.as_str());
                self.interest.set_reach(&namespace, reach, flips);
            }
            FactKind::Mesh
            | FactKind::Service
            | FactKind::Route
            | FactKind::Policy
            | FactKind::Mtls => {}
        }
    }

    /// Everybody who may know of a fact has to look at it again.
    fn tell(&mut self, key: &FactKey) {
        let Some((key, entry)) = self.facts.get(key) else {
            return;
        };
        let most = most_keys(&self.facts);
        let followers = &mut self.followers;
        let mut mark = |node: &Arc<str>| {
            if let Some(follower) = followers.get_mut(node) {
                follower.mark(key, most);
            }
        };
        match entry.audience(key) {
            Audience::Everybody => {
                for follower in followers.values_mut() {
                    follower.mark(key, most);
                }
            }
            Audience::Seeing => self.interest.seeing(&key.namespace).for_each(&mut mark),
            Audience::SeeingFrom(some) => {
                self.interest.running(&key.namespace).for_each(&mut mark);
                for namespace in some {
                    self.interest.running(namespace).for_each(&mut mark);
                }
            }
            Audience::Running => self.interest.running(&key.namespace).for_each(&mut mark),
        }
    }

    /// A node needs something that it did not, or no longer something that it did.
    fn tell_flip(&mut self, node: &Arc<str>, what: &What) {
        if !self.followers.contains_key(node) {
            return;
        }
        let facts = &self.facts;
        let keys: Vec<Arc<FactKey>> = match what {
            What::Seen(namespace) => self.that(node, true, facts.seen(namespace)),
            What::Hidden(namespace) => self.that(node, false, facts.seen(namespace)),
            What::AllSeen => self.that(node, true, facts.all_seen()),
            What::AllHidden => self.that(node, false, facts.all_seen()),
            What::Home(namespace) => facts
                .owned(namespace)
                .chain(facts.exported_to(namespace))
                .cloned()
                .collect(),
        };
        let most = most_keys(facts);
        if let Some(follower) = self.followers.get_mut(node) {
            for key in &keys {
                follower.mark(key, most);
            }
        }
    }

    /// The keys that a node is to know (or is not to).
    fn that<'k>(
        &self,
        node: &str,
        knows: bool,
        keys: impl Iterator<Item = &'k Arc<FactKey>>,
    ) -> Vec<Arc<FactKey>> {
        keys.filter(|key| self.knows(node, key).is_some() == knows)
            .cloned()
            .collect()
    }

    /// The fact with this key, if the node is to know of it.
    pub(super) fn knows(&self, node: &str, key: &FactKey) -> Option<&Entry> {
        let (_, entry) = self.facts.get(key)?;
        let knows = match entry.audience(key) {
            Audience::Everybody => true,
            Audience::Seeing => self.interest.sees(node, &key.namespace),
            Audience::SeeingFrom(some) => {
                let own = std::iter::once(key.namespace.as_str());
                let homes = own.chain(some.iter().map(String::as_str));
                self.interest.sees_from(node, homes, &key.namespace)
            }
            Audience::Running => self.interest.runs(node, &key.namespace),
        };
        knows.then_some(entry)
    }

    /// The keys of everything that a node is to know.
    pub(super) fn view(&self, node: &str) -> HashSet<Arc<FactKey>> {
        let mut keys: HashSet<Arc<FactKey>> = self.facts.common().cloned().collect();
        let seen = |namespace: &str| self.that(node, true, self.facts.seen(namespace));
        if self.interest.sees_all(node) {
            keys.extend(self.that(node, true, self.facts.all_seen()));
        }
        for home in self.interest.homes(node) {
            keys.extend(self.facts.owned(home).cloned());
            if !self.interest.sees_all(node) {
                keys.extend(seen(home));
                for other in self.interest.reach(home).into_iter().flatten() {
                    keys.extend(seen(other));
                }
            }
        }
        keys
    }

    /// The keys in which what a node holds differs from what it is to hold.
    pub(super) fn difference(
        &self,
        node: &str,
        mut held: HashMap<FactKey, Option<Hash>>,
    ) -> Vec<Arc<FactKey>> {
        let mut different: Vec<Arc<FactKey>> = self
            .view(node)
            .into_iter()
            .filter(|key| {
                let known = held.remove(&**key);
                let entry = self.facts.get(key).map(|(_, entry)| entry.body.hash);
                known.flatten() != entry
            })
            .collect();
        different.extend(held.into_keys().map(Arc::new));
        different
    }

    pub(super) fn is_ready(&self) -> bool {
        self.synced && !self.stopping && self.facts.get(&FactKey::mesh()).is_some()
    }

    pub(super) fn set_bundle(&mut self, roots: &str) {
        let before = self.bundle.as_ref();
        if before.is_some_and(|before| *before.roots == *roots) {
            return;
        }
        self.bundle = Some(Bundle {
            number: before.map_or(1, |before| before.number + 1),
            roots: roots.into(),
        });
        for follower in self.followers.values() {
            follower.wake();
        }
    }

    pub(super) fn end_sessions(&mut self) {
        self.stopping = true;
        for follower in self.followers.values_mut() {
            follower.end(super::Ending::Stopping);
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn nodes(&self) -> Vec<NodeView> {
        self.followers
            .iter()
            .map(|(name, follower)| follower.view(name))
            .collect()
    }

    pub(super) fn counts(&self) -> HubCounts {
        let followers = || self.followers.values();
        HubCounts {
            generation: self.generation,
            facts: self.facts.len(),
            fact_bytes: self.facts.bytes(),
            nodes: self.followers.len(),
            behind: followers().filter(|one| !one.is_current()).count(),
            questions: followers().map(Follower::questions).sum(),
            told: self.told.set,
            untold: self.told.removed,
            told_bytes: self.told.bytes,
        }
    }
}

/// How many keys a follower may have to be told of. Every fact is one; more are only facts that came and went while it was
/// not listening, and such a follower begins again.
fn most_keys(facts: &Store) -> usize {
    facts.len() + 4096
}
