//! The objects of a configuration after they were checked: complete, typed, free of each other's pointers. What travels
//! to the data path is made of them by [`crate::reconcile`]; what travels from a controller to nodes is made of them by
//! [`crate::facts`], which is why fields are only ever added here, with a default.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::policy::{MtlsMode, Rule};
use mesh_core::service::{Route, ServicePort};
use mesh_core::workload::{Labels, Name};
use serde::{Deserialize, Serialize};

/// Everything that a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Objects {
    /// About the node and the mesh as a whole.
    pub settings: Settings,
    /// Workloads.
    pub workloads: Vec<WorkloadSpec>,
    /// Services.
    pub services: Vec<ServiceSpec>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Policies.
    pub policies: Vec<PolicySpec>,
    /// Mutual TLS where no exception speaks.
    pub default_mtls: MtlsMode,
    /// Exceptions from it.
    pub mtls: Vec<MtlsSpec>,
}

/// About the node and the mesh as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Name of the node, if the file gives one.
    pub node: Option<String>,
    /// How long connections may go on when the proxy stops.
    pub drain: Duration,
    /// Port of the tunnels.
    pub tunnel_port: u16,
    /// Trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// Directory of the certificate authority.
    pub authority_directory: PathBuf,
    /// Lifetime of a workload's certificate.
    pub certificate_lifetime: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: None,
            drain: Duration::from_secs(30),
            tunnel_port: 15008,
            trust_domain: TrustDomain::default(),
            authority_directory: PathBuf::from("/etc/warren/ca"),
            certificate_lifetime: Duration::from_secs(24 * 3600),
        }
    }
}

/// A workload, on this node or another.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// Its name.
    pub name: Name,
    /// Last part of its identity.
    pub service_account: String,
    /// Its node; `None` for whichever reads the file.
    #[serde(default)]
    pub node: Option<String>,
    /// Its addresses as far as the file says.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// Its ports where it shares its address.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// How to find it on its node.
    #[serde(default)]
    pub select: Option<Selector>,
    /// UDP to workloads of the mesh is let through.
    #[serde(default)]
    pub udp: bool,
}

/// How to find a workload on its node.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Selector {
    /// A file that is a network namespace.
    NetworkNamespace(PathBuf),
    /// A container's id or name.
    Container(String),
    /// A control group, from the root of the hierarchy.
    Cgroup(PathBuf),
    /// A pod of Kubernetes.
    Pod {
        /// Its UID.
        uid: String,
    },
}

/// A workload that this node is to enrol.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LocalWorkloadSpec {
    /// Its name.
    pub name: Name,
    /// Its identity.
    pub identity: SpiffeId,
    /// Addresses that the file gives; empty: find them.
    pub addresses: Vec<IpAddr>,
    /// Ports that belong to it (control groups only).
    pub ports: Vec<u16>,
    /// Labels.
    pub labels: Labels,
    /// How to find it.
    pub select: Selector,
    /// UDP to workloads of the mesh is let through.
    pub udp: bool,
}

/// A service.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// Its name.
    pub name: Name,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Where it runs.
    #[serde(default)]
    pub endpoints: Vec<EndpointSpec>,
    /// Selections of endpoints.
    #[serde(default)]
    pub subsets: BTreeMap<String, Labels>,
    /// The namespaces that are told of it, beside its own; `None`: all.
    #[serde(default)]
    pub export_to: Option<BTreeSet<String>>,
}

/// One endpoint of a service. There may be thousands in one fact: what says nothing is left out.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSpec {
    /// Where.
    pub place: Place,
    /// Its own port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its own ports, by the port that clients dial; `None`: it does not offer that one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, Option<u16>>,
    /// Share.
    pub weight: u32,
    /// Labels of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
}

/// Where an endpoint is.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// A workload of the mesh.
    Workload(Name),
    /// Outside the mesh.
    Address(IpAddr),
}

/// What a policy or an exception is about.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TargetSpec {
    /// The namespace.
    Namespace,
    /// A workload.
    Workload(String),
    /// Workloads with labels.
    Labels(Labels),
    /// The workloads behind a service.
    Service {
        /// The service.
        name: String,
        /// Workloads that it has in the file, even if the service itself was rejected.
        workloads: Vec<String>,
    },
}

/// A policy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySpec {
    /// Its name.
    pub name: Name,
    /// What it is about.
    pub target: TargetSpec,
    /// Nothing is denied.
    #[serde(default)]
    pub dry_run: bool,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// An exception from the default mode of mutual TLS.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MtlsSpec {
    /// Its name.
    pub name: Name,
    /// What it is about.
    pub target: TargetSpec,
    /// Ports; empty for all.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// The mode.
    pub mode: MtlsMode,
}
