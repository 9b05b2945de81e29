//! What is written, and what is not written again.

use serde_json::{Value, json};

use super::Acknowledged;
use super::conditions::{KINDS, patch};
use crate::observe::RouteKind;
use crate::translate::{Cluster, ObjectKey, State};

const THEN: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-02T00:00:00Z";

fn acknowledged(sequence: u64, waiting_for: &[&str]) -> Acknowledged {
    Acknowledged {
        sequence,
        waiting_for: waiting_for.iter().map(|node| (*node).to_owned()).collect(),
    }
}

fn policy_key() -> ObjectKey {
    ObjectKey::AuthorizationPolicy(mesh_core::workload::Name::new("shop", "guard"))
}

fn route_key() -> ObjectKey {
    ObjectKey::Route(crate::observe::RouteKey {
        kind: RouteKind::Tcp,
        name: mesh_core::workload::Name::new("shop", "split"),
    })
}

fn patched(
    cluster: &Cluster,
    key: &ObjectKey,
    acknowledged: &Acknowledged,
    now: &str,
) -> Option<Value> {
    let state: &State = cluster.translator.state();
    patch(
        state,
        key,
        cluster.translator.said().get(key),
        acknowledged,
        now,
    )
}

/// `Accepted=True/Accepted @THEN`, a line per condition.
fn lines(conditions: &Value) -> Vec<String> {
    let conditions = conditions.as_array().expect("a list");
    let line = |condition: &Value| {
        let text = |key: &str| condition[key].as_str().unwrap_or("?").to_owned();
        let message = text("message");
        format!(
            "{}={} {} {} of {}{}",
            text("type"),
            text("status"),
            text("reason"),
            text("lastTransitionTime").get(..10).unwrap_or_default(),
            condition["observedGeneration"],
            // What is said when there is nothing to say. Ours are never empty: that would be no help, and some servers refuse it.
            if KINDS.contains(&(text("type").as_str(), message.as_str()))
                || message.is_empty() && KINDS.iter().all(|(ours, _)| *ours != text("type"))
            {
                String::new()
            } else {
                format!(": {message}")
            }
        )
    };
    conditions.iter().map(line).collect()
}

fn policy(status: &Value, generation: u64, action: &str) -> String {
    json!({
        "kind": "AuthorizationPolicy",
        "metadata": { "name": "guard", "generation": generation, "resourceVersion": "77" },
        "spec": { "targetRefs": [{ "kind": "Pod", "selector": {} }], "action": action },
        "status": status,
    })
    .to_string()
}

#[test]
fn a_policy_is_said_to_be_programmed_when_the_nodes_have_confirmed_it() {
    let mut cluster = Cluster::new();
    cluster.apply(&policy(&Value::Null, 3, "ALLOW"));
    let key = policy_key();
    let sequence = cluster.translator.said()[&key].sequence;
    let before =
        |nodes| patched(&cluster, &key, &acknowledged(sequence - 1, nodes), THEN).expect("a patch");
    let pending = before(&[]);
    assert_eq!(pending["metadata"]["resourceVersion"], "77");
    assert_eq!(
        lines(&pending["status"]["conditions"]),
        [
            "Accepted=True Accepted 2026-01-01 of 3",
            "ResolvedRefs=True ResolvedRefs 2026-01-01 of 3",
            "Programmed=False Pending 2026-01-01 of 3: the nodes have not all confirmed it yet",
        ]
    );
    for (nodes, message) in [
        (&["a"][..], "node a has not confirmed it yet"),
        (&["a", "b"], "nodes a, b have not confirmed it yet"),
        (
            &["a", "b", "c", "d", "e"],
            "nodes a, b, c and 2 more have not confirmed it yet",
        ),
    ] {
        assert_eq!(before(nodes)["status"]["conditions"][2]["message"], message);
    }
    let done = patched(&cluster, &key, &acknowledged(sequence, &[]), THEN).expect("a patch");
    assert_eq!(
        lines(&done["status"]["conditions"])[2],
        "Programmed=True Programmed 2026-01-01 of 3"
    );
}

