//! What was observed → facts for the nodes, and what is to be said about each object. Pure: no request, no clock. It works
//! by difference: a change marks the units that depend on it, and [`Translator::settle`] works these out again and tells
//! which facts differ. A pod's change costs its own fact and those of the services that list it, however large the cluster.

mod document;
mod membership;
mod mesh_policies;
mod policies;
mod routes;
mod services;
mod state;
#[cfg(test)]
mod tests;
mod verdict;
mod workloads;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;

use mesh_control::facts::{Fact, FactChange, FactKey, FactKind, NamespaceSpec};
use mesh_core::workload::Name;

use crate::observe::Observation;
use crate::source::Settings;

pub(crate) use membership::Membership;
pub(crate) use state::State;
#[cfg(test)]
pub(crate) use tests::Cluster;
pub(crate) use verdict::{ObjectKey, Outcome, Programmable, Said, Verdict};
pub(crate) use workloads::{identity, member, workload};

/// What is worked out as one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Unit {
    Mesh,
    Namespace(String),
    Workload(Name),
    Service(Name),
    /// All routes of a service: they are asked in one order.
    RoutesOf(Name),
    AuthorizationPolicy(Name),
    MeshPolicy(Name),
}

/// Holds what was observed, and what was told.
#[derive(Debug)]
pub(crate) struct Translator {
    state: State,
    dirty: BTreeSet<Unit>,
    /// A hash of every fact that was told: comparing needs no copy of it.
    told: HashMap<FactKey, u64>,
    /// The facts of units that may have several.
    owned: HashMap<Unit, BTreeSet<FactKey>>,
    said: BTreeMap<ObjectKey, Said>,
    /// Objects about which something else is to be said, or whose status was changed.
    unsaid: BTreeSet<ObjectKey>,
    sequence: u64,
    hasher: std::hash::RandomState,
}

impl Translator {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self {
            state: State::new(settings),
            dirty: BTreeSet::from([Unit::Mesh]),
            told: HashMap::new(),
            owned: HashMap::new(),
            said: BTreeMap::new(),
            unsaid: BTreeSet::new(),
            sequence: 0,
            hasher: std::hash::RandomState::new(),
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Takes in what was seen. Nothing is worked out yet. Whether anything differs from before.
    pub(crate) fn observe(&mut self, observation: Observation) -> bool {
        let mut touched = state::Touched::default();
        let changed = self.state.apply(observation, &mut touched);
        let state::Touched {
            units,
            statuses,
            forgotten,
        } = touched;
        self.dirty.extend(units);
        self.unsaid.extend(statuses);
        for key in forgotten {
            self.said.remove(&key);
        }
        changed
    }

    /// Whether [`Self::settle`] has something to do.
    pub(crate) fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Works out what is marked. The sequence grows when nodes are told something.
    pub(crate) fn settle(&mut self) -> (u64, FactChange) {
        let mut change = FactChange::default();
        if self.dirty.is_empty() {
            return (self.sequence, change);
        }
        let mut judged = BTreeSet::new();
        for unit in std::mem::take(&mut self.dirty) {
            let facts = self.work_out(&unit, &mut judged);
            self.tell(unit, facts, &mut change);
        }
        // A unit may give up a key that another one takes over.
        let set: BTreeSet<FactKey> = change.set.iter().map(Fact::key).collect();
        change.removed.retain(|key| !set.contains(key));
        if !change.is_empty() {
            self.sequence += 1;
        }
        for key in judged {
            if let Some(said) = self.said.get_mut(&key) {
                said.sequence = self.sequence;
            }
            self.unsaid.insert(key);
        }
        (self.sequence, change)
    }

    /// Whether nodes are told of a service.
    pub(crate) fn is_told(&self, service: &Name) -> bool {
        self.told
            .contains_key(&FactKey::named(FactKind::Service, service))
    }

    /// What is to be said about every object.
    pub(crate) fn said(&self) -> &BTreeMap<ObjectKey, Said> {
        &self.said
    }

    pub(crate) fn has_unsaid(&self) -> bool {
        !self.unsaid.is_empty()
    }

    /// Objects about which something else is to be said since the last call.
    pub(crate) fn take_unsaid(&mut self) -> BTreeSet<ObjectKey> {
        std::mem::take(&mut self.unsaid)
    }

