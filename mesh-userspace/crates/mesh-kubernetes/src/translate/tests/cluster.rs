//! A cluster as a list of manifests.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use mesh_control::facts::{Fact, FactChange, FactKey};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::told;
use crate::observe::{
    Group, Namespace, Node, Observation, Observed, Pod, Policy, RawGrant, RawNamespace, RawNode,
    RawPod, RawPolicy, RawRoute, RawService, Route, RouteKind, Seen, Service,
};
use crate::source::Settings;
use crate::translate::{ObjectKey, Outcome, Programmable, Said, Translator, Verdict};

/// A translator with what it has told so far, as a node that hears everything knows it.
pub(crate) struct Cluster {
    pub(crate) translator: Translator,
    pub(crate) known: BTreeMap<FactKey, Fact>,
}

impl Cluster {
    /// Nothing but the namespaces `shop` (meshed) and `plain` (not).
    pub(crate) fn new() -> Self {
        let mut cluster = Self::empty();
        cluster.apply(
            "
            {kind: Namespace, metadata: {name: shop, labels: {warren.dev/mesh: enabled}}}
            ---
            {kind: Namespace, metadata: {name: plain}}
            ",
        );
        cluster
    }

    pub(crate) fn empty() -> Self {
        Self {
            translator: Translator::new(Arc::new(Settings::default())),
            known: BTreeMap::new(),
        }
    }

    /// Applies manifests, separated by `---`, and tells nodes.
    pub(crate) fn apply(&mut self, manifests: &str) -> FactChange {
        for manifest in documents(manifests) {
            self.translator.observe(observation(manifest, false));
        }
        self.settle()
    }

    /// Deletes what manifests name.
    pub(crate) fn delete(&mut self, manifests: &str) -> FactChange {
        for manifest in documents(manifests) {
            self.translator.observe(observation(manifest, true));
        }
        self.settle()
    }

    pub(crate) fn settle(&mut self) -> FactChange {
        let (_, change) = self.translator.settle();
        for key in &change.removed {
            assert!(self.known.remove(key).is_some(), "{key} was never told");
        }
        for fact in &change.set {
            let old = self.known.insert(fact.key(), fact.clone());
            assert_ne!(old.as_ref(), Some(fact), "told again without a change");
        }
        change
    }

    /// How many facts a settling sets and removes, for who does not keep them.
    pub(crate) fn settle_unknown(&mut self) -> (usize, usize) {
        let (_, change) = self.translator.settle();
        (change.set.len(), change.removed.len())
    }

    /// What is known of these kinds of fact, a line each.
    pub(crate) fn told(&self, kinds: &[&str]) -> Vec<String> {
        let lines = self
            .known
            .iter()
            .filter(|(key, _)| kinds.contains(&key.kind.word()));
        lines.map(|(_, fact)| told::line(fact)).collect()
    }

    /// What is to be said about an object.
    pub(crate) fn said(&self, object: &str) -> Vec<String> {
        let said = self
            .translator
            .said()
            .iter()
            .find(|(key, _)| key.to_string() == object);
        let Some((_, Said { parents, .. })) = said else {
            return Vec::new();
        };
        parents.values().map(verdict).collect()
    }

    pub(crate) fn objects_said(&self) -> Vec<(ObjectKey, BTreeMap<usize, Verdict>)> {
        let said = self.translator.said().iter();
        said.map(|(key, said)| (key.clone(), said.parents.clone()))
            .collect()
    }
}

/// `Accepted; ResolvedRefs; whole`, with messages where there are some.
fn verdict(verdict: &Verdict) -> String {
    let outcome = |outcome: &Outcome| {
        let sign = if outcome.good { "" } else { "!" };
        let message = &outcome.message;
        let message = if message.is_empty() {
            String::new()
        } else {
            format!(" ({message})")
        };
        format!("{sign}{}{message}", outcome.reason)
    };
    let programmable = match &verdict.programmable {
        Programmable::Whole { note } if note.is_empty() => "whole".to_owned(),
        Programmable::Whole { note } => format!("whole ({note})"),
        // Said once is enough.
        Programmable::NotAll { reason, message } if *message == verdict.accepted.message => {
            format!("!{reason}")
        }
        Programmable::NotAll { reason, message } => format!("!{reason} ({message})"),
    };
    format!(
        "{}; {}; {programmable}",
        outcome(&verdict.accepted),
        outcome(&verdict.resolved)
    )
}

fn documents(manifests: &str) -> Vec<Value> {
    // Indentation of the test itself is none of YAML's business.
    let lines = manifests.lines().filter(|line| !line.trim().is_empty());
    let indent = lines
        .map(|line| line.len() - line.trim_start().len())
        .min()
        .unwrap_or(0);
    let cut: Vec<&str> = manifests
        .lines()
        .map(|line| line.get(indent..).unwrap_or_default())
        .collect();
    cut.join("\n")
        .split("---\n")
        .filter(|text| !text.trim().is_empty())
        .map(|text| serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}")))
        .collect()
}

/// What a watch says when an object is applied or deleted.
pub(crate) fn observation(mut manifest: Value, deleted: bool) -> Observation {
    let kind = manifest["kind"].as_str().expect("a kind").to_owned();
    if let Value::Object(fields) = &mut manifest {
        fields.entry("apiVersion").or_insert_with(|| "any".into());
    }
    let namespaced = !matches!(kind.as_str(), "Namespace" | "Node");
    if namespaced && manifest["metadata"]["namespace"].is_null() {
        manifest["metadata"]["namespace"] = "shop".into();
    }
    let seen = deleted;
    match kind.as_str() {
        "Namespace" => Observation::Namespaces(seen_as(
            Namespace::from(read::<RawNamespace>(manifest)),
            seen,
        )),
        "Pod" => Observation::Pods(seen_as(Pod::from(read::<RawPod>(manifest)), seen)),
        "Service" => {
            Observation::Services(seen_as(Service::from(read::<RawService>(manifest)), seen))
        }
        "Node" => Observation::Nodes(seen_as(Node::from(read::<RawNode>(manifest)), seen)),
        "EndpointSlice" => {
            manifest["apiVersion"] = "discovery.k8s.io/v1".into();
            manifest["addressType"] = "IPv4".into();
            Observation::Endpoints(seen_as(Group::from(read::<EndpointSlice>(manifest)), seen))
        }
        "Endpoints" => {
            manifest["apiVersion"] = "v1".into();
            Observation::Endpoints(seen_as(Group::from(read::<Endpoints>(manifest)), seen))
        }
        "ReferenceGrant" => Observation::Grants(seen_as(read::<RawGrant>(manifest).into(), seen)),
        "AuthorizationPolicy" => Observation::AuthorizationPolicies(seen_as(
            Policy::from(read::<RawPolicy>(manifest)),
            seen,
        )),
        "MeshPolicy" => {
            Observation::MeshPolicies(seen_as(Policy::from(read::<RawPolicy>(manifest)), seen))
        }
        other => {
            let kind = RouteKind::ALL.into_iter().find(|kind| kind.kind() == other);
            let kind = kind.unwrap_or_else(|| panic!("unknown kind {other}"));
            let route = Route::read(kind, read::<RawRoute>(manifest));
            Observation::Routes(kind, seen_as(route, seen))
        }
    }
}

fn read<T: DeserializeOwned>(manifest: Value) -> T {
    serde_json::from_value(manifest.clone()).unwrap_or_else(|error| panic!("{error}: {manifest}"))
}

fn seen_as<T: Observed>(object: T, deleted: bool) -> Seen<T> {
    if deleted {
        Seen::Gone(object.key())
    } else {
        Seen::Is(object)
    }
}
