//! What there is to ask, in the documents that clients of Kubernetes look for.

use serde_json::{Value, json};

use crate::api::{CLUSTER_GROUP, CLUSTER_VERSION};

/// Everything that can be asked, and the verbs by which the API server authorises it.
pub(crate) const RESOURCES: &[(&str, &str, &[&str])] = &[
    ("certs", "Certificate", &["list"]),
    ("checks", "Checks", &["list"]),
    ("explain", "Explanation", &["list"]),
    ("flows", "Flow", &["list", "watch"]),
    ("policies", "AuthorizationPolicy", &["list"]),
    ("routes", "Route", &["list"]),
    ("services", "Service", &["list"]),
    ("status", "ClusterStatus", &["list"]),
    ("workloads", "Workload", &["list"]),
];

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
        .map(|(name, kind, verbs)| {
            json!({
                "name": name,
                "singularName": "",
                "namespaced": true,
                "kind": kind,
                "verbs": verbs,
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
