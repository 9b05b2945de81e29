//! Small helpers of the state: what belongs to what, and texts that are held once.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use mesh_core::workload::Labels;

/// Values by key, many of each.
#[derive(Debug)]
pub(super) struct Index<K, V>(HashMap<K, BTreeSet<V>>);

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Ord> Index<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) {
        self.0.entry(key).or_default().insert(value);
    }

    pub(super) fn remove<Q>(&mut self, key: &Q, value: &V)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(super) fn get<Q>(&self, key: &Q) -> impl Iterator<Item = &V> + use<'_, K, V, Q>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.get(key).into_iter().flatten()
    }

    pub(super) fn has<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.0.contains_key(key)
    }
}

/// Values by key, few of each: a set with one element would take ten times its size, for twenty thousand keys.
#[derive(Debug)]
pub(super) struct FewIndex<K, V>(HashMap<K, Vec<V>>);

impl<K, V> Default for FewIndex<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: PartialEq> FewIndex<K, V> {
    pub(super) fn insert(&mut self, key: K, value: V) {
        let values = self.0.entry(key).or_default();
        if !values.contains(&value) {
            values.push(value);
            values.shrink_to_fit();
        }
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.retain(|other| other != value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(super) fn get(&self, key: &K) -> impl Iterator<Item = &V> + use<'_, K, V> {
        self.0.get(key).into_iter().flatten()
    }
}

/// Labels that are held once: those of the pods of one Deployment are the same.
#[derive(Debug, Default)]
pub(super) struct SharedLabels {
    all: HashSet<Arc<Labels>>,
    /// How many there were when those that nobody holds were last dropped.
    swept: usize,
}

impl SharedLabels {
    /// The same labels, held once.
    pub(super) fn shared(&mut self, labels: &Arc<Labels>) -> Arc<Labels> {
        if let Some(known) = self.all.get(labels) {
            return Arc::clone(known);
        }
        if self.all.len() > 2 * self.swept + 64 {
            self.all.retain(|labels| Arc::strong_count(labels) > 1);
            self.swept = self.all.len();
        }
        self.all.insert(Arc::clone(labels));
        Arc::clone(labels)
    }
}
