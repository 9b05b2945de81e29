//! `warren check` of a cluster: what the API server tells the caller, with the caller's own rights, and what the controller
//! tells. What may not be looked at is said, not guessed.

use serde_json::Value;

use super::CliError;
use crate::api::client::{Client, ClientError, Cluster};
use crate::api::objects::{Check, CheckState, Checks};

mod installed;
mod needed;

/// Looks at everything.
pub(crate) async fn run(
    client: &Client,
    cluster: &Cluster,
    only_needed: bool,
) -> Result<Vec<Check>, CliError> {
    let mut checks = Vec::new();
    // When even this fails there is nothing to check: who cannot be reached is an error of its own.
    let version = cluster.find("/version").await?.unwrap_or_default();
    checks.push(needed::version(&version, cluster.server()));
    if only_needed {
        needed::aggregation(cluster, &mut checks).await?;
        needed::gateway_api(cluster, &mut checks).await?;
        needed::rights(cluster, &mut checks).await?;
        needed::nodes(cluster, &mut checks).await?;
        return Ok(checks);
    }
    needed::gateway_api(cluster, &mut checks).await?;
    if !installed::control_plane(cluster, &mut checks).await? {
        return Ok(checks);
    }
    match client.get::<Checks>("checks", None).await {
        Ok(told) => checks.extend(told.items),
        Err(error @ (ClientError::NotInstalled { .. } | ClientError::ControllerAway { .. })) => {
            checks.push(Check::bad(
                installed::SECTION,
                CheckState::Failed,
                error.to_string(),
                "what the controller knows of nodes, certificates and objects is missing below; mend it, then check again",
            ));
        }
        Err(error @ ClientError::Forbidden { .. }) => checks.push(Check::bad(
            installed::SECTION,
            CheckState::Warning,
            error.to_string(),
            "what the controller knows of nodes, certificates and objects is missing here; ask with more rights",
        )),
        Err(error) => return Err(error.into()),
    }
    Ok(checks)
}

/// An object; `Err` with a check that says so when the caller may not see it.
async fn look(
    cluster: &Cluster,
    path: &str,
    what: &str,
    section: &str,
) -> Result<Result<Option<Value>, Check>, CliError> {
    match cluster.find(path).await {
        Ok(found) => Ok(Ok(found)),
        Err(ClientError::Forbidden { why, .. }) => Ok(Err(Check::bad(
            section,
            CheckState::Warning,
            format!("{what}: not looked at, because you may not ({why})"),
            "ask with more rights",
        ))),
        Err(error) => Err(error.into()),
    }
}

/// The items of a list.
fn items(list: &Option<Value>) -> impl Iterator<Item = &Value> {
    list.iter()
        .flat_map(|list| list["items"].as_array().into_iter().flatten())
}

/// The name of an object.
fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Whether a condition of an object is `True`, and its message.
fn condition<'o>(object: &'o Value, kind: &str) -> (bool, &'o str) {
    let found = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind);
    found.map_or((false, "not reported"), |condition| {
        (
            condition["status"] == "True",
            condition["message"].as_str().unwrap_or_default(),
        )
    })
}
