//! MeshPolicy → an exception from the default mode of mutual TLS, and which namespaces a namespace's workloads dial.

use std::collections::BTreeSet;

use mesh_control::objects::{MtlsSpec, TargetSpec};
use mesh_core::policy::MtlsMode as Mode;
use mesh_core::workload::Name;
use serde_json::{Value, json};

use super::document::{Document, Judged, unreadable};
use super::policies::{Pods, pods, service_named, verdict};
use super::state::State;
use super::verdict::{Outcome, Verdict};
use crate::crds::{MeshPolicySpec, Mtls, MtlsMode, TargetKind};
use crate::observe::Policy;

/// What a MeshPolicy comes to.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) mtls: Option<MtlsSpec>,
    pub(super) verdict: Verdict,
}

/// The services that a policy names as targets.
pub(crate) fn target_services(policy: &Policy) -> Vec<Name> {
    let reference = policy.spec.get("targetRef");
    reference
        .and_then(|reference| service_named(policy, reference))
        .into_iter()
        .collect()
}

/// The namespaces that the workloads of one dial: what its policies say together; `None`: all.
pub(super) fn reach(state: &State, namespace: &str) -> Option<BTreeSet<String>> {
    let lists = state.mesh_policies_of(namespace).filter_map(|policy| {
        let spec: MeshPolicySpec = serde_json::from_value(policy.spec.clone()).ok()?;
        spec.reach.filter(|_| spec.target_ref.is_none())
    });
    lists.fold(None, |all: Option<BTreeSet<String>>, list| {
        let mut all = all.unwrap_or_default();
        all.extend(list);
        Some(all)
    })
}

/// What a MeshPolicy comes to.
pub(super) fn judge(state: &State, policy: &Policy) -> Judgement {
    let spec: MeshPolicySpec = match serde_json::from_value(policy.spec.clone()) {
        Ok(spec) => spec,
        Err(error) => return stand_in(policy, &error.to_string()),
    };
    let mut document = Document::default();
    let mut resolved = Outcome::resolved();
    let mut entries = Vec::new();
    let mut target = Some(None);
    if let Some(reference) = &spec.target_ref {
        let place = "spec.targetRef";
        let path = format!("{ENTRY}.target");
        target = match pods(state, &policy.name.namespace, reference) {
            Pods::All => Some(None),
            Pods::Labels(labels) => {
                let inside = match reference.kind {
                    TargetKind::Pod => format!("{place}.selector.matchLabels"),
                    TargetKind::Service => place.to_owned(),
                };
                document.place(format!("{path}.labels"), inside);
                Some(Some(json!({ "labels": labels })))
            }
            Pods::NotYet(why) => {
                resolved = Outcome::bad("TargetNotFound", format!("{place}: {why}"));
                None
            }
            Pods::Unclear(why) => {
                document.place(path.as_str(), place);
                document.mistake(path, why);
                Some(Some(unreadable()))
            }
        };
    }
    let applies = target.is_some();
    if let Some(mtls) = &spec.mtls {
        entries.push(entry(&mut document, policy, mtls, target.flatten()));
    }
    let Some(Judged { objects, rejected }) =
        document.judge(json!({ "mtls": { "exceptions": entries } }))
    else {
        return stand_in(policy, "it cannot be judged");
    };
    let mtls = objects.mtls.into_iter().next().filter(|_| applies);
    let accepted = match (rejected, misplaced_reach(&spec)) {
        (Some(why), _) => Outcome::bad("Invalid", why),
        (None, Some(why)) => Outcome::bad("Invalid", why),
        (None, None) => Outcome::accepted(),
    };
    Judgement {
        mtls: mtls.map(|mtls| MtlsSpec {
            name: policy.name.clone(),
            ..mtls
        }),
        verdict: verdict(policy, accepted, resolved),
    }
}

const ENTRY: &str = "mtls.exceptions[0]";

fn misplaced_reach(spec: &MeshPolicySpec) -> Option<String> {
    let both = spec.reach.is_some() && spec.target_ref.is_some();
    both.then(|| {
        "spec.reach: it is about the whole namespace, and left out here because of targetRef; put it into an object without one".to_owned()
    })
}

/// The policy in the words of a file.
fn entry(document: &mut Document, policy: &Policy, mtls: &Mtls, target: Option<Value>) -> Value {
    document.place(ENTRY, "spec.mtls");
    let mut entry = json!({
        "name": "policy",
        "namespace": policy.name.namespace,
        "mode": match mtls.mode {
            MtlsMode::Strict => "strict",
            MtlsMode::Permissive => "permissive",
        },
    });
    if let Some(ports) = &mtls.ports {
        entry["ports"] = json!(ports);
    }
    if let Some(target) = target {
        entry["target"] = target;
    }
    entry
}

/// A policy that cannot even be read: it may have closed something of its namespace.
fn stand_in(policy: &Policy, why: &str) -> Judgement {
    let mode = policy.spec.get("mtls").and_then(|mtls| mtls.get("mode"));
    let only_opens = mode.is_some_and(|mode| mode == "permissive");
    let mtls = (!only_opens).then(|| MtlsSpec {
        name: policy.name.clone(),
        target: TargetSpec::Namespace,
        ports: Vec::new(),
        mode: Mode::Strict,
    });
    let consequence = match &mtls {
        None => "it is left out",
        Some(_) => "until it is mended, mutual TLS is required in its place",
    };
    let accepted = Outcome::bad("Invalid", format!("spec: {why}; {consequence}"));
    Judgement {
        mtls,
        verdict: verdict(policy, accepted, Outcome::resolved()),
    }
}
