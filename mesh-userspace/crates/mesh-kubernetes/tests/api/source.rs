//! From objects to facts and back to a status, through a real watch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use mesh_control::facts::{Fact, FactKey};
use mesh_kubernetes::crds;
use mesh_kubernetes::source::{self, Settings};
use mesh_kubernetes::status::{self, Acknowledged};
use mesh_kubernetes::view::{PodAnswer, View};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::cluster::{self, eventually};

/// A controller, as far as this crate is one.
struct Controller {
    view: View,
    known: Arc<Mutex<BTreeMap<FactKey, Fact>>>,
    /// Whether nodes confirm what they are told.
    confirming: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Controller {
    fn start(client: &Client) -> Self {
        let settings = Settings {
            discover_every: Duration::from_millis(300),
            ..Settings::default()
        };
        let view = View::new(settings);
        let (sender, mut updates) = mpsc::channel(4);
        let known: Arc<Mutex<BTreeMap<FactKey, Fact>>> = Arc::default();
        let (acknowledge, acknowledged) = watch::channel(Acknowledged::default());
        let (confirming, mut confirms) = watch::channel(true);
        let (held, holding) = watch::channel(true);
        let nodes = Arc::clone(&known);
        let hub = tokio::spawn(async move {
            let _held = held;
            let mut sequence = 0;
            loop {
                tokio::select! {
                    update = updates.recv() => {
                        let Some(source::Update { sequence: next, change }) = update else { return };
                        assert!(next > sequence, "{next} after {sequence}");
                        sequence = next;
                        let mut known = nodes.lock().expect("not poisoned");
                        change.removed.iter().for_each(|key| assert!(known.remove(key).is_some(), "{key}"));
                        known.extend(change.set.into_iter().map(|fact| (fact.key(), fact)));
                    }
                    changed = confirms.changed() => changed.expect("the test runs"),
                }
                if *confirms.borrow() {
                    acknowledge.send_replace(Acknowledged {
                        sequence,
                        waiting_for: Vec::new(),
                    });
                }
            }
        });
        let tasks = vec![
            hub,
            tokio::spawn(source::run(client.clone(), view.clone(), sender)),
            tokio::spawn(status::run(
                client.clone(),
                view.clone(),
                holding,
                acknowledged,
            )),
        ];
        Self {
            view,
            known,
            confirming,
            tasks,
        }
    }

    async fn complete(&self) {
        eventually("everything is listed", async || {
            self.view.is_complete().then_some(())
        })
        .await;
    }

    /// Waits until some fact of a kind and namespace is as wanted.
    async fn fact(&self, what: &str, wanted: impl Fn(&Fact) -> bool) -> Fact {
        eventually(what, async || {
            let known = self.known.lock().expect("not poisoned");
            known.values().find(|fact| wanted(fact)).cloned()
        })
        .await
    }

    async fn no_fact(&self, what: &str, unwanted: impl Fn(&Fact) -> bool) {
        eventually(what, async || {
            let known = self.known.lock().expect("not poisoned");
            (!known.values().any(&unwanted)).then_some(())
        })
        .await;
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// A definition of TCPRoute that takes everything.
fn tcp_route() -> CustomResourceDefinition {
    let open = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "tcproutes.gateway.networking.k8s.io",
            "annotations": { "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2997" },
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": { "kind": "TCPRoute", "listKind": "TCPRouteList", "plural": "tcproutes", "singular": "tcproute" },
            "versions": [{
                "name": "v1alpha2", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": open, "status": open } } },
            }],
        },
    }))
    .expect("a definition")
}

/// `Accepted=True/Accepted`, by type.
fn conditions(list: &Value) -> BTreeMap<String, String> {
    let list = list.as_array().cloned().unwrap_or_default();
    let text =
        |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    let entry = |condition: &Value| {
        let said = format!(
            "{}/{}",
            text(condition, "status"),
            text(condition, "reason")
        );
        (text(condition, "type"), said)
    };
    list.iter().map(entry).collect()
}

fn told(accepted: &str, resolved: &str, programmed: &str) -> BTreeMap<String, String> {
    let entry = |kind: &str, said: &str| (kind.to_owned(), said.to_owned());
    [
        entry("Accepted", accepted),
        entry("ResolvedRefs", resolved),
        entry("Programmed", programmed),
    ]
    .into()
}

