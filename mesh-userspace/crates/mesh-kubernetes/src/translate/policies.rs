//! AuthorizationPolicy → policy facts, one per target. A bad one denies its target, as on a host.

use mesh_control::objects::{PolicySpec, TargetSpec};
use mesh_core::policy::{Action, Rule};
use mesh_core::workload::{Labels, Name};
use serde_json::{Value, json};

use super::document::{Document, Judged, unreadable};
use super::state::State;
use super::verdict::{Outcome, Programmable, Verdict};
use crate::crds::{
    AuthorizationPolicySpec, AuthorizationRule, AuthorizationSource, LabelSelector, PolicyAction,
    SourceKind, TargetKind, TargetRef,
};
use crate::observe::Policy;

/// The services that a policy names as targets.
pub(crate) fn target_services(policy: &Policy) -> Vec<Name> {
    let references = policy.spec.get("targetRefs").and_then(Value::as_array);
    references
        .into_iter()
        .flatten()
        .filter_map(|reference| service_named(policy, reference))
        .collect()
}

/// The service that a target reference names, if it names one.
pub(super) fn service_named(policy: &Policy, reference: &Value) -> Option<Name> {
    let text = |key| reference.get(key).and_then(Value::as_str);
    (text("kind") == Some("Service"))
        .then(|| text("name"))
        .flatten()
        .map(|name| Name::new(policy.name.namespace.as_str(), name))
}

/// Which pods a reference means.
#[derive(Debug)]
pub(super) enum Pods {
    /// All of the namespace.
    All,
    /// Those with labels.
    Labels(Labels),
    /// It cannot be told yet, and why: none.
    NotYet(String),
    /// It cannot be told, and why.
    Unclear(String),
}

/// Which pods of `namespace` a reference means.
pub(super) fn pods(state: &State, namespace: &str, reference: &TargetRef) -> Pods {
    let TargetRef {
        group,
        kind,
        name,
        selector,
    } = reference;
    if !matches!(group.as_str(), "" | "core") {
        return Pods::Unclear(format!(
            "{group} has nothing that can be a target; Pod and Service are of the core group, written \"\""
        ));
    }
    match (kind, name, selector) {
        (TargetKind::Pod, None, Some(selector)) => selected(selector),
        (TargetKind::Pod, _, _) => Pods::Unclear(
            "a target of kind Pod has a selector, and no name; selector: {} means every pod of the namespace".to_owned(),
        ),
        (TargetKind::Service, Some(name), None) => behind(state, namespace, name),
        (TargetKind::Service, _, _) => {
            Pods::Unclear("a target of kind Service has a name, and no selector".to_owned())
        }
    }
}

fn selected(selector: &LabelSelector) -> Pods {
    let mut labels = selector.match_labels.clone();
    for expression in &selector.match_expressions {
        let (operator, values) = (expression.operator.as_str(), expression.values.as_slice());
        let ("In", [value]) = (operator, values) else {
            return Pods::Unclear(format!(
                "the expression on label {} cannot be used: only In with one value can; give the pods a label of their own and name it in matchLabels",
                expression.key
            ));
        };
        if let Some(other) = labels.insert(expression.key.clone(), value.clone())
            && other != *value
        {
            return Pods::Unclear(format!(
                "label {} cannot be both {other} and {value}",
                expression.key
            ));
        }
    }
    if labels.is_empty() {
        return Pods::All;
    }
    Pods::Labels(labels)
}

fn behind(state: &State, namespace: &str, name: &str) -> Pods {
    match state.services.get(&Name::new(namespace, name)) {
        None => Pods::NotYet(format!(
            "there is no service {name} in namespace {namespace}, so nothing is selected by it"
        )),
        Some(service) if service.selector.is_empty() => Pods::NotYet(format!(
            "service {name} has no selector, so it does not say which pods are behind it; select them by labels (kind: Pod)"
        )),
        Some(service) => Pods::Labels(service.selector.clone()),
    }
}

