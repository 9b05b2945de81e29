//! The objects of an installation: those of the chart, whatever its values were, and those that the controller has made.

use std::time::Duration;

use serde_json::{Value, json};

use super::Api;
use crate::cli::CliError;
use crate::manifests::{self, kind, name};

/// How long the controllers may take to end, and the namespace to go.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

/// Tells the controllers to end, and removes the API that the API server asks them for: while it is announced and nobody answers, no namespace
/// of the cluster can be deleted.
pub(super) async fn end_controllers(api: &Api<'_>) -> Result<Vec<String>, CliError> {
    let mut done = Vec::new();
    for object in [
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": crate::api::API_SERVICE}}),
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": mesh_kubernetes::names::CONTROLLER, "namespace": api.namespace}}),
    ] {
        done.extend(remove_one(api, &object).await?);
    }
    Ok(done)
}

/// Removes what the controllers have made, which no manifest has.
pub(super) async fn remove_made(api: &Api<'_>) -> Result<Vec<String>, CliError> {
    use mesh_kubernetes::names::{AUTHORITY_SECRET, CONTROLLER, TRUST_CONFIG_MAP};
    let mut done = Vec::new();
    for (version, kind, name) in [
        ("v1", "Secret", AUTHORITY_SECRET),
        ("v1", "ConfigMap", TRUST_CONFIG_MAP),
        ("coordination.k8s.io/v1", "Lease", CONTROLLER),
    ] {
        let object = json!({"apiVersion": version, "kind": kind,
            "metadata": {"name": name, "namespace": api.namespace}});
        done.extend(remove_one(api, &object).await?);
    }
    Ok(done)
}

/// Removes what was installed, whatever the values were.
pub(super) async fn remove_installed(api: &Api<'_>, crds: bool) -> Result<Vec<String>, CliError> {
    let mut all = manifests::every_object(&api.namespace)
        .map_err(|error| CliError::failed("it is not known what there is to remove", error))?;
    // What others need comes before them in an installation, so it goes after them.
    all.reverse();
    let mut done = Vec::new();
    for object in all.iter().filter(|object| kind(object) != "Namespace") {
        done.extend(remove_one(api, object).await?);
    }
    done.extend(match crds {
        true => remove_definitions(api).await?,
        false => keep_definitions(api).await?,
    });
    done.extend(remove_namespace(api).await?);
    if done.is_empty() {
        done.push("Nothing of Warren is left in the cluster.".to_owned());
    }
    Ok(done)
}

/// Removes an object; says so when it was there.
async fn remove_one(api: &Api<'_>, object: &Value) -> Result<Option<String>, CliError> {
    let mut was_there = false;
    for path in paths(object) {
        was_there |= api.remove(&path).await?;
    }
    Ok(was_there.then(|| format!("Removed {} {}.", kind(object), name(object))))
}

/// Where an object is. A kind that has moved between versions is in one of two places.
pub(super) fn paths(object: &Value) -> Vec<String> {
    let version = object["apiVersion"].as_str().unwrap_or_default();
    let versions: &[&str] = match version {
        "policy/v1" => &["policy/v1", "policy/v1beta1"],
        _ => &[version],
    };
    versions
        .iter()
        .map(|version| {
            let root = match version.contains('/') {
                true => format!("/apis/{version}"),
                false => format!("/api/{version}"),
            };
            let namespace = object["metadata"]["namespace"]
                .as_str()
                .map_or_else(String::new, |namespace| format!("/namespaces/{namespace}"));
            format!(
                "{root}{namespace}/{}/{}",
                plural(kind(object)),
                name(object)
            )
        })
        .collect()
}

/// As the API's paths name a kind.
fn plural(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    match lower.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{lower}s"),
    }
}

/// Our kinds of object, by the names of their definitions.
async fn definitions(api: &Api<'_>) -> Result<Vec<Value>, CliError> {
    let all = api
        .list("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
        .await?;
    Ok(all
        .into_iter()
        .filter(|definition| definition["spec"]["group"] == "warren.dev")
        .collect())
}

async fn remove_definitions(api: &Api<'_>) -> Result<Vec<String>, CliError> {
    let mut done = Vec::new();
    for definition in definitions(api).await? {
        let name = name(&definition);
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        if api.remove(&path).await? {
            done.push(format!("Removed CustomResourceDefinition {name}."));
        }
    }
    Ok(done)
}

/// Policies are people's work: they stay until somebody says otherwise.
async fn keep_definitions(api: &Api<'_>) -> Result<Vec<String>, CliError> {
    let definitions = definitions(api).await?;
    let names: Vec<&str> = definitions.iter().map(name).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "Left: {}, and the objects of these kinds. To remove them: warren uninstall --kubernetes --crds",
        names.join(", ")
    )])
}

/// Removes the namespace, if `warren install` has made it: one that was there before may be somebody's.
async fn remove_namespace(api: &Api<'_>) -> Result<Option<String>, CliError> {
    let path = format!("/api/v1/namespaces/{}", api.namespace);
    let Some(namespace) = api.find(&path).await? else {
        return Ok(None);
    };
    if namespace["metadata"]["labels"]["app.kubernetes.io/name"] != "warren" {
        return Ok(Some(format!(
            "Left: namespace {}, which was not made by `warren install`.",
            api.namespace
        )));
    }
    api.remove(&path).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while api.find(&path).await?.is_some() {
        if tokio::time::Instant::now() >= deadline {
            return Err(CliError::TimedOut(format!(
                "namespace {} is still there after {PATIENCE:?}; its conditions say why: kubectl get namespace {} -o yaml",
                api.namespace, api.namespace
            )));
        }
        tokio::time::sleep(super::LOOK).await;
    }
    Ok(Some(format!("Removed Namespace {}.", api.namespace)))
}