/// One after the other: they install and remove kinds.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn objects_become_facts_and_hear_what_became_of_them() {
    let client = cluster::server().await;
    for crd in crds::crds() {
        cluster::install(&client, &crd).await;
    }
    let tcp_routes = serde_json::to_value(tcp_route()).expect("a definition");
    cluster::delete(&client, &tcp_routes).await;

    let controller = Controller::start(&client);
    controller.complete().await;
    pods_and_services(&client, &controller).await;
    policies(&client, &controller).await;
    kinds_that_appear_later(&client, &controller).await;
    assert_eq!(controller.view.problems(), [], "nothing is left to see to");
    drop(controller);

    cluster::delete(&client, &tcp_routes).await;
    for crd in crds::crds() {
        cluster::delete(&client, &serde_json::to_value(crd).expect("a definition")).await;
    }
}

async fn pods_and_services(client: &Client, controller: &Controller) {
    let namespace = cluster::namespace(client, json!({ "warren.dev/mesh": "enabled" })).await;
    let is_here = |fact: &Fact| fact.key().namespace == namespace;
    let uid = cluster::pod(client, &namespace, "web", "default", "10.9.1.1").await;
    let workload = controller
        .fact("the pod with its address", |fact| {
            is_here(fact) && matches!(fact, Fact::Workload(spec) if spec.addresses.len() == 1)
        })
        .await;
    let Fact::Workload(workload) = workload else {
        unreachable!("asked for one")
    };
    assert_eq!(
        controller.view.find_pod("node-a", &namespace, "web", &uid),
        PodAnswer::Meshed(Box::new(workload))
    );
    assert_eq!(
        controller.view.find_pod("node-b", &namespace, "web", &uid),
        PodAnswer::Unknown
    );
    assert_eq!(
        controller
            .view
            .node_of_pod(&namespace, "web", &uid)
            .as_deref(),
        Some("node-a")
    );
    let identities = controller.view.identities_of("node-a");
    let identity = format!("spiffe://cluster.local/ns/{namespace}/sa/default");
    assert!(
        identities.iter().any(|own| own.to_string() == identity),
        "{identities:?}"
    );

    cluster::apply(
        client,
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": namespace },
            // Without a selector nobody else sees to its endpoints.
            "spec": { "ports": [{ "port": 80, "targetPort": 8080 }] },
        }),
    )
    .await;
    let endpoint = json!({ "ip": "10.9.1.1", "targetRef": { "kind": "Pod", "name": "web", "namespace": namespace, "uid": uid } });
    let has_slices = client
        .list_api_group_resources("discovery.k8s.io/v1")
        .await
        .is_ok();
    let endpoints = if has_slices {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "web-x", "namespace": namespace, "labels": { "kubernetes.io/service-name": "web" } },
            "ports": [{ "name": "", "port": 8080 }],
            "endpoints": [{ "addresses": ["10.9.1.1"], "targetRef": endpoint["targetRef"] }],
        })
    } else {
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "web", "namespace": namespace },
            "subsets": [{ "addresses": [endpoint], "ports": [{ "port": 8080 }] }],
        })
    };
    cluster::apply(client, endpoints).await;
    controller
        .fact("the service with its endpoint", |fact| {
            is_here(fact) && matches!(fact, Fact::Service(spec) if spec.endpoints.len() == 1)
        })
        .await;

    // Taken out of the mesh by its namespace's label.
    cluster::apply(
        client,
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace, "labels": { "warren.dev/mesh": "disabled" } } }),
    )
    .await;
    controller.no_fact("the namespace leaves", is_here).await;
    let answer = controller.view.find_pod("node-a", &namespace, "web", &uid);
    assert_eq!(
        answer,
        PodAnswer::NotMeshed(format!(
            "namespace {namespace} has the label warren.dev/mesh=disabled"
        ))
    );
    cluster::delete(client, &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": namespace } })).await;
    eventually("the pod is gone", async || {
        let answer = controller.view.find_pod("node-a", &namespace, "web", &uid);
        (answer == PodAnswer::Unknown).then_some(())
    })
    .await;
}