#[test]
fn what_is_there_already_is_not_written_again_and_times_change_with_the_status_only() {
    let mut cluster = Cluster::new();
    cluster.apply(&policy(&Value::Null, 3, "ALLOW"));
    let key = policy_key();
    let all = acknowledged(u64::MAX, &[]);
    let first = patched(&cluster, &key, &all, THEN).expect("a patch");
    cluster.apply(&policy(&first["status"], 3, "ALLOW"));
    assert_eq!(patched(&cluster, &key, &all, LATER), None);
    // Another generation that is as good: the time stays.
    cluster.apply(&policy(&first["status"], 4, "DENY"));
    let second = patched(&cluster, &key, &all, LATER).expect("a patch");
    assert_eq!(
        lines(&second["status"]["conditions"])[1],
        "ResolvedRefs=True ResolvedRefs 2026-01-01 of 4"
    );
    // A bad one: it changes where the status does.
    cluster.apply(&policy(&second["status"], 5, "MAYBE"));
    let third = patched(&cluster, &key, &all, LATER).expect("a patch");
    let third = lines(&third["status"]["conditions"]);
    assert!(
        third[0].starts_with("Accepted=False Invalid 2026-01-02 of 5: spec: "),
        "{third:?}"
    );
    assert_eq!(third[1], "ResolvedRefs=True ResolvedRefs 2026-01-01 of 5");
    assert!(
        third[2].starts_with("Programmed=False Invalid 2026-01-02 of 5"),
        "{third:?}"
    );
}

#[test]
fn conditions_of_others_stay() {
    let mut cluster = Cluster::new();
    let other = json!({ "type": "Audited", "status": "True", "reason": "Fine", "message": "", "lastTransitionTime": THEN });
    cluster.apply(&policy(&json!({ "conditions": [other] }), 3, "ALLOW"));
    let patch = patched(&cluster, &policy_key(), &acknowledged(9, &[]), LATER).expect("a patch");
    assert_eq!(
        lines(&patch["status"]["conditions"])[0],
        "Audited=True Fine 2026-01-01 of null"
    );
}

fn route(parents: &Value, status: &Value) -> String {
    json!({
        "kind": "TCPRoute",
        "metadata": { "name": "split", "generation": 2, "resourceVersion": "5" },
        "spec": { "parentRefs": parents, "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }] },
        "status": status,
    })
    .to_string()
}

#[test]
fn a_route_has_an_entry_per_parent_beside_those_of_other_controllers() {
    let mut cluster = Cluster::new();
    cluster.apply(
        "{kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}",
    );
    let service = json!({ "group": "", "kind": "Service", "name": "web", "port": 80 });
    let gateway = json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw" });
    let parents = json!([gateway, service]);
    let theirs =
        json!({ "parentRef": gateway, "controllerName": "example.com/gateway", "conditions": [] });
    cluster.apply(&route(&parents, &json!({ "parents": [theirs] })));
    let key = route_key();
    let all = acknowledged(u64::MAX, &[]);
    let patch = patched(&cluster, &key, &all, THEN).expect("a patch");
    let entries = &patch["status"]["parents"];
    assert_eq!(entries[0], theirs);
    assert_eq!(entries[1]["parentRef"], service);
    assert_eq!(entries[1]["controllerName"], "warren.dev/controller");
    assert_eq!(
        lines(&entries[1]["conditions"]),
        [
            "Accepted=True Accepted 2026-01-01 of 2",
            "ResolvedRefs=True ResolvedRefs 2026-01-01 of 2",
            "Programmed=True Programmed 2026-01-01 of 2",
        ]
    );
    assert_eq!(entries.as_array().map(Vec::len), Some(2));
    // Others write the list, too, in an order of their own.
    let turned = json!({ "parents": [entries[1], entries[0]] });
    cluster.apply(&route(&parents, &turned));
    assert_eq!(patched(&cluster, &key, &all, LATER), None);
    // When it is not attached to a service any more, our entry goes, and only ours.
    cluster.apply(&route(&json!([gateway]), &turned));
    let patch = patched(&cluster, &key, &all, LATER).expect("a patch");
    assert_eq!(patch["status"]["parents"], json!([theirs]));
    // A route that is none of our business is not touched.
    cluster.apply(&route(&json!([gateway]), &json!({ "parents": [theirs] })));
    assert_eq!(patched(&cluster, &key, &all, LATER), None);
}
