//! Namespaces, pods, services and nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::NotUsed;
use kube::core::object::Object;
use mesh_core::workload::{Labels, Name};
use serde::Deserialize;

use super::{Observed, created, name_of};
use crate::names::{EXPORT_TO, MESH_LABEL, NOT_READY_TAINT, UDP};

/// A namespace as the API server gives it.
pub(crate) type RawNamespace = Object<Option<NotUsed>, NotUsed>;
/// A pod as the API server gives it.
pub(crate) type RawPod = Object<Option<PodSpec>, PodStatus>;
/// A service as the API server gives it.
pub(crate) type RawService = Object<Option<ServiceSpec>, NotUsed>;
/// A node as the API server gives it.
pub(crate) type RawNode = Object<Option<NodeSpec>, NotUsed>;

/// What the label `warren.dev/mesh` says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum MeshLabel {
    /// It is not there.
    #[default]
    Absent,
    /// `enabled`.
    Enabled,
    /// `disabled`.
    Disabled,
    /// Something else, which says nothing.
    Other(String),
}

impl MeshLabel {
    fn of(meta: &ObjectMeta) -> Self {
        let labels = meta.labels.as_ref();
        match labels.and_then(|labels| labels.get(MESH_LABEL)) {
            None => Self::Absent,
            Some(value) => match value.as_str() {
                "enabled" => Self::Enabled,
                "disabled" => Self::Disabled,
                other => Self::Other(other.to_owned()),
            },
        }
    }
}

/// What the annotation `warren.dev/udp` says; `None`: nothing that can be understood.
fn udp(meta: &ObjectMeta) -> Option<bool> {
    match meta.annotations.as_ref()?.get(UDP)?.as_str() {
        "allow" => Some(true),
        "deny" => Some(false),
        _ => None,
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    pub(crate) mesh: MeshLabel,
    pub(crate) udp: Option<bool>,
}

impl Observed for Namespace {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }
}

impl From<RawNamespace> for Namespace {
    fn from(raw: RawNamespace) -> Self {
        Self {
            mesh: MeshLabel::of(&raw.metadata),
            udp: udp(&raw.metadata),
            name: raw.metadata.name.unwrap_or_default(),
        }
    }
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Phase {
    /// It runs, or will.
    #[default]
    Live,
    /// All its containers have ended for good.
    Finished,
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pod {
    pub(crate) name: Name,
    pub(crate) uid: String,
    pub(crate) created: i64,
    pub(crate) labels: Arc<Labels>,
    pub(crate) mesh: MeshLabel,
    pub(crate) udp: Option<bool>,
    pub(crate) node: Option<String>,
    pub(crate) service_account: String,
    pub(crate) host_network: bool,
    pub(crate) phase: Phase,
    pub(crate) terminating: bool,
    /// IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Observed for Pod {
    type Key = Name;

    fn key(&self) -> Name {
        self.name.clone()
    }
}

/// What of a pod's specification is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    node_name: Option<String>,
    service_account_name: Option<String>,
    host_network: bool,
}

/// What of its status is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PodIp {
    #[serde(default)]
    ip: String,
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let name = name_of(&raw.metadata);
        let created = created(&raw.metadata);
        let mesh = MeshLabel::of(&raw.metadata);
        let udp = udp(&raw.metadata);
        let PodSpec {
            node_name,
            service_account_name,
            host_network,
        } = raw.spec.unwrap_or_default();
        let PodStatus {
            phase,
            pod_ip,
            pod_ips,
        } = raw.status.unwrap_or_default();
        let texts: Vec<String> = match pod_ips {
            Some(ips) if !ips.is_empty() => ips.into_iter().map(|ip| ip.ip).collect(),
            _ => pod_ip.into_iter().collect(),
        };
        let mut addresses = addresses(&texts);
        addresses.sort_by_key(IpAddr::is_ipv6);
        Self {
            name,
            created,
            mesh,
            udp,
            uid: raw.metadata.uid.unwrap_or_default(),
            terminating: raw.metadata.deletion_timestamp.is_some(),
            labels: Arc::new(raw.metadata.labels.unwrap_or_default()),
            node: node_name.filter(|node| !node.is_empty()),
            service_account: service_account_name
                .filter(|account| !account.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            host_network,
            phase: match phase.as_deref() {
                Some("Succeeded" | "Failed") => Phase::Finished,
                _ => Phase::Live,
            },
            addresses,
        }
    }
}

