//! Who is behind a service: EndpointSlices, or core Endpoints on servers that do not have them (before 1.21). Both become
//! the same.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, ObjectReference};
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use mesh_core::workload::Name;

use super::core::addresses;
use super::{Observed, name_of};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// One EndpointSlice, or one Endpoints.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) name: Name,
    /// The service of the same namespace that it is of.
    pub(crate) service: Option<Name>,
    pub(crate) parts: Vec<Part>,
    /// There are more than the API server lists.
    pub(crate) truncated: bool,
}

/// Endpoints with the same ports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    /// TCP ports, by the name of the service port.
    pub(crate) ports: Vec<(String, u16)>,
    pub(crate) members: Vec<Member>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) address: IpAddr,
    /// The pod that it is, by name and UID.
    pub(crate) pod: Option<(String, String)>,
    pub(crate) state: MemberState,
}

/// Whether an endpoint takes connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MemberState {
    /// It does.
    Ready,
    /// It is about to end, but still does: used where there is no other (as kube-proxy does it).
    ServingStill,
    /// It does not.
    NotReady,
}

impl Observed for Group {
    type Key = Name;

    fn key(&self) -> Name {
        self.name.clone()
    }
}

impl Group {
    /// The pods of its namespace that it refers to.
    pub(crate) fn pods(&self) -> impl Iterator<Item = Name> + '_ {
        self.parts
            .iter()
            .flat_map(|part| &part.members)
            .filter_map(|member| member.pod.as_ref())
            .map(|(pod, _)| Name::new(self.name.namespace.as_str(), pod.as_str()))
    }
}

impl From<EndpointSlice> for Group {
    fn from(slice: EndpointSlice) -> Self {
        let name = name_of(&slice.metadata);
        let labels = slice.metadata.labels.as_ref();
        let service = labels.and_then(|labels| labels.get(SERVICE_LABEL));
        let service = service.map(|service| Name::new(name.namespace.as_str(), service.as_str()));
        let ports = slice.ports.unwrap_or_default();
        let ports = ports
            .into_iter()
            .filter_map(|port| tcp_port(port.name, port.protocol.as_deref(), port.port?));
        // Of several addresses of an endpoint, all lead to it; consumers are to take the first.
        let members = slice.endpoints.into_iter().filter_map(|endpoint| {
            Some(Member {
                address: *addresses(&endpoint.addresses).first()?,
                pod: pod(endpoint.target_ref, &name.namespace),
                state: state(endpoint.conditions),
            })
        });
        Self {
            service,
            parts: vec![Part {
                ports: ports.collect(),
                members: members.collect(),
            }],
            name,
            truncated: false,
        }
    }
}

/// Unknown conditions count as ready (API documentation of EndpointConditions).
fn state(conditions: Option<EndpointConditions>) -> MemberState {
    let EndpointConditions {
        ready,
        serving,
        terminating,
    } = conditions.unwrap_or_default();
    let ready = ready.unwrap_or(true);
    match (ready, terminating.unwrap_or(false)) {
        (true, _) => MemberState::Ready,
        (false, true) if serving.unwrap_or(false) => MemberState::ServingStill,
        (false, _) => MemberState::NotReady,
    }
}

impl From<Endpoints> for Group {
    fn from(endpoints: Endpoints) -> Self {
        let name = name_of(&endpoints.metadata);
        let annotations = endpoints.metadata.annotations.as_ref();
        let truncated = annotations.and_then(|annotations| annotations.get(OVER_CAPACITY));
        Self {
            service: Some(name.clone()),
            truncated: truncated.is_some_and(|value| value == "truncated"),
            parts: endpoints
                .subsets
                .unwrap_or_default()
                .into_iter()
                .map(|subset| part(subset, &name.namespace))
                .collect(),
            name,
        }
    }
}

fn part(subset: EndpointSubset, namespace: &str) -> Part {
    let EndpointSubset {
        addresses: ready,
        not_ready_addresses,
        ports,
    } = subset;
    let member = |endpoint: EndpointAddress, state| {
        Some(Member {
            address: endpoint.ip.parse::<IpAddr>().ok()?.to_canonical(),
            pod: pod(endpoint.target_ref, namespace),
            state,
        })
    };
    let ready = ready.unwrap_or_default().into_iter();
    let not_ready = not_ready_addresses.unwrap_or_default().into_iter();
    let ports = ports.unwrap_or_default().into_iter();
    Part {
        ports: ports
            .filter_map(|port| tcp_port(port.name, port.protocol.as_deref(), port.port))
            .collect(),
        members: ready
            .filter_map(|endpoint| member(endpoint, MemberState::Ready))
            .chain(not_ready.filter_map(|endpoint| member(endpoint, MemberState::NotReady)))
            .collect(),
    }
}

fn tcp_port(name: Option<String>, protocol: Option<&str>, port: i32) -> Option<(String, u16)> {
    if protocol.is_some_and(|protocol| protocol != "TCP") {
        return None;
    }
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    Some((name.unwrap_or_default(), port))
}

/// Endpoints may be written by whoever owns the namespace: only a pod of the same one is taken for what it is said to be.
fn pod(target: Option<ObjectReference>, namespace: &str) -> Option<(String, String)> {
    let target = target?;
    let is_pod = target.kind.as_deref() == Some("Pod");
    let is_here = target
        .namespace
        .as_deref()
        .is_none_or(|own| own == namespace);
    if !is_pod || !is_here {
        return None;
    }
    Some((target.name?, target.uid.unwrap_or_default()))
}
