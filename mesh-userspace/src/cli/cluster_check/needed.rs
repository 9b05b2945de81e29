//! What Warren needs of a cluster, before and after it is there.

use serde_json::{Value, json};

use super::{items, look, name};
use crate::api::client::Cluster;
use crate::api::objects::{Check, CheckState};
use crate::cli::CliError;

const CLUSTER: &str = "cluster";
const RIGHTS: &str = "rights to install";
const NODES: &str = "nodes";

/// Versions of Kubernetes that manifests and tests cover: 1.29 to 1.37.
const OLDEST: u32 = 29;

/// Kernels that the mesh runs on, and those on which it has everything.
const OLDEST_KERNEL: (u32, u32) = (5, 15);
const FULL_KERNEL: (u32, u32) = (6, 6);

/// What installing makes, as (group, resource, namespaced).
const MADE: &[(&str, &str, bool)] = &[
    ("", "namespaces", false),
    ("", "serviceaccounts", true),
    ("", "services", true),
    ("", "configmaps", true),
    ("apps", "daemonsets", true),
    ("apps", "deployments", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("apiregistration.k8s.io", "apiservices", false),
];

/// That the API server answers, and its version.
pub(super) fn version(version: &Value, server: &str) -> Check {
    let said = version["gitVersion"].as_str().unwrap_or("unknown");
    let minor: Option<u32> = version["minor"].as_str().and_then(|minor| {
        minor
            .trim_end_matches(|last: char| !last.is_ascii_digit())
            .parse()
            .ok()
    });
    let message = format!("Kubernetes {said} at {server}");
    match (version["major"].as_str(), minor) {
        (Some("1"), Some(minor)) if minor >= OLDEST => Check::ok(CLUSTER, message),
        (Some("1"), Some(_)) => Check::bad(
            CLUSTER,
            CheckState::Warning,
            format!(
                "{message} is older than 1.{OLDEST}, the oldest that the manifests are tested with"
            ),
            format!("upgrade the cluster to 1.{OLDEST} or newer"),
        ),
        _ => Check::bad(
            CLUSTER,
            CheckState::Warning,
            format!("{message}: the version is not understood"),
            "is this the address of a Kubernetes API server? kubectl version",
        ),
    }
}

/// Whether the caller may make what installing makes.
pub(super) async fn rights(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), CliError> {
    let mut lacking = Vec::new();
    for (group, resource, namespaced) in MADE {
        let create = may(cluster, "create", group, resource, *namespaced).await?;
        let patch = may(cluster, "patch", group, resource, *namespaced).await?;
        let name = match group.is_empty() {
            true => (*resource).to_owned(),
            false => format!("{resource}.{group}"),
        };
        match (create, patch) {
            (true, true) => {}
            (true, false) => lacking.push(format!("{name} (only make)")),
            (false, true) => lacking.push(format!("{name} (only change)")),
            (false, false) => lacking.push(name),
        }
    }
    checks.push(match lacking.is_empty() {
        true => Check::ok(
            RIGHTS,
            format!("you may make and change all {} kinds of object", MADE.len()),
        ),
        false => Check::bad(
            RIGHTS,
            CheckState::Failed,
            format!("you may not make and change: {}", lacking.join(", ")),
            "install as an administrator of the cluster",
        ),
    });
    Ok(())
}

async fn may(
    cluster: &Cluster,
    verb: &str,
    group: &str,
    resource: &str,
    namespaced: bool,
) -> Result<bool, CliError> {
    let mut attributes = json!({ "verb": verb, "group": group, "resource": resource });
    if namespaced {
        attributes["namespace"] = "warren-system".into();
    }
    let question = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": attributes },
    });
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let answer = cluster.create(path, &question).await?;
    Ok(answer["status"]["allowed"] == true)
}

/// Whether the API server can ask the controller.
pub(super) async fn aggregation(
    cluster: &Cluster,
    checks: &mut Vec<Check>,
) -> Result<(), CliError> {
    const WHAT: &str = "the API server's aggregation layer";
    let path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    checks.push(match look(cluster, path, WHAT, CLUSTER).await? {
        Err(unseen) => unseen,
        Ok(Some(map)) if map["data"]["requestheader-client-ca-file"].is_string() => {
            Check::ok(CLUSTER, format!("{WHAT} is on"))
        }
        Ok(_) => Check::bad(
            CLUSTER,
            CheckState::Failed,
            format!("{WHAT} is off: flows, status and explain would not be answered"),
            "give the API server --requestheader-client-ca-file and --proxy-client-cert-file (kubeadm and cloud providers do)",
        ),
    });
    Ok(())
}

