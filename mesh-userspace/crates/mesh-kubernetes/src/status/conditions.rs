//! What is to be said → the status of an object, and the patch that makes it so. Pure: the time is an argument.

use serde_json::{Value, json};

use super::{Acknowledged, status_patch};
use crate::crds::Condition;
use crate::names::ROUTE_CONTROLLER;
use crate::observe::{ParentRef, Policy, Route};
use crate::translate::{ObjectKey, Outcome, Programmable, Said, State, Verdict};

/// The patch of an object's status; `None`: it says so already, or there is nothing to say.
pub(super) fn patch(
    state: &State,
    key: &ObjectKey,
    said: Option<&Said>,
    acknowledged: &Acknowledged,
    now: &str,
) -> Option<Value> {
    match key {
        ObjectKey::AuthorizationPolicy(name) => of_policy(
            state.authorization_policies.get(name)?,
            said?,
            acknowledged,
            now,
        ),
        ObjectKey::MeshPolicy(name) => {
            of_policy(state.mesh_policies.get(name)?, said?, acknowledged, now)
        }
        ObjectKey::Route(key) => of_route(state.routes.get(key)?, said, acknowledged, now),
    }
}

fn of_policy(
    policy: &Policy,
    said: &Said,
    acknowledged: &Acknowledged,
    now: &str,
) -> Option<Value> {
    let verdict = said.parents.get(&0)?;
    let conditions = conditions(
        verdict,
        said.sequence,
        acknowledged,
        &policy.conditions,
        now,
    );
    if conditions == policy.conditions {
        return None;
    }
    Some(status_patch(
        &policy.resource_version,
        json!({ "conditions": conditions }),
    ))
}

/// The status of a route has one list for all controllers, which is written whole: what others said stays.
fn of_route(
    route: &Route,
    said: Option<&Said>,
    acknowledged: &Acknowledged,
    now: &str,
) -> Option<Value> {
    let is_ours = |entry: &&Value| entry["controllerName"] == ROUTE_CONTROLLER;
    let mut entries: Vec<Value> = route
        .parents_status
        .iter()
        .filter(|entry| !is_ours(entry))
        .cloned()
        .collect();
    for (index, verdict) in said.iter().flat_map(|said| &said.parents) {
        let Some(parent) = route.parents().get(*index) else {
            continue;
        };
        let sequence = said.map_or(0, |said| said.sequence);
        let mut ours = route.parents_status.iter().filter(is_ours);
        let existing = ours.find(|entry| is_about(entry, parent));
        let existing = existing.map(conditions_of).unwrap_or_default();
        entries.push(json!({
            "parentRef": parent,
            "controllerName": ROUTE_CONTROLLER,
            "conditions": conditions(verdict, sequence, acknowledged, &existing, now),
        }));
    }
    if same_entries(&entries, &route.parents_status) {
        return None;
    }
    Some(status_patch(
        &route.resource_version,
        json!({ "parents": entries }),
    ))
}

fn is_about(entry: &Value, parent: &ParentRef) -> bool {
    let about = entry
        .get("parentRef")
        .cloned()
        .map(serde_json::from_value::<ParentRef>);
    matches!(about, Some(Ok(about)) if about == *parent)
}

fn conditions_of(entry: &Value) -> Vec<Condition> {
    let conditions = entry.get("conditions").cloned().map(serde_json::from_value);
    conditions.and_then(Result::ok).unwrap_or_default()
}

/// In whichever order: others write the same list.
fn same_entries(left: &[Value], right: &[Value]) -> bool {
    left.len() == right.len() && left.iter().all(|entry| right.contains(entry))
}

/// Our conditions, and what each says to a person when there is nothing else to say.
pub(super) const KINDS: [(&str, &str); 3] = [
    ("Accepted", "it is valid"),
    ("ResolvedRefs", "everything that it names is there"),
    ("Programmed", "every node that needs it has it"),
];

/// Our conditions, after those of others. The time of one changes only with its status.
fn conditions(
    verdict: &Verdict,
    sequence: u64,
    acknowledged: &Acknowledged,
    existing: &[Condition],
    now: &str,
) -> Vec<Condition> {
    let programmed = programmed(verdict, sequence, acknowledged);
    let ours = KINDS
        .into_iter()
        .zip([&verdict.accepted, &verdict.resolved, &programmed]);
    let is_ours = |kind: &str| KINDS.iter().any(|(own, _)| *own == kind);
    let others = existing
        .iter()
        .filter(|condition| !is_ours(&condition.kind))
        .cloned();
    let mut conditions: Vec<Condition> = others.collect();
    conditions.extend(ours.map(|((kind, fine), outcome)| {
        let status = if outcome.good { "True" } else { "False" };
        let before = existing.iter().find(|condition| condition.kind == kind);
        let since = before.filter(|before| before.status == status);
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            observed_generation: Some(verdict.generation),
            last_transition_time: since.map_or_else(
                || now.to_owned(),
                |before| before.last_transition_time.clone(),
            ),
            reason: outcome.reason.to_owned(),
            message: if outcome.message.is_empty() {
                fine.to_owned()
            } else {
                shortened(&outcome.message)
            },
        }
    }));
    conditions
}

fn programmed(verdict: &Verdict, sequence: u64, acknowledged: &Acknowledged) -> Outcome {
    match &verdict.programmable {
        Programmable::NotAll { reason, message } => Outcome::bad(reason, message.clone()),
        Programmable::Whole { note } if acknowledged.sequence >= sequence => {
            Outcome::good("Programmed", note.clone())
        }
        Programmable::Whole { .. } => Outcome::bad("Pending", waiting(&acknowledged.waiting_for)),
    }
}

/// The nodes that are waited for; a thousand names would help nobody.
fn waiting(nodes: &[String]) -> String {
    const NAMED: usize = 3;
    let named = nodes
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    match nodes.len() {
        0 => "the nodes have not all confirmed it yet".to_owned(),
        1 => format!("node {named} has not confirmed it yet"),
        count if count <= NAMED => format!("nodes {named} have not confirmed it yet"),
        count => format!(
            "nodes {named} and {} more have not confirmed it yet",
            count - NAMED
        ),
    }
}

/// The API server takes messages of at most 32,768 characters (Gateway API); a person reads fewer.
fn shortened(message: &str) -> String {
    const LONGEST: usize = 4096;
    match message.char_indices().nth(LONGEST) {
        None => message.to_owned(),
        Some((end, _)) => format!("{}…", &message[..end]),
    }
}

impl Verdict {
    /// Whether all of it is told to the nodes.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.programmable, Programmable::Whole { .. })
    }
}
