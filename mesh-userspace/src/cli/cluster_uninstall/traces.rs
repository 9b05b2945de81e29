//! What the controller has written into objects of others: taints of nodes, and its part of routes' status.

use mesh_kubernetes::names::{NOT_READY_TAINT, ROUTE_CONTROLLER};
use serde_json::{Value, json};

use super::Api;
use crate::api::client::ClientError;
use crate::cli::CliError;
use crate::manifests::name;

const GATEWAY_API: &str = "/apis/gateway.networking.k8s.io";
const ROUTES: [&str; 3] = ["tcproutes", "httproutes", "grpcroutes"];

/// How often a change is tried again that another writer was faster with.
const TRIES: u32 = 5;

/// Lets nodes take pods again that wait for an agent.
pub(super) async fn remove_taints(api: &Api<'_>) -> Result<Vec<String>, CliError> {
    let mut done = Vec::new();
    for node in api.list("/api/v1/nodes").await? {
        let path = format!("/api/v1/nodes/{}", name(&node));
        if change(api, &path, "", Some(node.clone()), without_taint).await? {
            done.push(format!(
                "Removed the taint {NOT_READY_TAINT} of node {}.",
                name(&node)
            ));
        }
    }
    Ok(done)
}

/// Takes what we said out of the status of routes.
pub(super) async fn clear_routes(api: &Api<'_>) -> Result<Vec<String>, CliError> {
    let mut cleared = 0_u32;
    for resource in ROUTES {
        let Some(version) = version_of(api, resource).await? else {
            continue;
        };
        for route in api
            .list(&format!("{GATEWAY_API}/{version}/{resource}"))
            .await?
        {
            let namespace = route["metadata"]["namespace"].as_str().unwrap_or_default();
            let path = format!(
                "{GATEWAY_API}/{version}/namespaces/{namespace}/{resource}/{}",
                name(&route)
            );
            if change(api, &path, "/status", Some(route), without_our_status).await? {
                cleared += 1;
            }
        }
    }
    Ok(match cleared {
        0 => Vec::new(),
        1 => vec!["Cleared our part of the status of 1 route.".to_owned()],
        some => vec![format!("Cleared our part of the status of {some} routes.")],
    })
}

/// The version in which the cluster has a kind of route.
async fn version_of(api: &Api<'_>, resource: &str) -> Result<Option<String>, CliError> {
    let Some(group) = api.find(GATEWAY_API).await? else {
        return Ok(None);
    };
    for version in group["versions"].as_array().into_iter().flatten() {
        let Some(version) = version["version"].as_str() else {
            continue;
        };
        let known = api.find(&format!("{GATEWAY_API}/{version}")).await?;
        let has = known
            .iter()
            .flat_map(|known| known["resources"].as_array().into_iter().flatten())
            .any(|known| known["name"] == resource);
        if has {
            return Ok(Some(version.to_owned()));
        }
    }
    Ok(None)
}

/// Changes an object, if there is anything to change, and only if nobody else has changed it meanwhile.
async fn change(
    api: &Api<'_>,
    path: &str,
    part: &str,
    known: Option<Value>,
    patch: fn(&Value) -> Option<Value>,
) -> Result<bool, CliError> {
    let mut object = known;
    for tried in 1.. {
        let Some(mut patch) = object.as_ref().and_then(patch) else {
            return Ok(false);
        };
        let version = object
            .as_ref()
            .map(|object| &object["metadata"]["resourceVersion"]);
        patch["metadata"] = json!({"resourceVersion": version});
        match api.merge(&format!("{path}{part}"), &patch).await {
            Ok(_) => return Ok(true),
            // It has changed, or is gone: seen at the next look.
            Err(ClientError::ApiRefused(_)) if tried < TRIES => object = api.find(path).await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// A patch that leaves every taint but ours; none when it is not there.
pub(super) fn without_taint(node: &Value) -> Option<Value> {
    let taints = node["spec"]["taints"].as_array()?;
    let others: Vec<&Value> = taints
        .iter()
        .filter(|taint| taint["key"] != NOT_READY_TAINT)
        .collect();
    (others.len() < taints.len()).then(|| json!({"spec": {"taints": others}}))
}

/// A patch that leaves what others say of a route; none when we say nothing.
pub(super) fn without_our_status(route: &Value) -> Option<Value> {
    let parents = route["status"]["parents"].as_array()?;
    let others: Vec<&Value> = parents
        .iter()
        .filter(|parent| parent["controllerName"] != ROUTE_CONTROLLER)
        .collect();
    (others.len() < parents.len()).then(|| json!({"status": {"parents": others}}))
}