    /// The facts of a unit. What is to be said about its objects is noted, and which these are.
    fn work_out(&mut self, unit: &Unit, judged: &mut BTreeSet<ObjectKey>) -> Vec<Fact> {
        match unit {
            Unit::Mesh => vec![Fact::Mesh(self.state.settings.mesh.clone())],
            Unit::Namespace(name) => self
                .namespace(name)
                .map(Fact::Namespace)
                .into_iter()
                .collect(),
            Unit::Workload(name) => self
                .state
                .pods
                .get(name)
                .and_then(|pod| workload(&self.state, pod))
                .map(Fact::Workload)
                .into_iter()
                .collect(),
            Unit::Service(name) => services::service(&self.state, name)
                .map(Fact::Service)
                .into_iter()
                .collect(),
            Unit::RoutesOf(parent) => {
                let routes::Attached { routes, verdicts } = routes::attached(&self.state, parent);
                for ((key, index), verdict) in verdicts {
                    judged.insert(self.say(ObjectKey::Route(key), index, verdict));
                }
                routes.into_iter().map(Fact::Route).collect()
            }
            Unit::AuthorizationPolicy(name) => {
                let Some(policy) = self.state.authorization_policies.get(name).cloned() else {
                    return Vec::new();
                };
                let (specs, verdict) = policies::judge(&self.state, &policy);
                let key = ObjectKey::AuthorizationPolicy(name.clone());
                judged.insert(self.say(key, 0, verdict));
                specs.into_iter().map(Fact::Policy).collect()
            }
            Unit::MeshPolicy(name) => {
                let Some(policy) = self.state.mesh_policies.get(name).cloned() else {
                    return Vec::new();
                };
                let mesh_policies::Judgement { mtls, verdict } =
                    mesh_policies::judge(&self.state, &policy);
                judged.insert(self.say(ObjectKey::MeshPolicy(name.clone()), 0, verdict));
                mtls.into_iter().map(Fact::Mtls).collect()
            }
        }
    }

    fn namespace(&self, name: &str) -> Option<NamespaceSpec> {
        let namespace = self.state.namespaces.get(&name.to_owned())?;
        Some(NamespaceSpec {
            name: name.to_owned(),
            meshed: membership::is_meshed(namespace, &self.state.settings.system_namespace),
            pods_opt_in: self.state.opted_in(name),
            reach: mesh_policies::reach(&self.state, name),
        })
    }

    /// Notes which of a unit's facts differ from what was told.
    fn tell(&mut self, unit: Unit, facts: Vec<Fact>, change: &mut FactChange) {
        let before = match unit.only_key() {
            Some(key) => self
                .told
                .contains_key(&key)
                .then_some(key)
                .into_iter()
                .collect(),
            None => self.owned.remove(&unit).unwrap_or_default(),
        };
        let mut now = BTreeSet::new();
        for fact in facts {
            let key = fact.key();
            let hash = self.hash(&fact);
            now.insert(key.clone());
            if self.told.insert(key, hash) != Some(hash) {
                change.set.push(fact);
            }
        }
        for key in before.difference(&now) {
            self.told.remove(key);
            change.removed.push(key.clone());
        }
        if unit.only_key().is_none() && !now.is_empty() {
            self.owned.insert(unit, now);
        }
    }

    fn hash(&self, fact: &Fact) -> u64 {
        let mut writer = HashWriter(self.hasher.build_hasher());
        // Writing to a hasher cannot fail, and facts are made to be written.
        match serde_json::to_writer(&mut writer, fact) {
            Ok(()) => writer.0.finish(),
            // Counts as different, so that it is told.
            Err(_) => self.sequence,
        }
    }

    fn say(&mut self, key: ObjectKey, parent: usize, verdict: Verdict) -> ObjectKey {
        let said = self.said.entry(key.clone()).or_default();
        said.parents.insert(parent, verdict);
        key
    }
}

impl Unit {
    /// The key of the one fact that it can have.
    fn only_key(&self) -> Option<FactKey> {
        match self {
            Self::Mesh => Some(FactKey::mesh()),
            Self::Namespace(name) => Some(FactKey::of_namespace(name.as_str())),
            Self::Workload(name) => Some(FactKey::named(FactKind::Workload, name)),
            Self::Service(name) => Some(FactKey::named(FactKind::Service, name)),
            Self::RoutesOf(_) | Self::AuthorizationPolicy(_) | Self::MeshPolicy(_) => None,
        }
    }
}

struct HashWriter<H>(H);

impl<H: Hasher> io::Write for HashWriter<H> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
