//! Whether what was installed is there and runs, as the API server tells it: also when the controller does not answer.

use serde_json::Value;

use super::{condition, items, look, name};
use crate::api::API_SERVICE;
use crate::api::client::Cluster;
use crate::api::objects::{Check, CheckState};
use crate::cli::CliError;

pub(super) const SECTION: &str = "control plane";
const NAMESPACES: &str = "namespaces";

/// The namespace that it is installed in, unless the APIService says otherwise.
const NAMESPACE: &str = "warren-system";

const CRDS: &[&str] = &[
    "authorizationpolicies.warren.dev",
    "meshpolicies.warren.dev",
];

/// Everything, in order. Says whether there is anything: where nothing is installed, that is all there is to say.
pub(super) async fn control_plane(
    cluster: &Cluster,
    checks: &mut Vec<Check>,
) -> Result<bool, CliError> {
    let Some(namespace) = api_service(cluster, checks).await? else {
        return Ok(false);
    };
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/warren-controller");
    checks.push(
        match look(cluster, &path, "the controller", SECTION).await? {
            Err(unseen) => unseen,
            Ok(found) => deployment(found.as_ref(), &namespace),
        },
    );
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/warren-node");
    checks.push(match look(cluster, &path, "the agents", SECTION).await? {
        Err(unseen) => unseen,
        Ok(found) => daemon_set(found.as_ref(), &namespace),
    });
    crds(cluster, checks).await?;
    namespaces(cluster, checks).await?;
    Ok(true)
}

/// Whom the API server asks; gives the namespace that the mesh is installed in, if it is.
async fn api_service(
    cluster: &Cluster,
    checks: &mut Vec<Check>,
) -> Result<Option<String>, CliError> {
    let path = format!("/apis/apiregistration.k8s.io/v1/apiservices/{API_SERVICE}");
    let service = match look(cluster, &path, "the APIService", SECTION).await? {
        Err(unseen) => {
            checks.push(unseen);
            return Ok(Some(NAMESPACE.to_owned()));
        }
        Ok(service) => service,
    };
    let Some(service) = service else {
        checks.push(Check::bad(
            SECTION,
            CheckState::Failed,
            format!("Warren is not installed: there is no APIService {API_SERVICE}"),
            "warren install | kubectl apply -f -",
        ));
        return Ok(None);
    };
    checks.push(match condition(&service, "Available") {
        (true, _) => Check::ok(SECTION, "the API server can ask the controller"),
        (false, why) => Check::bad(
            SECTION,
            CheckState::Failed,
            format!("the API server cannot ask the controller: {why}"),
            "does a controller run, and may the API server reach its port 15011? kubectl -n warren-system get pods,endpoints",
        ),
    });
    let namespace = service["spec"]["service"]["namespace"].as_str();
    Ok(Some(namespace.unwrap_or(NAMESPACE).to_owned()))
}

fn deployment(found: Option<&Value>, namespace: &str) -> Check {
    let Some(found) = found else {
        return Check::bad(
            SECTION,
            CheckState::Failed,
            format!("there is no Deployment warren-controller in namespace {namespace}"),
            "warren install | kubectl apply -f -",
        );
    };
    let (ready, wanted) = (
        found["status"]["readyReplicas"].as_u64().unwrap_or(0),
        found["spec"]["replicas"].as_u64().unwrap_or(1),
    );
    let fix = format!(
        "kubectl -n {namespace} describe deployment warren-controller; kubectl -n {namespace} logs deployment/warren-controller"
    );
    match ready {
        0 => Check::bad(
            SECTION,
            CheckState::Failed,
            format!(
                "no controller is ready ({wanted} wanted): the mesh goes on as it is, nothing new reaches it"
            ),
            fix,
        ),
        ready if ready < wanted => Check::bad(
            SECTION,
            CheckState::Warning,
            format!("only {ready} of {wanted} controllers are ready"),
            fix,
        ),
        ready => Check::ok(SECTION, format!("controller {ready}/{wanted} ready")),
    }
}

