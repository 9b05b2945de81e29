//! What of an object matters, and nothing else: twenty thousand pods are held in memory. Objects come in as the API server
//! gives them (read by types that skip what nobody asks for) and are made small here. Nothing is decided.

mod core;
mod custom;
mod endpoints;
mod gateway;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_core::workload::Name;

pub(crate) use self::core::{
    MeshLabel, Namespace, Node, Phase, Pod, RawNamespace, RawNode, RawPod, RawService, Service,
    TargetPort,
};
pub(crate) use self::custom::{Policy, RawPolicy};
pub(crate) use self::endpoints::{Group, Member, MemberState, Part};
pub(crate) use self::gateway::{
    BackendRef, GATEWAY_GROUP, Grant, ParentRef, RawGrant, RawRoute, Route, RouteKey, RouteKind,
    RouteRule,
};

/// Something that is observed: comparable, with a key that is unique for its kind.
pub(crate) trait Observed: PartialEq {
    /// Its key.
    type Key: Clone + Eq + Hash;

    /// Its key.
    fn key(&self) -> Self::Key;
}

/// What a watch has to say.
#[derive(Clone, Debug)]
pub(crate) enum Seen<T: Observed> {
    /// It is new, or different.
    Is(T),
    /// It is no more.
    Gone(T::Key),
    /// These are all there are.
    All(Vec<T>),
}

impl<T: Observed> Seen<T> {
    /// The same of what the objects are made into.
    pub(crate) fn map(self, mut make: impl FnMut(T) -> T) -> Self {
        match self {
            Self::Is(object) => Self::Is(make(object)),
            Self::Gone(key) => Self::Gone(key),
            Self::All(objects) => Self::All(objects.into_iter().map(make).collect()),
        }
    }
}

/// What was seen, of whichever kind.
#[derive(Clone, Debug)]
pub(crate) enum Observation {
    Namespaces(Seen<Namespace>),
    Pods(Seen<Pod>),
    Services(Seen<Service>),
    Endpoints(Seen<Group>),
    Nodes(Seen<Node>),
    Routes(RouteKind, Seen<Route>),
    Grants(Seen<Grant>),
    AuthorizationPolicies(Seen<Policy>),
    MeshPolicies(Seen<Policy>),
}

/// Objects of a kind, by key.
#[derive(Debug)]
pub(crate) struct Table<T: Observed> {
    objects: HashMap<T::Key, Arc<T>>,
}

impl<T: Observed> Default for Table<T> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
        }
    }
}

/// An object that changed: what it was, and what it is.
pub(crate) struct Changed<T> {
    pub(crate) old: Option<Arc<T>>,
    pub(crate) new: Option<Arc<T>>,
}

impl<T: Observed> Table<T> {
    pub(crate) fn get(&self, key: &T::Key) -> Option<&Arc<T>> {
        self.objects.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects.values()
    }

    /// Takes in what was seen, and tells what changed by it. Of a whole list, `counts` tells which of the objects in the table
    /// it speaks of.
    pub(crate) fn apply(
        &mut self,
        seen: Seen<T>,
        counts: impl Fn(&T::Key) -> bool,
    ) -> Vec<Changed<T>> {
        match seen {
            Seen::Is(object) => self.set(object).into_iter().collect(),
            Seen::Gone(key) => self.remove(&key).into_iter().collect(),
            Seen::All(objects) => {
                let mut gone: Vec<T::Key> = self
                    .objects
                    .keys()
                    .filter(|key| counts(key))
                    .cloned()
                    .collect();
                let listed: std::collections::HashSet<T::Key> =
                    objects.iter().map(Observed::key).collect();
                gone.retain(|key| !listed.contains(key));
                let mut changed: Vec<Changed<T>> =
                    gone.iter().filter_map(|key| self.remove(key)).collect();
                changed.extend(objects.into_iter().filter_map(|object| self.set(object)));
                changed
            }
        }
    }

    fn set(&mut self, object: T) -> Option<Changed<T>> {
        let key = object.key();
        if self.objects.get(&key).is_some_and(|old| **old == object) {
            return None;
        }
        let new = Arc::new(object);
        let old = self.objects.insert(key, Arc::clone(&new));
        Some(Changed {
            old,
            new: Some(new),
        })
    }

    fn remove(&mut self, key: &T::Key) -> Option<Changed<T>> {
        let old = self.objects.remove(key)?;
        Some(Changed {
            old: Some(old),
            new: None,
        })
    }
}

/// The name of an object.
pub(crate) fn name_of(meta: &ObjectMeta) -> Name {
    Name::new(
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

/// When it was made, in seconds; 0 when it does not say.
fn created(meta: &ObjectMeta) -> i64 {
    meta.creation_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_second())
}
