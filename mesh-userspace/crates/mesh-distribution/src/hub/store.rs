//! The facts that a hub holds, by key and by who may be told of them. It knows no nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::{HashMap, HashSet};
use mesh_control::facts::{Fact, FactKey, FactKind};

use crate::wire::Body;

#[derive(Debug, Default)]
pub(super) struct Store {
    facts: HashMap<Arc<FactKey>, Entry>,
    /// Told to every node.
    common: HashSet<Arc<FactKey>>,
    namespaces: HashMap<Arc<str>, InNamespace>,
    /// Services that are told only to some namespaces, by each of these (its own is one).
    exported_to: HashMap<Arc<str>, HashSet<Arc<FactKey>>>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct InNamespace {
    /// Told to nodes that see the namespace.
    seen: HashSet<Arc<FactKey>>,
    /// Told to nodes that run it.
    owned: HashSet<Arc<FactKey>>,
}

/// A fact, without what only nodes need to understand.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) body: Body,
    pub(super) bearing: Bearing,
}

/// What a fact says about who is told what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Bearing {
    /// Nothing.
    None,
    /// A workload runs on a node.
    RunsOn(Arc<str>),
    /// A namespace reaches some.
    Reaches(BTreeSet<String>),
    /// A service is told to some, beside its own namespace.
    ExportedTo(BTreeSet<String>),
}

/// Who is told of a fact.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Audience<'e> {
    /// Every node.
    Everybody,
    /// Nodes that see its namespace.
    Seeing,
    /// Nodes that see it from one of these namespaces, or from its own.
    SeeingFrom(&'e BTreeSet<String>),
    /// Nodes that run its namespace.
    Running,
}

impl Bearing {
    pub(super) fn of(fact: &Fact) -> Self {
        match fact {
            Fact::Workload(spec) => spec
                .node
                .as_deref()
                .map_or(Self::None, |node| Self::RunsOn(node.into())),
            Fact::Namespace(spec) => spec
                .reach
                .as_ref()
                .map_or(Self::None, |reach| Self::Reaches(reach.clone())),
            Fact::Service(spec) => spec
                .export_to
                .as_ref()
                .map_or(Self::None, |some| Self::ExportedTo(some.clone())),
            Fact::Mesh(_) | Fact::Route(_) | Fact::Policy(_) | Fact::Mtls(_) => Self::None,
        }
    }
}

impl Entry {
    /// Who is told of the fact with this key.
    pub(super) fn audience(&self, key: &FactKey) -> Audience<'_> {
        match (key.kind, &self.bearing) {
            (FactKind::Mesh | FactKind::Namespace, _) => Audience::Everybody,
            (FactKind::Service, Bearing::ExportedTo(some)) => Audience::SeeingFrom(some),
            (FactKind::Workload | FactKind::Service | FactKind::Route, _) => Audience::Seeing,
            (FactKind::Policy | FactKind::Mtls, _) => Audience::Running,
        }
    }
}

impl Store {
    pub(super) fn get(&self, key: &FactKey) -> Option<(&Arc<FactKey>, &Entry)> {
        self.facts.get_key_value(key)
    }

    /// All of them: keys and bodies.
    pub(super) fn all(&self) -> Vec<(Arc<FactKey>, Bytes)> {
        self.facts
            .iter()
            .map(|(key, entry)| (Arc::clone(key), entry.body.bytes.clone()))
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.facts.len()
    }

    /// What all bodies take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the key as it is held.
    pub(super) fn insert(&mut self, key: FactKey, entry: Entry) -> Arc<FactKey> {
        let key = match self.remove(&key) {
            Some((held, _)) => held,
            None => Arc::new(key),
        };
        match entry.audience(&key) {
            Audience::Everybody => {
                self.common.insert(key.clone());
            }
            Audience::Running => {
                self.in_namespace(&key).owned.insert(key.clone());
            }
            Audience::Seeing | Audience::SeeingFrom(_) => {
                self.in_namespace(&key).seen.insert(key.clone());
            }
        }
        for namespace in exported(&key, &entry) {
            let namespace = Arc::from(namespace);
            let keys = self.exported_to.entry(namespace).or_default();
            keys.insert(key.clone());
        }
        self.bytes += entry.body.bytes.len();
        self.facts.insert(key.clone(), entry);
        key
    }

    pub(super) fn remove(&mut self, key: &FactKey) -> Option<(Arc<FactKey>, Entry)> {
        let (key, entry) = self.facts.remove_entry(key)?;
        self.bytes -= entry.body.bytes.len();
        self.common.remove(&key);
        if let Some(all) = self.namespaces.get_mut(key.namespace.as_str()) {
            all.seen.remove(&key);
            all.owned.remove(&key);
            if all.seen.is_empty() && all.owned.is_empty() {
                self.namespaces.remove(key.namespace.as_str());
            }
        }
        for namespace in exported(&key, &entry) {
            if let Some(keys) = self.exported_to.get_mut(namespace) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.exported_to.remove(namespace);
                }
            }
        }
        Some((key, entry))
    }

    /// The keys that every node is told of.
    pub(super) fn common(&self) -> impl Iterator<Item = &Arc<FactKey>> {
        self.common.iter()
    }

    /// The keys that nodes which see the namespace may be told of.
    pub(super) fn seen(&self, namespace: &str) -> impl Iterator<Item = &Arc<FactKey>> {
        let all = self.namespaces.get(namespace);
        all.into_iter().flat_map(|all| &all.seen)
    }

    /// The same, of all namespaces.
    pub(super) fn all_seen(&self) -> impl Iterator<Item = &Arc<FactKey>> {
        self.namespaces.values().flat_map(|all| &all.seen)
    }

    /// The keys that nodes which run the namespace are told of.
    pub(super) fn owned(&self, namespace: &str) -> impl Iterator<Item = &Arc<FactKey>> {
        let all = self.namespaces.get(namespace);
        all.into_iter().flat_map(|all| &all.owned)
    }

    /// Services that are told to the namespace and not to all.
    pub(super) fn exported_to(&self, namespace: &str) -> impl Iterator<Item = &Arc<FactKey>> {
        self.exported_to.get(namespace).into_iter().flatten()
    }

    fn in_namespace(&mut self, key: &FactKey) -> &mut InNamespace {
        let namespace = Arc::from(key.namespace.as_str());
        self.namespaces.entry(namespace).or_default()
    }
}

/// The namespaces that a service is told to, where these are not all.
fn exported<'k>(key: &'k FactKey, entry: &'k Entry) -> impl Iterator<Item = &'k str> {
    let some = match &entry.bearing {
        Bearing::ExportedTo(some) => Some(some),
        Bearing::None | Bearing::RunsOn(_) | Bearing::Reaches(_) => None,
    };
    let own = some.map(|_| key.namespace.as_str());
    let others = some.into_iter().flatten().map(String::as_str);
    own.into_iter().chain(others)
}