/// What an AuthorizationPolicy comes to.
pub(super) fn judge(state: &State, policy: &Policy) -> (Vec<PolicySpec>, Verdict) {
    let spec: AuthorizationPolicySpec = match serde_json::from_value(policy.spec.clone()) {
        Ok(spec) => spec,
        Err(error) => return stand_in(policy, &error.to_string()),
    };
    let namespace = policy.name.namespace.as_str();
    let mut document = Document::default();
    let mut entries = Vec::new();
    let mut names = Vec::new();
    let mut not_yet = Vec::new();
    for (position, reference) in spec.target_refs.iter().enumerate() {
        let path = format!("policies[{}]", entries.len());
        let place = format!("spec.targetRefs[{position}]");
        let target = match pods(state, namespace, reference) {
            Pods::NotYet(why) => {
                not_yet.push(format!("{place}: {why}"));
                continue;
            }
            Pods::All => None,
            Pods::Labels(labels) => {
                let inside = match reference.kind {
                    TargetKind::Pod => format!("{place}.selector.matchLabels"),
                    TargetKind::Service => place,
                };
                document.place(format!("{path}.target.labels"), inside);
                Some(json!({ "labels": labels }))
            }
            Pods::Unclear(why) => {
                document.place(format!("{path}.target"), place);
                document.mistake(format!("{path}.target"), why);
                Some(unreadable())
            }
        };
        names.push(fact_name(policy, position, reference));
        entries.push(entry(&mut document, &path, policy, &spec, target));
    }
    let selects_nothing = entries.is_empty();
    if selects_nothing {
        // Its rules are judged all the same.
        entries.push(entry(&mut document, "policies[0]", policy, &spec, None));
    }
    let Some(Judged { objects, rejected }) = document.judge(json!({ "policies": entries })) else {
        return stand_in(policy, "it cannot be judged");
    };
    let mut specs = objects.policies;
    if selects_nothing {
        specs.clear();
    }
    // Their names in the document are their positions.
    for spec in &mut specs {
        let position = spec.name.name.trim_start_matches(PREFIX).parse::<usize>();
        if let Some(name) = position.ok().and_then(|position| names.get(position)) {
            spec.name = name.clone();
        }
    }
    let accepted = match rejected {
        Some(why) => Outcome::bad("Invalid", why),
        None => Outcome::good("Accepted", note(&spec)),
    };
    let resolved = if not_yet.is_empty() {
        Outcome::resolved()
    } else {
        Outcome::bad("TargetNotFound", not_yet.join("; "))
    };
    (specs, verdict(policy, accepted, resolved))
}

const PREFIX: &str = "p";

/// What a person should know of a policy that is good.
fn note(spec: &AuthorizationPolicySpec) -> &'static str {
    match (spec.dry_run, spec.action) {
        (true, _) => "dry run: what it would deny is reported, nothing is denied",
        (false, PolicyAction::Deny) => {
            "the pods that it selects are closed to all whom no ALLOW policy allows"
        }
        (false, PolicyAction::Allow) => "",
    }
}

pub(super) fn verdict(policy: &Policy, accepted: Outcome, resolved: Outcome) -> Verdict {
    let programmable = if accepted.good {
        Programmable::Whole {
            note: String::new(),
        }
    } else {
        Programmable::NotAll {
            reason: "Invalid",
            message: accepted.message.clone(),
        }
    };
    Verdict {
        generation: policy.generation,
        accepted,
        resolved,
        programmable,
    }
}

/// Nodes know the first target by the policy's own name.
fn fact_name(policy: &Policy, position: usize, reference: &TargetRef) -> Name {
    let Name { namespace, name } = &policy.name;
    let text = match (position, &reference.name) {
        (0, _) => name.clone(),
        (_, Some(service)) => format!("{name}:{service}"),
        (_, None) => format!("{name}:{position}"),
    };
    Name::new(namespace.as_str(), text)
}

/// The policy in the words of a file.
fn entry(
    document: &mut Document,
    path: &str,
    policy: &Policy,
    spec: &AuthorizationPolicySpec,
    target: Option<Value>,
) -> Value {
    document.place(path, "spec");
    document.place(format!("{path}.dryRun"), "spec.dryRun");
    let position = path.trim_start_matches("policies[").trim_end_matches(']');
    let mut rules = Vec::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        // An empty list of sources matches none (GEP-3779).
        if rule.sources.as_ref().is_some_and(Vec::is_empty) {
            continue;
        }
        let at = format!("{path}.rules[{}]", rules.len());
        let place = format!("spec.rules[{index}]");
        rules.push(self::rule(
            document,
            &at,
            &place,
            policy,
            spec.action,
            index,
            rule,
        ));
    }
    let mut entry = json!({
        "name": format!("{PREFIX}{position}"),
        "namespace": policy.name.namespace,
        "dryRun": spec.dry_run,
        "rules": rules,
    });
    if let Some(target) = target {
        entry["target"] = target;
    }
    entry
}

