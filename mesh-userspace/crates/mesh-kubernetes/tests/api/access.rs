//! Tokens of agents, rights of callers, taints of nodes, addresses of the controller.

use mesh_kubernetes::access::{Attributes, Expected, Refusal, User, authorize, review_agent};
use mesh_kubernetes::{client, taint};
use serde_json::{Value, json};

use super::cluster;

/// A token of a service account, for an audience, bound to a pod.
async fn token(
    client: &kube::Client,
    namespace: &str,
    account: &str,
    audience: &str,
    pod: Option<(&str, &str)>,
) -> String {
    let bound = pod
        .map(|(name, uid)| json!({ "kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid }));
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": { "audiences": [audience], "boundObjectRef": bound },
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(request.to_string().into_bytes())
        .expect("a request");
    let made: Value = client.request(request).await.expect("a token");
    made["status"]["token"]
        .as_str()
        .expect("a token")
        .to_owned()
}

#[track_caller]
fn denied<T: std::fmt::Debug>(result: Result<T, Refusal>, why: &str) {
    match result {
        Err(Refusal::Denied(said)) => assert!(said.contains(why), "{said}"),
        other => panic!("{other:?} instead of {why}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn an_agents_token_leads_to_its_node_and_no_other_token_does() {
    let client = cluster::server().await;
    let namespace = cluster::namespace(&client, json!({})).await;
    cluster::account(&client, &namespace, "warren-node").await;
    let uid = cluster::pod(&client, &namespace, "agent", "warren-node", "10.9.0.1").await;
    let other_uid = cluster::pod(&client, &namespace, "other", "default", "10.9.0.2").await;
    let expected = Expected {
        namespace: namespace.clone(),
        ..Expected::default()
    };
    let audience = expected.audience.as_str();
    let review = async |token: &str| review_agent(&client, &expected, token).await;

    let good = token(
        &client,
        &namespace,
        "warren-node",
        audience,
        Some(("agent", &uid)),
    )
    .await;
    let agent = review(&good).await.expect("a good token");
    assert_eq!(
        (agent.node.as_str(), agent.pod.to_string()),
        ("node-a", format!("agent.{namespace}"))
    );

    let for_the_server = "https://kubernetes.default.svc";
    let elsewhere = token(
        &client,
        &namespace,
        "warren-node",
        for_the_server,
        Some(("agent", &uid)),
    )
    .await;
    denied(review(&elsewhere).await, "the token");
    let unbound = token(&client, &namespace, "warren-node", audience, None).await;
    denied(review(&unbound).await, "not bound to a pod");
    let foreign = token(
        &client,
        &namespace,
        "default",
        audience,
        Some(("other", &other_uid)),
    )
    .await;
    denied(
        review(&foreign).await,
        "the token is of system:serviceaccount",
    );
    denied(review("nonsense").await, "the token is refused");
    denied(review("").await, "the token is refused");

    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "agent", "namespace": namespace } });
    cluster::delete(&client, &pod).await;
    // The server itself refuses a token whose pod is gone; another pod of the name makes no difference.
    cluster::pod(&client, &namespace, "agent", "warren-node", "10.9.0.1").await;
    denied(review(&good).await, "the token");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn callers_may_what_the_server_says() {
    let client = cluster::server().await;
    let attributes = Attributes {
        verb: "get".to_owned(),
        group: "api.warren.dev".to_owned(),
        version: "v1alpha1".to_owned(),
        resource: "flows".to_owned(),
        namespace: Some("shop".to_owned()),
        ..Attributes::default()
    };
    let nobody = User {
        name: "nobody".to_owned(),
        ..User::default()
    };
    denied(
        authorize(&client, &nobody, &attributes).await,
        "nobody may not get flows.api.warren.dev in namespace shop",
    );
    let admin = User {
        name: "admin".to_owned(),
        groups: vec!["system:masters".to_owned()],
        ..User::default()
    };
    authorize(&client, &admin, &attributes)
        .await
        .expect("masters may everything");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn a_taint_comes_and_goes_and_others_stay() {
    let client = cluster::server().await;
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": format!("warren-test-{}", std::process::id()) },
        "spec": { "taints": [{ "key": "example.com/own", "effect": "NoExecute", "value": "x" }] },
    });
    cluster::apply(&client, node.clone()).await;
    let name = node["metadata"]["name"].as_str().expect("a name");
    let taints = async || {
        let node = cluster::get(&client, &node).await;
        let taints = node.data["spec"]["taints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mut keys: Vec<String> = taints
            .iter()
            .filter_map(|taint| taint["key"].as_str().map(str::to_owned))
            .collect();
        // The server adds one of its own to nodes that are not ready.
        keys.retain(|key| !key.starts_with("node.kubernetes.io/"));
        keys.sort();
        keys
    };
    taint::remove(&client, name).await.expect("nothing to take");
    assert_eq!(taints().await, ["example.com/own"]);
    taint::add(&client, name).await.expect("it is added");
    taint::add(&client, name).await.expect("it is there");
    assert_eq!(taints().await, ["example.com/own", "warren.dev/not-ready"]);
    taint::remove(&client, name).await.expect("it is taken");
    assert_eq!(taints().await, ["example.com/own"]);
    cluster::delete(&client, &node).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn agents_find_the_controllers_ready_replicas() {
    let client = cluster::server().await;
    let namespace = cluster::namespace(&client, json!({})).await;
    let find = async || {
        client::controller_addresses(&client, &namespace)
            .await
            .expect("an answer")
    };
    assert_eq!(find().await, []);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": "warren-controller", "namespace": namespace },
        "subsets": [{
            "addresses": [{ "ip": "10.9.0.7" }], "notReadyAddresses": [{ "ip": "10.9.0.8" }],
            "ports": [{ "name": "api", "port": 15011 }, { "name": "grpc", "port": 15012 }],
        }],
    });
    cluster::apply(&client, endpoints).await;
    // A server that has EndpointSlices is asked for these; nobody mirrors ours there without a controller.
    let has_slices = client
        .list_api_group_resources("discovery.k8s.io/v1")
        .await
        .is_ok();
    if !has_slices {
        assert_eq!(
            find().await,
            ["10.9.0.7:15012".parse().expect("an address")]
        );
    }
}
