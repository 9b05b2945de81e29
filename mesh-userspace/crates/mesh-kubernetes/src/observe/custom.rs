//! Our own kinds. What they say is kept as it is: whatever is wrong with it is found where it is judged, and rejects that
//! object only.

use kube::core::object::Object;
use mesh_core::workload::Name;
use serde_json::Value;

use super::{Observed, created, name_of};
use crate::crds::{Condition, PolicyStatus};

/// A policy as the API server gives it.
pub(crate) type RawPolicy = Object<Option<Value>, Value>;

/// An AuthorizationPolicy, or a MeshPolicy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) name: Name,
    pub(crate) created: i64,
    pub(crate) generation: i64,
    pub(crate) resource_version: String,
    pub(crate) spec: Value,
    /// `status.conditions` as they are.
    pub(crate) conditions: Vec<Condition>,
}

impl Observed for Policy {
    type Key = Name;

    fn key(&self) -> Name {
        self.name.clone()
    }
}

impl From<RawPolicy> for Policy {
    fn from(raw: RawPolicy) -> Self {
        let status = raw.status.map(serde_json::from_value::<PolicyStatus>);
        Self {
            name: name_of(&raw.metadata),
            created: created(&raw.metadata),
            generation: raw.metadata.generation.unwrap_or_default(),
            resource_version: raw.metadata.resource_version.unwrap_or_default(),
            spec: raw.spec.unwrap_or_default(),
            conditions: status
                .and_then(Result::ok)
                .map(|status| status.conditions)
                .unwrap_or_default(),
        }
    }
}

impl Policy {
    /// Whether both ask for the same.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec && self.generation == other.generation
    }
}
