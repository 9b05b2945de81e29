//! What there is to ask, in the documents that clients of Kubernetes look for.

use serde_json::{Value, json};

use crate::api::{CLUSTER_GROUP, CLUSTER_VERSION};

/// Everything that can be asked, and the verbs by which the API server authorises it. Not all is asked about namespaces: to
/// the API server `namespaces/NAME/status` is a part of the Namespace, so that what concerns one is its `summary`.
pub(crate) const RESOURCES: &[Resource] = &[
    resource("certs", "Certificate"),
    resource("checks", "Checks"),
    resource("explain", "Explanation"),
    Resource {
        verbs: &["list", "watch"],
        ..resource("flows", "Flow")
    },
    resource("policies", "AuthorizationPolicy"),
    resource("routes", "Route"),
    resource("services", "Service"),
    Resource {
        of_namespaces: false,
        ..resource("status", "ClusterStatus")
    },
    resource("summary", "ClusterStatus"),
    resource("workloads", "Workload"),
];

/// Something that can be asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resource {
    pub(crate) name: &'static str,
    kind: &'static str,
    pub(crate) verbs: &'static [&'static str],
    pub(crate) of_namespaces: bool,
}

const fn resource(name: &'static str, kind: &'static str) -> Resource {
    Resource {
        name,
        kind,
        verbs: &["list"],
        of_namespaces: true,
    }
}

fn version() -> Value {
    json!({
        "groupVersion": format!("{CLUSTER_GROUP}/{CLUSTER_VERSION}"),
        "version": CLUSTER_VERSION,
    })
}

/// `/apis`.
pub(crate) fn groups() -> Value {
    json!({
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [group()],
    })
}

/// `/apis/api.warren.dev`.
pub(crate) fn group() -> Value {
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": CLUSTER_GROUP,
        "versions": [version()],
        "preferredVersion": version(),
    })
}

/// `/apis/api.warren.dev/v1alpha1`. Nothing of it can be changed or deleted, so whoever cleans namespaces up passes it by.
pub(crate) fn resources() -> Value {
    let resources: Vec<Value> = RESOURCES
        .iter()
        .map(|resource| {
            json!({
                "name": resource.name,
                // Not the kind in small letters, as without it: `kubectl get authorizationpolicy` means the object.
                "singularName": resource.name,
                "namespaced": resource.of_namespaces,
                "kind": resource.kind,
                "verbs": resource.verbs,
            })
        })
        .collect();
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{CLUSTER_GROUP}/{CLUSTER_VERSION}"),
        "resources": resources,
    })
}