async fn policies(client: &Client, controller: &Controller) {
    let namespace = cluster::namespace(client, json!({ "warren.dev/mesh": "enabled" })).await;
    let policy = |spec: Value| {
        json!({
            "apiVersion": "warren.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": { "name": "guard", "namespace": namespace }, "spec": spec,
        })
    };
    let status = async |what: &str, wanted: BTreeMap<String, String>| {
        eventually(what, async || {
            let found = cluster::get(client, &policy(Value::Null)).await;
            let said = conditions(&found.data["status"]["conditions"]);
            let generation = found.metadata.generation;
            let observed = found.data["status"]["conditions"][0]["observedGeneration"].as_i64();
            (said == wanted && observed == generation).then_some(found)
        })
        .await
    };
    controller.confirming.send_replace(false);
    let good =
        policy(json!({ "targetRefs": [{ "kind": "Pod", "selector": {} }], "action": "ALLOW" }));
    cluster::apply(client, good.clone()).await;
    status(
        "nodes have not confirmed it",
        told("True/Accepted", "True/ResolvedRefs", "False/Pending"),
    )
    .await;
    controller.confirming.send_replace(true);
    let programmed = told("True/Accepted", "True/ResolvedRefs", "True/Programmed");
    let found = status("nodes have confirmed it", programmed.clone()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let later = cluster::get(client, &good).await;
    assert_eq!(
        later.metadata.resource_version, found.metadata.resource_version,
        "written once"
    );

    // What the schema cannot see: a port twice.
    let bad = policy(json!({
        "targetRefs": [{ "kind": "Pod", "selector": {} }], "action": "ALLOW",
        "rules": [{ "networkAttributes": { "ports": [80, 80] } }],
    }));
    cluster::apply(client, bad).await;
    let found = status(
        "it is rejected",
        told("False/Invalid", "True/ResolvedRefs", "False/Invalid"),
    )
    .await;
    let message = found.data["status"]["conditions"][0]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        message.contains("spec.rules[0].networkAttributes.ports[1]: port 80 is given twice"),
        "{message}"
    );
    controller
        .fact("what stands in for it lets nobody in", |fact| {
            matches!(fact, Fact::Policy(spec) if spec.name.namespace == namespace && spec.rules.is_empty())
        })
        .await;
    // What it can see, the server refuses.
    let refused = policy(json!({ "targetRefs": [], "action": "MAYBE" }));
    let object = serde_json::from_value(refused).expect("an object");
    let made = cluster::api_of(client, &good)
        .create(&kube::api::PostParams::default(), &object)
        .await;
    let error = made.expect_err("the schema says no").to_string();
    assert!(
        error.contains("Unsupported value: \"MAYBE\"") && error.contains("targetRefs"),
        "{error}"
    );
    cluster::delete(client, &good).await;
    controller
        .no_fact(
            "it is gone",
            |fact| matches!(fact, Fact::Policy(spec) if spec.name.namespace == namespace),
        )
        .await;
}

async fn kinds_that_appear_later(client: &Client, controller: &Controller) {
    let namespace = cluster::namespace(client, json!({})).await;
    cluster::apply(
        client,
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": namespace },
            "spec": { "ports": [{ "port": 80 }] },
        }),
    )
    .await;
    cluster::install(client, &tcp_route()).await;
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute",
        "metadata": { "name": "split", "namespace": namespace },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "web", "port": 80 }],
            "rules": [{ "backendRefs": [{ "name": "web", "port": 80, "weight": 9 }] }],
        },
    });
    cluster::apply(client, route.clone()).await;
    controller
        .fact(
            "the route",
            |fact| matches!(fact, Fact::Route(route) if route.name.namespace == namespace),
        )
        .await;
    eventually("its status", async || {
        let found = cluster::get(client, &route).await;
        let parent = &found.data["status"]["parents"][0];
        let ours = parent["controllerName"] == "warren.dev/controller";
        let said = conditions(&parent["conditions"]);
        (ours && said == told("True/Accepted", "True/ResolvedRefs", "True/Programmed"))
            .then_some(())
    })
    .await;
    cluster::delete(client, &route).await;
    controller
        .no_fact(
            "the route is gone",
            |fact| matches!(fact, Fact::Route(route) if route.name.namespace == namespace),
        )
        .await;
}
