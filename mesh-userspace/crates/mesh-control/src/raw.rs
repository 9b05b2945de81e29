//! The configuration file as it is written: one type per object, every value with its place. The JSON Schema is derived
//! from these types, and so is the reading; what the comments say here is what an editor shows.
//!
//! What one value can say about itself is checked when it is read (`values`, `numbers`); what needs a look at others, later.

mod numbers;
mod values;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::located::{At, Entries, Optional};

pub use numbers::{DurationText, Port, Weight};
pub use values::{
    AbsolutePath, Account, Address, ApiVersion, Container, Identity, LabelKey, LabelValue, Network,
    ObjectName, Reference, RuleName, Subdomain, TrustDomainText,
};

/// Labels, as an author writes them.
pub type LabelTexts = Entries<LabelKey, At<LabelValue>>;

/// The configuration of a mesh, or of one node of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    /// Version of the format: warren.dev/v1alpha1.
    pub api_version: At<ApiVersion>,
    /// About the node that reads this file.
    pub node: Option<At<Node>>,
    /// Trust domain of the mesh's identities. Default: cluster.local.
    pub trust_domain: Option<At<TrustDomainText>>,
    /// Where certificates come from.
    pub identity: Option<At<IdentitySource>>,
    /// Where mutual TLS is required. Default: everywhere.
    pub mtls: Option<At<Mtls>>,
    /// What has an identity: the programs of this node, and those of others that they meet.
    #[schemars(default)]
    pub workloads: Optional<Vec<At<Workload>>>,
    /// Stable addresses in front of workloads.
    #[schemars(default)]
    pub services: Optional<Vec<At<Service>>>,
    /// How connections to services are split.
    #[schemars(default)]
    pub routes: Optional<Vec<At<Route>>>,
    /// Who may reach whom.
    #[schemars(default)]
    pub policies: Optional<Vec<At<Policy>>>,
}

/// About the node that reads this file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Name of the node. Default: the host's name.
    pub name: Option<At<Subdomain>>,
    /// How long connections may go on when the proxy stops, e.g. 30s. Default: 30s.
    pub drain: Option<At<DurationText>>,
    /// Port of the tunnels between nodes, the same on every node. Default: 15008.
    pub tunnel_port: Option<At<Port>>,
}

/// Where certificates come from: a certificate authority kept in a directory.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentitySource {
    /// Directory of the certificate authority; made when it does not exist. Default: /etc/warren/ca.
    pub directory: Option<At<AbsolutePath>>,
    /// Lifetime of a workload's certificate, e.g. 24h; renewed at about half of it. Default: 24h.
    pub certificate_lifetime: Option<At<DurationText>>,
}

/// Where mutual TLS is required.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    /// The mode where no exception speaks. Default: strict.
    pub mode: Option<At<Mode>>,
    /// Exceptions.
    #[schemars(default)]
    pub exceptions: Optional<Vec<At<Exception>>>,
}

/// Whether mutual TLS is required.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Connections in clear are refused.
    Strict,
    /// They are taken, and counted.
    Permissive,
}

/// An exception to the default mode.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exception {
    /// Name, unique in the namespace.
    pub name: At<ObjectName>,
    /// Namespace. Default: default.
    pub namespace: Option<At<ObjectName>>,
    /// Which workloads of the namespace. Default: all.
    pub target: Option<At<Target>>,
    /// Ports of the application. Default: all.
    pub ports: Option<At<Vec<At<Port>>>>,
    /// The mode there.
    pub mode: At<Mode>,
}

/// Which workloads of a namespace: exactly one of the keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// The workloads behind the service of this name.
    pub service: Option<At<Reference>>,
    /// The workload of this name.
    pub workload: Option<At<Reference>>,
    /// Workloads with these labels.
    pub labels: Option<At<LabelTexts>>,
}

/// One program with an identity: a network namespace, a container, or a service of the host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// Name, unique in the namespace.
    pub name: At<ObjectName>,
    /// Namespace. Default: default.
    pub namespace: Option<At<ObjectName>>,
    /// Service account, the last part of its identity. Default: the name.
    pub service_account: Option<At<Subdomain>>,
    /// Node on which it runs. Default: whichever node reads this file.
    pub node: Option<At<Subdomain>>,
    /// Its addresses. Found by itself for workloads of this node; needed for those of others.
    #[schemars(default)]
    pub addresses: Optional<Vec<At<Address>>>,
    /// Labels, for subsets and targets.
    #[schemars(default)]
    pub labels: Optional<LabelTexts>,
    /// Ports that belong to it where it shares its address with others (services of the host).
    #[schemars(default)]
    pub ports: Optional<Vec<At<Port>>>,
    /// How to find it on its node.
    pub select: Option<At<Select>>,
    /// Whether it may send UDP to workloads of the mesh, in clear. Default: deny.
    pub udp: Option<At<Udp>>,
}