/// Which kinds of route the cluster has.
pub(super) async fn gateway_api(
    cluster: &Cluster,
    checks: &mut Vec<Check>,
) -> Result<(), CliError> {
    const GROUP: &str = "gateway.networking.k8s.io";
    let Some(group) = cluster.find(&format!("/apis/{GROUP}")).await? else {
        checks.push(Check::bad(
            CLUSTER,
            CheckState::Warning,
            "the Gateway API is not installed: there are no routes, every service's endpoints share its connections",
            "if you want routes: install the Gateway API's CRDs (gateway-api.sigs.k8s.io/guides); nothing has to be restarted",
        ));
        return Ok(());
    };
    let mut kinds: Vec<String> = Vec::new();
    for version in group["versions"].as_array().into_iter().flatten() {
        let version = version["version"].as_str().unwrap_or_default();
        let resources = cluster.find(&format!("/apis/{GROUP}/{version}")).await?;
        let found = resources
            .iter()
            .flat_map(|list| list["resources"].as_array().into_iter().flatten());
        for resource in found {
            let kind = resource["kind"].as_str().unwrap_or_default();
            if ["TCPRoute", "HTTPRoute", "GRPCRoute"].contains(&kind)
                && !kinds.iter().any(|known| known == kind)
            {
                kinds.push(kind.to_owned());
            }
        }
    }
    kinds.sort_unstable();
    checks.push(match kinds.iter().any(|kind| kind == "TCPRoute") {
        true => Check::ok(CLUSTER, format!("the Gateway API is installed ({})", kinds.join(", "))),
        false => Check::bad(
            CLUSTER,
            CheckState::Warning,
            format!(
                "the Gateway API is installed without TCPRoute (there is: {})",
                if kinds.is_empty() { "no route".to_owned() } else { kinds.join(", ") }
            ),
            "if you want routes by connection: install a channel of the Gateway API that has TCPRoute",
        ),
    });
    Ok(())
}

/// Whether the nodes can run the agent, as far as they say.
pub(super) async fn nodes(cluster: &Cluster, checks: &mut Vec<Check>) -> Result<(), CliError> {
    let list = match look(cluster, "/api/v1/nodes", "the nodes", NODES).await? {
        Err(unseen) => {
            checks.push(unseen);
            return Ok(());
        }
        Ok(list) => list,
    };
    let mut good = 0_usize;
    for node in items(&list) {
        match node_check(node) {
            None => good += 1,
            Some(check) => checks.push(check),
        }
    }
    if good > 0 {
        checks.push(Check::ok(
            NODES,
            format!(
                "{good} node{} with a kernel of {}.{} or newer",
                if good == 1 { "" } else { "s" },
                FULL_KERNEL.0,
                FULL_KERNEL.1
            ),
        ));
    }
    checks.push(Check::ok(
        NODES,
        "what kernels were built with is not known from here: on a node, run `warren check --pre`",
    ));
    Ok(())
}

/// What is wrong with a node; `None`: nothing.
fn node_check(node: &Value) -> Option<Check> {
    let name = name(node);
    let info = &node["status"]["nodeInfo"];
    let text = |key: &str| info[key].as_str().unwrap_or("unknown").to_owned();
    let (system, machine, kernel) = (
        text("operatingSystem"),
        text("architecture"),
        text("kernelVersion"),
    );
    if system != "linux" {
        return Some(Check::bad(
            NODES,
            CheckState::Warning,
            format!(
                "node {name} runs {system}: the agent is not started there, its pods stay outside the mesh"
            ),
            "nothing, if that is meant",
        ));
    }
    if !["amd64", "arm64"].contains(&machine.as_str()) {
        return Some(Check::bad(
            NODES,
            CheckState::Failed,
            format!("node {name} is a {machine}; there are images for amd64 and arm64"),
            "keep the agent off it with a nodeSelector, or build an image for it",
        ));
    }
    let version = kernel_version(&kernel);
    match version {
        Some(version) if version >= FULL_KERNEL => None,
        Some(version) if version >= OLDEST_KERNEL => Some(Check::bad(
            NODES,
            CheckState::Warning,
            format!(
                "node {name} has kernel {kernel}: it works, with clsact filters instead of tcx links"
            ),
            format!(
                "kernel {}.{} or newer is better",
                FULL_KERNEL.0, FULL_KERNEL.1
            ),
        )),
        Some(_) => Some(Check::bad(
            NODES,
            CheckState::Failed,
            format!("node {name} has kernel {kernel}, which lacks what the mesh needs"),
            format!(
                "boot kernel {}.{} or newer",
                OLDEST_KERNEL.0, OLDEST_KERNEL.1
            ),
        )),
        None => Some(Check::bad(
            NODES,
            CheckState::Warning,
            format!("node {name} has kernel {kernel:?}: the version is not understood"),
            "on the node, run `warren check --pre`",
        )),
    }
}

/// The first two numbers of a kernel's release.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kernel: &str, machine: &str) -> Value {
        json!({
            "metadata": { "name": "a" },
            "status": { "nodeInfo": { "operatingSystem": "linux", "architecture": machine, "kernelVersion": kernel } },
        })
    }

    #[test]
    fn nodes_are_judged_by_what_they_say() {
        let state = |kernel, machine| node_check(&node(kernel, machine)).map(|check| check.state);
        assert_eq!(state("6.12.3+deb13-amd64", "amd64"), None);
        assert_eq!(state("6.6.0", "arm64"), None);
        assert_eq!(
            state("5.15.0-91-generic", "amd64"),
            Some(CheckState::Warning)
        );
        assert_eq!(state("5.4.0", "amd64"), Some(CheckState::Failed));
        assert_eq!(state("6.12.3", "s390x"), Some(CheckState::Failed));
        assert_eq!(state("mine", "amd64"), Some(CheckState::Warning));
    }

    #[test]
    fn versions_of_kubernetes_are_judged() {
        let state = |minor: &str| {
            let said = json!({ "major": "1", "minor": minor, "gitVersion": format!("v1.{minor}") });
            version(&said, "https://here").state
        };
        assert_eq!(state("33"), CheckState::Ok);
        assert_eq!(state("29+"), CheckState::Ok);
        assert_eq!(state("20"), CheckState::Warning);
        assert_eq!(
            version(&Value::Null, "https://here").state,
            CheckState::Warning
        );
    }
}
