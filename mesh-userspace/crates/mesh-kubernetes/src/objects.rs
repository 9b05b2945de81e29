//! Objects that are not, or not wholly, in effect: what their status says, for whoever asks about all of them.

use mesh_core::workload::Name;

use crate::observe::RouteKey;
use crate::translate::{ObjectKey, Programmable, Verdict};
use crate::view::View;

/// Why an object is not, or not wholly, in effect.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ObjectProblem {
    /// The object's kind.
    pub kind: &'static str,
    /// Its name.
    pub name: Name,
    /// The condition of its status that is not true.
    pub condition: &'static str,
    /// That condition's reason.
    pub reason: &'static str,
    /// And its message.
    pub message: String,
}

impl View {
    /// Objects of which something is not in effect, and will not be by itself. What nodes are just being told is not among
    /// them.
    pub fn object_problems(&self) -> Vec<ObjectProblem> {
        let found = self.with_said(|_, said| {
            said.iter()
                .flat_map(|(key, said)| {
                    let verdicts = said.parents.values();
                    verdicts.filter_map(|verdict| problem(key, verdict))
                })
                .collect::<Vec<_>>()
        });
        // For several parents of a route the same may be said.
        let mut found = found.unwrap_or_default();
        found.sort();
        found.dedup();
        found
    }
}

fn problem(key: &ObjectKey, verdict: &Verdict) -> Option<ObjectProblem> {
    let (kind, name) = match key {
        ObjectKey::AuthorizationPolicy(name) => ("AuthorizationPolicy", name),
        ObjectKey::MeshPolicy(name) => ("MeshPolicy", name),
        ObjectKey::Route(RouteKey { kind, name }) => (kind.kind(), name),
    };
    let (condition, reason, message) = if !verdict.accepted.good {
        let outcome = &verdict.accepted;
        ("Accepted", outcome.reason, &outcome.message)
    } else if !verdict.resolved.good {
        let outcome = &verdict.resolved;
        ("ResolvedRefs", outcome.reason, &outcome.message)
    } else {
        match &verdict.programmable {
            Programmable::NotAll { reason, message } => ("Programmed", *reason, message),
            Programmable::Whole { .. } => return None,
        }
    };
    Some(ObjectProblem {
        kind,
        name: name.clone(),
        condition,
        reason,
        message: message.clone(),
    })
}