/// How to find a workload on its node: exactly one of the keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Select {
    /// A network namespace, e.g. /run/netns/client.
    pub network_namespace: Option<At<AbsolutePath>>,
    /// A container, by id or name.
    pub container: Option<At<Container>>,
    /// A control group below the root of the hierarchy, e.g. /system.slice/payments.service.
    pub cgroup: Option<At<AbsolutePath>>,
}

/// UDP between workloads of the mesh. Mutual TLS does not cover it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Udp {
    /// It is let through, in clear.
    Allow,
    /// It is dropped.
    Deny,
}

/// A stable address in front of endpoints.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// Name, unique in the namespace.
    pub name: At<ObjectName>,
    /// Namespace. Default: default.
    pub namespace: Option<At<ObjectName>>,
    /// Addresses that clients dial. They need not exist anywhere else.
    #[schemars(default)]
    pub addresses: Optional<Vec<At<Address>>>,
    /// Ports that clients dial.
    pub ports: At<Vec<At<ServicePort>>>,
    /// Where it runs.
    #[schemars(default)]
    pub endpoints: Optional<Vec<At<Endpoint>>>,
    /// Named selections of endpoints, by label.
    #[schemars(default)]
    pub subsets: Optional<Entries<ObjectName, At<LabelTexts>>>,
}

/// One port of a service.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// Port that clients dial.
    pub port: At<Port>,
    /// Port on which the endpoints listen. Default: the same.
    pub target_port: Option<At<Port>>,
}

/// One place where a service runs: a workload, or an address outside the mesh.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// A workload, as name or name.namespace.
    pub workload: Option<At<Reference>>,
    /// An address outside the mesh; it is reached in clear.
    pub address: Option<At<Address>>,
    /// Its port, when it differs from the service's.
    pub port: Option<At<Port>>,
    /// Share among the endpoints of the service. Default: 1; 0 takes no new connection.
    pub weight: Option<At<Weight>>,
    /// Labels, for subsets; added to those of the workload.
    #[schemars(default)]
    pub labels: Optional<LabelTexts>,
}

/// How connections to a service are split.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Name, unique in the namespace.
    pub name: At<ObjectName>,
    /// Namespace. Default: default.
    pub namespace: Option<At<ObjectName>>,
    /// The service that clients dial, of the same namespace.
    pub service: At<Reference>,
    /// Rules. The first one for the dialled port decides.
    pub rules: At<Vec<At<RouteRule>>>,
}

/// One rule of a route.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteRule {
    /// Name, unique in the route. Default: its position, from 0.
    pub name: Option<At<RuleName>>,
    /// Port of the service. Default: every port.
    pub port: Option<At<Port>>,
    /// Where connections go, by weight.
    pub backends: At<Vec<At<Backend>>>,
}

/// One destination of a rule.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// Service of the same namespace. Default: the route's.
    pub service: Option<At<Reference>>,
    /// Subset of the service. Default: all endpoints.
    pub subset: Option<At<ObjectName>>,
    /// Share of connections, of the sum of the rule's weights. Default: 1.
    pub weight: Option<At<Weight>>,
}

/// Who may reach the workloads of a target. Once a policy selects a workload, it is closed to all whom no rule allows.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Name, unique in the namespace.
    pub name: At<ObjectName>,
    /// Namespace. Default: default.
    pub namespace: Option<At<ObjectName>>,
    /// Which workloads of the namespace. Default: all.
    pub target: Option<At<Target>>,
    /// Report what would be denied, deny nothing. Default: false.
    pub dry_run: Option<At<bool>>,
    /// Rules. An empty list denies everything.
    pub rules: At<Vec<At<PolicyRule>>>,
}

/// One rule of a policy. It matches when one of `from` and one of `to` match.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// Name, unique in the policy. Default: its position, from 0.
    pub name: Option<At<RuleName>>,
    /// What it does. Deny wins over allow.
    pub action: At<Action>,
    /// Sources. Default: every source, also unauthenticated ones.
    pub from: Option<At<Vec<At<Source>>>>,
    /// Destinations. Default: every port.
    pub to: Option<At<Vec<At<Destination>>>>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Allows the connection.
    Allow,
    /// Denies it, whatever allows it.
    Deny,
}

/// A source: exactly one of the keys.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// A service account, as namespace/name.
    pub service_account: Option<At<Account>>,
    /// Every service account of a namespace.
    pub namespace: Option<At<ObjectName>>,
    /// An identity in full, also of another trust domain.
    pub identity: Option<At<Identity>>,
    /// A network. An address is not an identity: this is for callers outside the mesh.
    pub network: Option<At<Network>>,
    /// Everybody with an identity of the mesh: true.
    pub authenticated: Option<At<bool>>,
}

/// A destination.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Destination {
    /// Ports of the application.
    pub ports: At<Vec<At<Port>>>,
}
