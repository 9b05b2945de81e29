//! The start-up taint: a node takes no pods before its agent enrols them.

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::names::NOT_READY_TAINT;

/// How often others may change a node in between before that is an error. Kubelets and controllers do, with each start.
const TRIES: u32 = 5;

/// Takes the taint `warren.dev/not-ready` from a node; does nothing when it is not there.
///
/// # Errors
/// The node cannot be read or patched.
pub async fn remove(client: &Client, node: &str) -> Result<(), kube::Error> {
    change(client, node, |taints| {
        let count = taints.len();
        taints.retain(|taint| taint.key != NOT_READY_TAINT);
        taints.len() != count
    })
    .await
}

/// Gives it to a node (effect NoSchedule).
///
/// # Errors
/// The node cannot be read or patched.
pub async fn add(client: &Client, node: &str) -> Result<(), kube::Error> {
    change(client, node, |taints| {
        let there = taints.iter().any(|taint| taint.key == NOT_READY_TAINT);
        if !there {
            taints.push(Taint {
                key: NOT_READY_TAINT.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            });
        }
        !there
    })
    .await
}

/// The server has no way to change one taint: the list is written whole, as it was read, or not at all.
async fn change(
    client: &Client,
    node: &str,
    edit: impl Fn(&mut Vec<Taint>) -> bool,
) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut tries = 0;
    loop {
        let found = nodes.get(node).await?;
        let mut taints = found.spec.and_then(|spec| spec.taints).unwrap_or_default();
        if !edit(&mut taints) {
            return Ok(());
        }
        let patch = json!({
            "metadata": { "resourceVersion": found.metadata.resource_version },
            "spec": { "taints": taints },
        });
        let patched = nodes
            .patch(node, &PatchParams::default(), &Patch::Merge(patch))
            .await;
        tries += 1;
        match patched {
            Ok(_) => return Ok(()),
            // Somebody else was faster.
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => {}
            Err(error) => return Err(error),
        }
    }
}