fn daemon_set(found: Option<&Value>, namespace: &str) -> Check {
    let Some(found) = found else {
        return Check::bad(
            SECTION,
            CheckState::Failed,
            format!("there is no DaemonSet warren-node in namespace {namespace}"),
            "warren install | kubectl apply -f -",
        );
    };
    let number = |key: &str| found["status"][key].as_u64().unwrap_or(0);
    let (wanted, ready, updated) = (
        number("desiredNumberScheduled"),
        number("numberReady"),
        number("updatedNumberScheduled"),
    );
    if wanted == 0 {
        return Check::bad(
            SECTION,
            CheckState::Failed,
            "no node is chosen to run the agent",
            format!(
                "kubectl -n {namespace} get daemonset warren-node -o yaml: its nodeSelector matches no node"
            ),
        );
    }
    if ready < wanted {
        return Check::bad(
            SECTION,
            CheckState::Failed,
            format!("agents are ready on {ready} of {wanted} nodes"),
            format!("kubectl -n {namespace} get pods -l app.kubernetes.io/component=node -o wide"),
        );
    }
    if updated < wanted {
        return Check::bad(
            SECTION,
            CheckState::Warning,
            format!("agents are of the newest version on {updated} of {wanted} nodes"),
            format!(
                "a roll-out is under way? kubectl -n {namespace} rollout status daemonset/warren-node"
            ),
        );
    }
    Check::ok(SECTION, format!("agents {ready}/{wanted} ready"))
}

async fn crds(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), CliError> {
    let mut good = Vec::new();
    for crd in CRDS {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd}");
        match look(cluster, &path, crd, SECTION).await? {
            Err(unseen) => checks.push(unseen),
            Ok(None) => checks.push(Check::bad(
                SECTION,
                CheckState::Failed,
                format!(
                    "the CustomResourceDefinition {crd} is missing: such objects cannot be made"
                ),
                "warren install --crds | kubectl apply -f -",
            )),
            Ok(Some(found)) => match condition(&found, "Established") {
                (true, _) => good.push(*crd),
                (false, why) => checks.push(Check::bad(
                    SECTION,
                    CheckState::Failed,
                    format!("the CustomResourceDefinition {crd} is not served: {why}"),
                    format!("kubectl describe crd {crd}"),
                )),
            },
        }
    }
    if good.len() == CRDS.len() {
        checks.push(Check::ok(SECTION, format!("CRDs {}", good.join(", "))));
    }
    Ok(())
}

/// Labels that say nothing, and how many namespaces are in the mesh.
async fn namespaces(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), CliError> {
    let list = match look(cluster, "/api/v1/namespaces", "the namespaces", NAMESPACES).await? {
        Err(unseen) => {
            checks.push(unseen);
            return Ok(());
        }
        Ok(list) => list,
    };
    let mut meshed = Vec::new();
    for namespace in items(&list) {
        match namespace["metadata"]["labels"]["warren.dev/mesh"].as_str() {
            Some("enabled") => meshed.push(name(namespace)),
            None | Some("disabled") => {}
            Some(other) => checks.push(Check::bad(
                NAMESPACES,
                CheckState::Warning,
                format!(
                    "namespace {} has the label warren.dev/mesh={other}, which is neither enabled nor disabled: it is not in the mesh",
                    name(namespace)
                ),
                format!("warren enable ns/{0}, or warren disable ns/{0}", name(namespace)),
            )),
        }
    }
    checks.push(match meshed.as_slice() {
        [] => Check::bad(
            NAMESPACES,
            CheckState::Warning,
            "no namespace is in the mesh",
            "warren enable ns/NAME",
        ),
        some => Check::ok(NAMESPACES, format!("in the mesh: {}", some.join(", "))),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(check: &Check, state: CheckState, expected: &str) {
        assert_eq!(check.state, state, "{}", check.message);
        assert!(check.message.contains(expected), "{}", check.message);
        assert_eq!(check.fix.is_none(), state == CheckState::Ok);
    }

    #[test]
    fn controllers_are_counted() {
        let of = |ready: Option<u64>| {
            let found = json!({ "spec": { "replicas": 2 }, "status": { "readyReplicas": ready } });
            deployment(Some(&found), "mesh")
        };
        check(&of(Some(2)), CheckState::Ok, "2/2 ready");
        check(&of(Some(1)), CheckState::Warning, "only 1 of 2");
        check(
            &of(None),
            CheckState::Failed,
            "no controller is ready (2 wanted)",
        );
        check(
            &deployment(None, "mesh"),
            CheckState::Failed,
            "in namespace mesh",
        );
    }

    #[test]
    fn agents_are_counted() {
        let of = |wanted: u64, ready: u64, updated: u64| {
            let found = json!({ "status": {
                "desiredNumberScheduled": wanted, "numberReady": ready, "updatedNumberScheduled": updated,
            } });
            daemon_set(Some(&found), "mesh")
        };
        check(&of(3, 3, 3), CheckState::Ok, "3/3 ready");
        check(&of(3, 2, 3), CheckState::Failed, "ready on 2 of 3 nodes");
        check(
            &of(3, 3, 1),
            CheckState::Warning,
            "newest version on 1 of 3",
        );
        check(&of(0, 0, 0), CheckState::Failed, "no node is chosen");
        check(
            &daemon_set(None, "mesh"),
            CheckState::Failed,
            "no DaemonSet",
        );
    }
}