fn rule(
    document: &mut Document,
    path: &str,
    place: &str,
    policy: &Policy,
    action: PolicyAction,
    index: usize,
    rule: &AuthorizationRule,
) -> Value {
    let AuthorizationRule {
        name,
        sources,
        network_attributes,
    } = rule;
    document.place(path, place);
    document.place(format!("{path}.action"), "spec.action");
    let mut value = json!({
        "name": name.clone().unwrap_or_else(|| index.to_string()),
        "action": match action {
            PolicyAction::Allow => "allow",
            PolicyAction::Deny => "deny",
        },
    });
    if let Some(sources) = sources {
        document.place(format!("{path}.from"), format!("{place}.sources"));
        let list = sources.iter().enumerate().map(|(index, source)| {
            let at = format!("{path}.from[{index}]");
            let inside = format!("{place}.sources[{index}]");
            document.place(format!("{at}.identity"), format!("{inside}.spiffe"));
            document.place(at.as_str(), inside);
            match self::source(policy, source) {
                Ok(source) => source,
                Err(why) => {
                    document.mistake(at, why);
                    unreadable()
                }
            }
        });
        value["from"] = list.collect();
    }
    if let Some(ports) = network_attributes.as_ref().and_then(|of| of.ports.as_ref()) {
        let inside = format!("{place}.networkAttributes.ports");
        document.place(format!("{path}.to[0].ports"), inside);
        value["to"] = json!([{ "ports": ports }]);
    }
    value
}

fn source(policy: &Policy, source: &AuthorizationSource) -> Result<Value, String> {
    let AuthorizationSource {
        kind,
        spiffe,
        service_account,
        namespace,
        network,
    } = source;
    let given: Vec<&str> = [
        spiffe.as_ref().map(|_| "spiffe"),
        service_account.as_ref().map(|_| "serviceAccount"),
        namespace.as_ref().map(|_| "namespace"),
        network.as_ref().map(|_| "network"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let (word, field) = match kind {
        SourceKind::Spiffe => ("SPIFFE", Some("spiffe")),
        SourceKind::ServiceAccount => ("ServiceAccount", Some("serviceAccount")),
        SourceKind::Namespace => ("Namespace", Some("namespace")),
        SourceKind::Network => ("Network", Some("network")),
        SourceKind::Authenticated => ("Authenticated", None),
    };
    if given.as_slice() != field.as_slice() {
        let wanted = field.map_or_else(
            || "no other field".to_owned(),
            |field| format!("the field {field}, and no other"),
        );
        let given = if given.is_empty() {
            "none".to_owned()
        } else {
            given.join(", ")
        };
        return Err(format!(
            "a source of type {word} has {wanted}; given is {given}"
        ));
    }
    let own = policy.name.namespace.as_str();
    Ok(match (spiffe, service_account, namespace, network) {
        (Some(identity), ..) => json!({ "identity": identity }),
        (_, Some(account), ..) => {
            let namespace = account.namespace.as_deref().unwrap_or(own);
            match account.name.as_str() {
                "*" => json!({ "namespace": namespace }),
                name => json!({ "serviceAccount": format!("{namespace}/{name}") }),
            }
        }
        (_, _, Some(namespace), _) => json!({ "namespace": namespace }),
        (_, _, _, Some(network)) => json!({ "network": network }),
        (None, None, None, None) => json!({ "authenticated": true }),
    })
}

/// A policy that cannot even be read: its namespace is the only thing that is known of its target.
fn stand_in(policy: &Policy, why: &str) -> (Vec<PolicySpec>, Verdict) {
    let namespace = &policy.name.namespace;
    let is = |key, value: Value| policy.spec.get(key) == Some(&value);
    let (specs, consequence) = if is("dryRun", true.into()) {
        (Vec::new(), "it is left out".to_owned())
    } else {
        // What is known to allow at most is replaced by what lets nobody in; what may have denied, by what denies.
        let (rules, what) = if is("action", "ALLOW".into()) {
            (Vec::new(), "only other policies let anybody reach")
        } else {
            let deny = Rule {
                name: "rejected-policy-denies-all".to_owned(),
                action: Action::Deny,
                from: Vec::new(),
                ports: Vec::new(),
            };
            (vec![deny], "nobody may reach")
        };
        let spec = PolicySpec {
            name: policy.name.clone(),
            target: TargetSpec::Namespace,
            dry_run: false,
            rules,
        };
        let consequence =
            format!("until it is mended, {what} every workload of namespace {namespace}");
        (vec![spec], consequence)
    };
    let accepted = Outcome::bad("Invalid", format!("spec: {why}; {consequence}"));
    (specs, verdict(policy, accepted, Outcome::resolved()))
}
