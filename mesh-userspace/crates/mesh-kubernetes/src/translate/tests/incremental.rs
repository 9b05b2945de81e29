//! Whatever happens, in whichever order: working by difference ends where working everything out from the beginning does.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Cluster;
use super::cluster::observation;

const NAMESPACES: [&str; 3] = ["shop", "bank", "warren-system"];
const NAMES: [&str; 3] = ["web", "api", "db"];

/// An object, and whether it is applied or deleted.
#[derive(Clone, Debug)]
struct Step {
    manifest: Value,
    deleted: bool,
}

fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    (0..values.len()).prop_map(move |index| values[index])
}

fn label() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => Just(json!({})),
        2 => Just(json!({ "warren.dev/mesh": "enabled" })),
        1 => Just(json!({ "warren.dev/mesh": "disabled" })),
        1 => Just(json!({ "warren.dev/mesh": "yes" })),
    ]
}

fn namespace() -> impl Strategy<Value = Value> {
    (one_of(&NAMESPACES), label()).prop_map(|(name, labels)| {
        json!({ "kind": "Namespace", "metadata": { "name": name, "labels": labels } })
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let place = (one_of(&NAMESPACES), one_of(&NAMES), label(), 0..3_u8);
    let state = (
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        0..4_u8,
        one_of(&["Running", "Failed"]),
    );
    (place, state).prop_map(|(place, state)| {
        let (namespace, name, labels, uid) = place;
        let (host_network, on_a_node, terminating, ip, phase) = state;
        let mut pod = json!({
            "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "uid": format!("u{uid}"), "labels": labels },
            "spec": { "hostNetwork": host_network, "serviceAccountName": name },
            "status": { "phase": phase },
        });
        if on_a_node {
            pod["spec"]["nodeName"] = "a".into();
        }
        if ip > 0 {
            // Few, so that pods meet at one.
            pod["status"]["podIP"] = format!("10.1.0.{ip}").into();
        }
        if terminating {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        pod
    })
}

fn service() -> impl Strategy<Value = Value> {
    (one_of(&NAMESPACES), one_of(&NAMES), any::<bool>(), any::<bool>(), 1..3_u16).prop_map(
        |(namespace, name, headless, selects, ports)| {
            let ports: Vec<Value> = (0..ports).map(|index| json!({ "name": format!("p{index}"), "port": 80 + index })).collect();
            let mut service = json!({
                "kind": "Service",
                "metadata": { "name": name, "namespace": namespace },
                "spec": { "clusterIP": if headless { "None" } else { "10.96.0.1" }, "ports": ports },
            });
            if selects {
                service["spec"]["selector"] = json!({ "app": name });
            }
            service
        },
    )
}

fn slice() -> impl Strategy<Value = Value> {
    let endpoint = (one_of(&NAMES), 0..3_u8, any::<bool>(), any::<bool>()).prop_map(
        |(pod, uid, ready, is_pod)| {
            let mut endpoint = json!({ "addresses": [format!("10.1.0.{}", uid + 1)], "conditions": { "ready": ready } });
            if is_pod {
                endpoint["targetRef"] = json!({ "kind": "Pod", "name": pod, "uid": format!("u{uid}") });
            }
            endpoint
        },
    );
    let slice = (
        one_of(&NAMESPACES),
        one_of(&NAMES),
        one_of(&NAMES),
        0..2_u16,
    );
    (slice, vec(endpoint, 0..3)).prop_map(|((namespace, name, service, port), endpoints)| {
        json!({
            "kind": "EndpointSlice",
            "metadata": { "name": name, "namespace": namespace, "labels": { "kubernetes.io/service-name": service } },
            "ports": [{ "name": "p0", "port": 8080 + port }],
            "endpoints": endpoints,
        })
    })
}

fn route() -> impl Strategy<Value = Value> {
    let kind = one_of(&["TCPRoute", "HTTPRoute", "GRPCRoute"]);
    let reference = || (one_of(&NAMESPACES), one_of(&NAMES), 80..82_u16);
    let parents = vec(reference(), 0..3);
    let backends = vec(reference(), 0..3);
    (kind, one_of(&NAMESPACES), one_of(&NAMES), 1..9_u8, parents, backends).prop_map(
        |(kind, namespace, name, day, parents, backends)| {
            let parents = parents.into_iter().map(|(namespace, name, port)| {
                json!({ "group": "", "kind": "Service", "namespace": namespace, "name": name, "port": port })
            });
            let backends = backends.into_iter().map(|(namespace, name, port)| {
                json!({ "namespace": namespace, "name": name, "port": port, "weight": day })
            });
            json!({
                "kind": kind,
                "metadata": { "name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-0{day}T00:00:00Z") },
                "spec": { "parentRefs": parents.collect::<Vec<_>>(), "rules": [{ "backendRefs": backends.collect::<Vec<_>>() }] },
            })
        },
    )
}

fn grant() -> impl Strategy<Value = Value> {
    (one_of(&NAMESPACES), one_of(&NAMESPACES), one_of(&["TCPRoute", "HTTPRoute"])).prop_map(
        |(namespace, from, kind)| {
            json!({
                "kind": "ReferenceGrant",
                "metadata": { "name": "grant", "namespace": namespace },
                "spec": {
                    "from": [{ "group": "gateway.networking.k8s.io", "kind": kind, "namespace": from }],
                    "to": [{ "group": "", "kind": "Service" }],
                },
            })
        },
    )
}

fn policy() -> impl Strategy<Value = Value> {
    let target = prop_oneof![
        one_of(&NAMES).prop_map(|name| json!({ "kind": "Service", "name": name })),
        Just(json!({ "kind": "Pod", "selector": {} })),
        Just(json!({ "kind": "Pod" })),
    ];
    (one_of(&NAMESPACES), one_of(&NAMES), target, any::<bool>()).prop_map(
        |(namespace, name, target, is_mesh)| {
            let (kind, spec) = if is_mesh {
                ("MeshPolicy", json!({ "targetRef": target, "mtls": { "mode": "permissive" } }))
            } else {
                ("AuthorizationPolicy", json!({ "targetRefs": [target], "action": "ALLOW" }))
            };
            json!({ "kind": kind, "metadata": { "name": name, "namespace": namespace }, "spec": spec })
        },
    )
}

fn reach() -> impl Strategy<Value = Value> {
    (one_of(&NAMESPACES), one_of(&NAMES), vec(one_of(&NAMESPACES), 0..2)).prop_map(
        |(namespace, name, reach)| {
            json!({ "kind": "MeshPolicy", "metadata": { "name": name, "namespace": namespace }, "spec": { "reach": reach } })
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let manifest = prop_oneof![
        2 => namespace(),
        6 => pod(),
        3 => service(),
        5 => slice(),
        3 => route(),
        1 => grant(),
        2 => policy(),
        1 => reach(),
    ];
    (manifest, prop::bool::weighted(0.3)).prop_map(|(manifest, deleted)| Step { manifest, deleted })
}

/// Which objects there are in the end.
fn left(steps: &[Step]) -> Vec<Value> {
    let mut left: Vec<Value> = Vec::new();
    for Step { manifest, deleted } in steps {
        let key = |object: &Value| {
            let meta = &object["metadata"];
            (
                object["kind"].clone(),
                meta["namespace"].clone(),
                meta["name"].clone(),
            )
        };
        left.retain(|object| key(object) != key(manifest));
        if !deleted {
            left.push(manifest.clone());
        }
    }
    left
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn working_by_difference_ends_where_working_from_the_beginning_does(
        steps in vec(step(), 1..40),
        settle_after in vec(any::<bool>(), 40),
    ) {
        let mut cluster = Cluster::empty();
        for (Step { manifest, deleted }, settle) in steps.iter().zip(&settle_after) {
            cluster.translator.observe(observation(manifest.clone(), *deleted));
            if *settle {
                cluster.settle();
            }
        }
        cluster.settle();
        let mut fresh = Cluster::empty();
        for manifest in left(&steps) {
            fresh.translator.observe(observation(manifest, false));
        }
        fresh.settle();
        prop_assert_eq!(&cluster.known, &fresh.known);
        prop_assert_eq!(cluster.objects_said(), fresh.objects_said());
    }
}
