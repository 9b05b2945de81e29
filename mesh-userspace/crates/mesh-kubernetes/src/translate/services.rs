//! A service with its endpoints → its fact.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_control::objects::{EndpointSpec, Place, ServiceSpec};
use mesh_core::addr::is_forbidden_destination;
use mesh_core::service::ServicePort;
use mesh_core::workload::Name;

use super::membership::{Membership, is_meshed};
use super::state::State;
use super::workloads::member;
use crate::observe::{Group, Member, MemberState, Part, Phase, Service, TargetPort};

/// The service as nodes are told of it; `None`: it is none of the mesh's business, and its address works as without a mesh.
pub(crate) fn service(state: &State, name: &Name) -> Option<ServiceSpec> {
    let service = state.services.get(name)?;
    if service.external {
        return None;
    }
    let endpoints = Endpoints::of(state, name, service);
    let is_told = if service.is_headless() {
        // Its clients dial pods. Only a route asks for it by name.
        state.is_backend(name)
    } else {
        endpoints.meshed || state.is_routed(name) || waits_for_pods(state, service, &endpoints)
    };
    if !is_told {
        return None;
    }
    let ports: Vec<ServicePort> = service
        .ports
        .iter()
        .map(|port| ServicePort {
            port: port.port,
            target_port: endpoints
                .usual_target(port.port)
                .unwrap_or(match port.target {
                    TargetPort::Number(number) => number,
                    TargetPort::Named => port.port,
                }),
        })
        .collect();
    Some(ServiceSpec {
        name: name.clone(),
        addresses: service.addresses.clone(),
        endpoints: endpoints.specs(&ports),
        ports,
        subsets: BTreeMap::new(),
        export_to: service.export_to.clone(),
    })
}

/// A service of a meshed namespace that selects pods, and has none: it is told nevertheless, or the first connection to its
/// first pod would pass the mesh by.
fn waits_for_pods(state: &State, service: &Service, endpoints: &Endpoints) -> bool {
    let namespace = state.namespaces.get(&service.name.namespace);
    let system = &state.settings.system_namespace;
    endpoints.none_at_all
        && !service.selector.is_empty()
        && namespace.is_some_and(|namespace| is_meshed(namespace, system))
}

/// The target port that an endpoint has for each service port.
type Targets = BTreeMap<u16, u16>;

/// The endpoints of a service.
struct Endpoints {
    /// Those that take connections. Several slices may speak of one: of each family, of differing ports.
    ready: BTreeMap<Key, Targets>,
    /// Some endpoint is of the mesh, ready or not.
    meshed: bool,
    /// There are none, not even some that are not ready.
    none_at_all: bool,
}

/// [`Place`], in an order.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Key {
    Workload(Name),
    Address(IpAddr),
}

impl Endpoints {
    fn of(state: &State, name: &Name, service: &Service) -> Self {
        let mut endpoints = Self {
            ready: BTreeMap::new(),
            meshed: false,
            none_at_all: true,
        };
        let mut serving_still: BTreeMap<Key, Targets> = BTreeMap::new();
        for group in state.groups_of_service(name) {
            for part in &group.parts {
                let targets = targets(service, part);
                for member in &part.members {
                    endpoints.none_at_all = false;
                    let Some(key) = place(state, group, member) else {
                        continue;
                    };
                    endpoints.meshed |= matches!(key, Key::Workload(_));
                    let list = match member.state {
                        MemberState::Ready => &mut endpoints.ready,
                        MemberState::ServingStill => &mut serving_still,
                        MemberState::NotReady => continue,
                    };
                    list.entry(key).or_default().extend(&targets);
                }
            }
        }
        if endpoints.ready.is_empty() {
            endpoints.ready = serving_still;
        }
        endpoints
    }

    /// The target port that most endpoints have for a service port; of equally frequent ones, the smallest.
    fn usual_target(&self, port: u16) -> Option<u16> {
        let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
        for target in self.ready.values().filter_map(|targets| targets.get(&port)) {
            *counts.entry(*target).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        counts
            .into_iter()
            .find(|(_, count)| *count == most)
            .map(|(target, _)| target)
    }

    fn specs(self, ports: &[ServicePort]) -> Vec<EndpointSpec> {
        self.ready
            .into_iter()
            .map(|(key, targets)| EndpointSpec {
                place: match key {
                    Key::Workload(name) => Place::Workload(name),
                    Key::Address(ip) => Place::Address(ip),
                },
                port: None,
                ports: ports
                    .iter()
                    .map(|port| (port, targets.get(&port.port).copied()))
                    .filter(|(port, own)| *own != Some(port.target_port))
                    .map(|(port, own)| (port.port, own))
                    .collect(),
                weight: 1,
                labels: BTreeMap::new(),
            })
            .collect()
    }
}

/// Which target ports the endpoints of a part have, by service port. Ports of services and of their endpoints go by name.
fn targets(service: &Service, part: &Part) -> Targets {
    let target = |name: &str| {
        part.ports
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, port)| *port)
    };
    service
        .ports
        .iter()
        .filter_map(|port| Some((port.port, target(&port.name)?)))
        .collect()
}

/// What an endpoint is; `None` when that cannot be told yet, or it is gone already.
fn place(state: &State, group: &Group, member: &Member) -> Option<Key> {
    let Some((pod, uid)) = &member.pod else {
        return (!is_forbidden_destination(member.address)).then_some(Key::Address(member.address));
    };
    let name = Name::new(group.name.namespace.as_str(), pod.as_str());
    // Not seen yet, or replaced by another one of its name: whether it is of the mesh is not known, so it is not dialled.
    let pod = state.pods.get(&name)?;
    if (!uid.is_empty() && pod.uid != *uid) || pod.phase == Phase::Finished {
        return None;
    }
    match member_of_mesh(state, pod) {
        true => Some(Key::Workload(name)),
        false => Some(Key::Address(member.address)),
    }
}

fn member_of_mesh(state: &State, pod: &crate::observe::Pod) -> bool {
    member(state, pod) == Membership::Meshed
}