/// Those of the texts that are addresses, each once.
pub(super) fn addresses(texts: &[String]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(texts.len());
    for text in texts {
        if let Ok(ip) = text.parse::<IpAddr>() {
            let ip = ip.to_canonical();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
    }
    addresses
}

/// A service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) name: Name,
    pub(crate) selector: Labels,
    pub(crate) addresses: Vec<IpAddr>,
    /// It is a name of something outside; there is nothing behind it.
    pub(crate) external: bool,
    /// TCP ports.
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) export_to: Option<BTreeSet<String>>,
    /// It asks for what Warren does differently, in words.
    pub(crate) differences: Vec<&'static str>,
}

/// A TCP port of a service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServicePort {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) target: TargetPort,
}

/// Where a service port leads, as its author says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TargetPort {
    /// To this port.
    Number(u16),
    /// To the container port of this name, which may differ from pod to pod.
    Named,
}

impl Service {
    /// Whether it has no address of its own.
    pub(crate) fn is_headless(&self) -> bool {
        self.addresses.is_empty()
    }
}

impl Observed for Service {
    type Key = Name;

    fn key(&self) -> Name {
        self.name.clone()
    }
}

/// What of a service's specification is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    selector: Option<Labels>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    ports: Option<Vec<RawServicePort>>,
    session_affinity: Option<String>,
    internal_traffic_policy: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawServicePort {
    name: Option<String>,
    port: i32,
    protocol: Option<String>,
    target_port: Option<IntOrString>,
}

impl RawServicePort {
    fn read(self) -> Option<ServicePort> {
        if self.protocol.is_some_and(|protocol| protocol != "TCP") {
            return None;
        }
        let port = u16::try_from(self.port).ok().filter(|port| *port != 0)?;
        let target = match self.target_port {
            None => TargetPort::Number(port),
            Some(IntOrString::Int(number)) => match u16::try_from(number) {
                Ok(number) if number != 0 => TargetPort::Number(number),
                _ => TargetPort::Number(port),
            },
            Some(IntOrString::String(_)) => TargetPort::Named,
        };
        Some(ServicePort {
            name: self.name.unwrap_or_default(),
            port,
            target,
        })
    }
}

impl From<RawService> for Service {
    fn from(raw: RawService) -> Self {
        let ServiceSpec {
            kind,
            selector,
            cluster_ip,
            cluster_ips,
            ports,
            session_affinity,
            internal_traffic_policy,
        } = raw.spec.unwrap_or_default();
        let texts = match cluster_ips {
            Some(ips) if !ips.is_empty() => ips,
            _ => cluster_ip.into_iter().collect(),
        };
        let mut differences = Vec::new();
        if session_affinity.as_deref() == Some("ClientIP") {
            differences.push("sessionAffinity: ClientIP is not kept by the mesh");
        }
        if internal_traffic_policy.as_deref() == Some("Local") {
            differences.push(
                "internalTrafficPolicy: Local is not kept by the mesh, which uses endpoints of every node",
            );
        }
        Self {
            name: name_of(&raw.metadata),
            selector: selector.unwrap_or_default(),
            // "None" is not an address.
            addresses: addresses(&texts),
            external: kind.as_deref() == Some("ExternalName"),
            ports: ports
                .unwrap_or_default()
                .into_iter()
                .filter_map(RawServicePort::read)
                .collect(),
            export_to: export_to(&raw.metadata),
            differences,
        }
    }
}

/// Which namespaces are told of a service, beside its own; `None`: all.
fn export_to(meta: &ObjectMeta) -> Option<BTreeSet<String>> {
    let text = meta.annotations.as_ref()?.get(EXPORT_TO)?;
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let mut namespaces = BTreeSet::new();
    for part in parts {
        match part {
            "*" => return None,
            "." => {}
            namespace => {
                namespaces.insert(namespace.to_owned());
            }
        }
    }
    Some(namespaces)
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// It has the start-up taint.
    pub(crate) tainted: bool,
}

impl Observed for Node {
    type Key = String;

    fn key(&self) -> String {
        self.name.clone()
    }
}

/// What of a node's specification is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSpec {
    taints: Option<Vec<Taint>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Taint {
    #[serde(default)]
    key: String,
}

impl From<RawNode> for Node {
    fn from(raw: RawNode) -> Self {
        let taints = raw.spec.and_then(|spec| spec.taints).unwrap_or_default();
        Self {
            name: raw.metadata.name.unwrap_or_default(),
            tainted: taints.iter().any(|taint| taint.key == NOT_READY_TAINT),
        }
    }
}
