//! The objects of a configuration after they were checked: complete, typed, free of each other's pointers. What travels
//! to the data path is made of them by [`crate::reconcile`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::policy::{MtlsMode, Rule};
use mesh_core::service::{Route, ServicePort};
use mesh_core::workload::{Labels, Name};
use serde::Serialize;

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
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkloadSpec {
    /// Its name.
    pub name: Name,
    /// Last part of its identity.
    pub service_account: String,
    /// Its node; `None` for whichever reads the file.
    pub node: Option<String>,
    /// Its addresses as far as the file says.
    pub addresses: Vec<IpAddr>,
    /// Labels.
    pub labels: Labels,
    /// Its ports where it shares its address.
    pub ports: Vec<u16>,
    /// How to find it on its node.
    pub select: Option<Selector>,
    /// UDP to workloads of the mesh is let through.
    pub udp: bool,
}

/// How to find a workload on its node.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Selector {
    /// A file that is a network namespace.
    NetworkNamespace(PathBuf),
    /// A container's id or name.
    Container(String),
    /// A control group, from the root of the hierarchy.
    Cgroup(PathBuf),
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
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceSpec {
    /// Its name.
    pub name: Name,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Where it runs.
    pub endpoints: Vec<EndpointSpec>,
    /// Selections of endpoints.
    pub subsets: BTreeMap<String, Labels>,
}

/// One endpoint of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointSpec {
    /// Where.
    pub place: Place,
    /// Its own port.
    pub port: Option<u16>,
    /// Share.
    pub weight: u32,
    /// Labels of its own.
    pub labels: Labels,
}

/// Where an endpoint is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Place {
    /// A workload of the mesh.
    Workload(Name),
    /// Outside the mesh.
    Address(IpAddr),
}

/// What a policy or an exception is about.
#[derive(Clone, Debug, Eq, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
pub struct PolicySpec {
    /// Its name.
    pub name: Name,
    /// What it is about.
    pub target: TargetSpec,
    /// Nothing is denied.
    pub dry_run: bool,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// An exception from the default mode of mutual TLS.
#[derive(Clone, Debug, PartialEq)]
pub struct MtlsSpec {
    /// Its name.
    pub name: Name,
    /// What it is about.
    pub target: TargetSpec,
    /// Ports; empty for all.
    pub ports: Vec<u16>,
    /// The mode.
    pub mode: MtlsMode,
}
