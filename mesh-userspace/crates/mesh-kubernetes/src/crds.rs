//! Our own kinds of object. `deploy/crds` is generated from these types (`cargo run -p mesh-kubernetes --example crds`); what
//! the comments say here is what `kubectl explain` shows.
//!
//! Schemas refuse what one value can be seen to be wrong about. Nothing relies on it: a server that does not know a rule of
//! a schema drops it, and what an object means is judged in [`crate::translate`] in any case.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The API group of our kinds.
pub const GROUP: &str = "warren.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";

/// The definitions of all our kinds.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![AuthorizationPolicy::crd(), MeshPolicy::crd()];
    let versions = crds.iter_mut().flat_map(|crd| &mut crd.spec.versions);
    for schema in versions.filter_map(|version| version.schema.as_mut()) {
        if let Some(schema) = &mut schema.open_api_v3_schema {
            without_empty_defaults(schema);
        }
    }
    crds
}

/// Kubernetes 1.20 takes an empty text as a default for none at all, and refuses the definition. Reading an object gives it
/// the same value without.
fn without_empty_defaults(schema: &mut JSONSchemaProps) {
    if schema
        .default
        .as_ref()
        .is_some_and(|default| default.0 == "")
    {
        schema.default = None;
    }
    let properties = schema.properties.iter_mut().flatten();
    properties.for_each(|(_, property)| without_empty_defaults(property));
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        without_empty_defaults(items);
    }
}

/// File names and texts of the definitions, as they are in `deploy/crds`.
///
/// # Errors
/// They cannot be written as YAML, which no value of the types can cause.
pub fn manifests() -> Result<Vec<(String, String)>, serde_saphyr::ser::Error> {
    crds()
        .iter()
        .map(|crd| {
            let name = crd.metadata.name.as_deref().unwrap_or_default();
            let text = serde_saphyr::to_string(crd)?;
            Ok((format!("{name}.yaml"), format!("{GENERATED}{text}")))
        })
        .collect()
}

#[cfg(test)]
mod tests;

const GENERATED: &str = "# Generated from mesh-kubernetes/src/crds.rs: cargo run -p mesh-kubernetes --example crds\n---\n";

/// Who may reach the pods of a target, by identity and port. A pod that any policy selects is closed to all whom no ALLOW
/// rule allows; what a DENY rule denies stays denied, whatever allows it. A policy only ever selects pods of its own
/// namespace.
#[derive(Clone, CustomResource, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "warren.dev",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    namespaced,
    status = "PolicyStatus",
    category = "warren",
    doc = "Who may reach the pods of a target, by identity and port.",
    printcolumn = r#"{"name":"Action","type":"string","jsonPath":".spec.action","description":"What its rules do."}"#,
    printcolumn = r#"{"name":"Dry run","type":"boolean","jsonPath":".spec.dryRun","description":"It only reports."}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status","description":"It can be applied as it is."}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status","description":"The nodes apply it."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// Which pods of the namespace.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// What the rules do: ALLOW or DENY.
    pub action: PolicyAction,
    /// Report what would be denied, deny nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// The action applies to connections that one of the rules matches. ALLOW without rules allows nothing.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub rules: Vec<AuthorizationRule>,
}

/// What pods an object is about: `kind: Pod` with a selector (an empty one selects every pod of the namespace), or
/// `kind: Service` with a name (the pods that this Service selects).
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group of the kind: the core group, which is written as an empty text.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Pod or Service.
    pub kind: TargetKind,
    /// Name of the Service. Not for pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Labels of the pods. Not for Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Kinds that can be a target.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TargetKind {
    /// Pods, by label.
    Pod,
    /// The pods behind a Service.
    Service,
}

/// Labels that a pod must have. Of the expressions, only `In` with one value can be used.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with their values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Expressions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub match_expressions: Vec<LabelExpression>,
}

/// A condition on one label.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelExpression {
    /// Key of the label.
    pub key: String,
    /// In, NotIn, Exists or DoesNotExist.
    pub operator: String,
    /// Values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// What a policy's rules do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PolicyAction {
    /// Allow the connection.
    #[serde(rename = "ALLOW")]
    Allow,
    /// Deny it, whatever allows it.
    #[serde(rename = "DENY")]
    Deny,
}

/// A rule. It matches when one of the sources and the network attributes match.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationRule {
    /// Name of the rule, as flows and explanations give it. Its position, if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?$"))]
    pub name: Option<String>,
    /// Sources, of which one has to match. Left out: every source. An empty list: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub sources: Option<Vec<AuthorizationSource>>,
    /// Ports. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_attributes: Option<NetworkAttributes>,
}

/// A source: its type, and the field of that type.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationSource {
    /// Which of the fields says who it is.
    #[serde(rename = "type")]
    pub kind: SourceKind,
    /// An identity in full, also of another trust domain: spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 2048),
        regex(pattern = r"^spiffe://[^/]+/ns/[^/]+/sa/[^/]+$")
    )]
    pub spiffe: Option<String>,
    /// A service account of this trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountRef>,
    /// Every service account of a namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// A network, e.g. 10.0.0.0/8. An address is not an identity: this is for callers outside the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub network: Option<String>,
}

/// Types of source.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SourceKind {
    /// An identity in full.
    #[serde(rename = "SPIFFE")]
    Spiffe,
    /// A service account, or all of a namespace.
    ServiceAccount,
    /// Every service account of a namespace.
    Namespace,
    /// A network, for callers outside the mesh.
    Network,
    /// Everybody with an identity of this mesh.
    Authenticated,
}

/// A service account.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountRef {
    /// Its namespace. The policy's, if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Its name; * for every one of the namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What of a connection is not its source.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAttributes {
    /// Ports of the pod, of which one has to match. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(range(min = 1, max = 65535)))]
    pub ports: Option<Vec<i32>>,
}

/// How pods of a namespace take part in the mesh: whether mutual TLS is required, and which namespaces they dial.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "warren.dev",
    version = "v1alpha1",
    kind = "MeshPolicy",
    namespaced,
    status = "PolicyStatus",
    category = "warren",
    doc = "How pods of a namespace take part in the mesh.",
    printcolumn = r#"{"name":"mTLS","type":"string","jsonPath":".spec.mtls.mode","description":"Whether mutual TLS is required."}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status","description":"It can be applied as it is."}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status","description":"The nodes apply it."}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct MeshPolicySpec {
    /// Which pods of the namespace. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// Whether mutual TLS is required. The most specific object speaks: one with a target before one without, one with
    /// ports before one without; of equally specific ones, a strict one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// The namespaces that pods of this one dial, beside their own. Nodes are told of no others for its sake, which saves
    /// memory in large clusters; what is left out cannot be reached through the mesh. Left out: all. Only without a target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), inner(length(min = 1, max = 63)))]
    pub reach: Option<Vec<String>>,
}

/// Whether mutual TLS is required.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mtls {
    /// strict: connections in clear are refused. permissive: they are taken, and counted.
    pub mode: MtlsMode,
    /// Ports of the pods. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(range(min = 1, max = 65535)))]
    pub ports: Option<Vec<i32>>,
}

/// Modes of mutual TLS.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum MtlsMode {
    /// Connections in clear are refused.
    Strict,
    /// They are taken, and counted.
    Permissive,
}

/// What became of an object.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// Accepted, ResolvedRefs and Programmed, each with a reason and a message.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// One thing that is so, is not so, or is not known.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// The generation of the object that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// Since when the status is what it is.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, for a person.
    #[serde(default)]
    pub message: String,
}
