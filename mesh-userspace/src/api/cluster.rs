//! What a cluster's controllers tell about the mesh as a whole. Listings, flows, checks and explanations have the form that
//! nodes give them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::objects::Object;

/// The mesh of a cluster in one object.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClusterStatus {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) trust_domain: String,
    /// Roots that are trusted: more than one while the root is being replaced.
    pub(crate) trusted_roots: usize,
    /// When the first of the trusted roots ends.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) root_not_after: Option<Timestamp>,
    /// The controller that writes; absent while there is none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) leader: Option<String>,
    /// Every controller that could be asked, the one that answers first.
    #[serde(default)]
    pub(crate) controllers: Vec<ControllerStatus>,
    /// Absent from an answer about one namespace.
    #[serde(default)]
    pub(crate) nodes: Vec<NodeStatus>,
    pub(crate) objects: ObjectCounts,
    /// Objects that are not, or not wholly, in effect.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) problems: Vec<ObjectProblem>,
    /// Whatever else a person should see to.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) warnings: Vec<String>,
}

/// One controller.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ControllerStatus {
    pub(crate) name: String,
    pub(crate) version: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) not_ready: Vec<String>,
    /// The nodes that it serves.
    pub(crate) nodes: usize,
    /// What it refused since its start, by kind; told by the one that answers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) refusals: BTreeMap<String, u64>,
}

/// One node, as the controllers see it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStatus {
    pub(crate) name: String,
    /// Its agent is connected, to this controller.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) controller: Option<String>,
    pub(crate) ready: bool,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) not_ready: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) version: Option<String>,
    /// It decides with the newest that is meant for it.
    pub(crate) current: bool,
    /// Workloads that it captures.
    pub(crate) enrolled: u32,
    /// Workloads that it should capture.
    pub(crate) workloads: u32,
}

impl NodeStatus {
    /// In one word.
    pub(crate) fn state(&self) -> &'static str {
        match (&self.controller, self.ready) {
            (None, _) => "not connected",
            (Some(_), false) => "not ready",
            (Some(_), true) => "ready",
        }
    }
}

impl Object for NodeStatus {
    const KIND: &'static str = "Node";
    fn namespace(&self) -> Option<&str> {
        None
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

/// How many objects of each kind.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectCounts {
    pub(crate) meshed_namespaces: usize,
    pub(crate) workloads: usize,
    pub(crate) services: usize,
    pub(crate) routes: usize,
    pub(crate) policies: usize,
    pub(crate) mtls_exceptions: usize,
}

/// Why an object is not, or not wholly, in effect: one of its status conditions.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObjectProblem {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `Accepted`, `ResolvedRefs` or `Programmed`.
    pub(crate) condition: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Stands in a flow stream for a node that did not answer: its flows are missing.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Notice {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) node: String,
    pub(crate) message: String,
}

impl Notice {
    /// The object's kind.
    pub(crate) const KIND: &'static str = "Notice";

    /// Makes one.
    pub(crate) fn new(node: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            api_version: super::VERSION.to_owned(),
            kind: Self::KIND.to_owned(),
            node: node.into(),
            message: message.into(),
        }
    }
}
