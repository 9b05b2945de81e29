//! The start-up taint: a node takes no pods before its agent enrols them.

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::names::NOT_READY_TAINT;

/// Takes the taint `warren.dev/not-ready` from a node; does nothing when it is not there.
///
/// # Errors
/// The node cannot be patched.
pub async fn remove(client: &Client, node: &str) -> Result<(), kube::Error> {
    // A strategic merge: the server takes out what has this key, whatever else is changed at the same time.
    patch(
        client,
        node,
        json!({ "key": NOT_READY_TAINT, "$patch": "delete" }),
    )
    .await
}

/// Gives it to a node (effect NoSchedule).
///
/// # Errors
/// The node cannot be patched.
pub async fn add(client: &Client, node: &str) -> Result<(), kube::Error> {
    patch(
        client,
        node,
        json!({ "key": NOT_READY_TAINT, "effect": "NoSchedule" }),
    )
    .await
}

async fn patch(client: &Client, node: &str, taint: serde_json::Value) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = Patch::Strategic(json!({ "spec": { "taints": [taint] } }));
    nodes.patch(node, &PatchParams::default(), &patch).await?;
    Ok(())
}
