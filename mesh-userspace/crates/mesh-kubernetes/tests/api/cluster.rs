//! The server, a namespace of one's own in it, and patience.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};

/// The server that `WARREN_KUBECONFIG` names.
pub(crate) async fn server() -> Client {
    let file = std::env::var_os("WARREN_KUBECONFIG")
        .expect("WARREN_KUBECONFIG names a kubeconfig of an API server to try this on");
    mesh_kubernetes::client::from_kubeconfig(Some(file.as_ref()), None)
        .await
        .expect("WARREN_KUBECONFIG leads to an API server")
}

/// A namespace for one test, with a service account `default` (which a controller would make).
pub(crate) async fn namespace(client: &Client, labels: Value) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("warren-test-{}-{count}", std::process::id());
    apply(client, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } })).await;
    account(client, &name, "default").await;
    name
}

pub(crate) async fn account(client: &Client, namespace: &str, name: &str) {
    apply(
        client,
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": namespace } }),
    )
    .await;
}

/// A pod that is said to run on a node, with this address.
pub(crate) async fn pod(
    client: &Client,
    namespace: &str,
    name: &str,
    account: &str,
    ip: &str,
) -> String {
    let pod = apply(
        client,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": { "app": name } },
            "spec": {
                "nodeName": "node-a", "serviceAccountName": account, "automountServiceAccountToken": false,
                "containers": [{ "name": "app", "image": "none" }],
            },
        }),
    )
    .await;
    let status = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] } });
    let api = api_of(
        client,
        &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": namespace } }),
    );
    let params = PatchParams::default();
    api.patch_status(name, &params, &Patch::Merge(&status))
        .await
        .expect("the pod's status");
    pod.metadata.uid.expect("a UID")
}

pub(crate) fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let api_version = text(&object["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
        group,
        version,
        &text(&object["kind"]),
    ));
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Makes an object, or replaces it.
pub(crate) async fn apply(client: &Client, object: Value) -> DynamicObject {
    let api = api_of(client, &object);
    let name = object["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    match api.create(&PostParams::default(), &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let params = PatchParams::default();
            api.patch(&name, &params, &Patch::Merge(&object))
                .await
                .expect("a patch")
        }
        made => made.unwrap_or_else(|error| panic!("{name} cannot be made: {error}")),
    }
}

pub(crate) async fn get(client: &Client, object: &Value) -> DynamicObject {
    let name = object["metadata"]["name"].as_str().expect("a name");
    api_of(client, object).get(name).await.expect("the object")
}

pub(crate) async fn delete(client: &Client, object: &Value) {
    let name = object["metadata"]["name"].as_str().expect("a name");
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    match api_of(client, object).delete(name, &now).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => panic!("{name} cannot be deleted: {error}"),
    }
}

/// Installs a kind, and waits until the server serves it.
pub(crate) async fn install(client: &Client, crd: &CustomResourceDefinition) {
    let value = serde_json::to_value(crd).expect("a definition");
    apply(client, value.clone()).await;
    let spec = &crd.spec;
    let path = format!("{}/{}", spec.group, spec.versions[0].name);
    eventually("the kind is served", async || {
        let listed = client.list_api_group_resources(&path).await.ok()?;
        listed
            .resources
            .iter()
            .any(|resource| resource.name == spec.names.plural)
            .then_some(())
    })
    .await;
}

/// Waits until something is so.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "not within a minute: {what}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
