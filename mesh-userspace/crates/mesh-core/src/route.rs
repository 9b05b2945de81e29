//! Where a dial goes: one pure function over the snapshot.
//!
//! What depends only on the world (which rule speaks for a port, which endpoints its backends have) is worked out once,
//! when a snapshot is made ([`compile`]), so that a decision costs a lookup however many endpoints a service has.
//! Nothing here knows which endpoint is healthy; that is [`crate::balance`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::addr::{OrigDst, canonical, is_forbidden_destination};
use crate::outcome::Reason;
use crate::service::{Backend, Endpoint, Route, RouteRule, Service, ServicePort};
use crate::snapshot::Snapshot;
use crate::workload::{Labels, Name, Workload};

#[cfg(test)]
mod tests;

/// What to do with a dial.
#[derive(Clone, Debug)]
pub enum Decision {
    /// The address of a service: balance among the endpoints of its backends.
    Service(ServiceRoute),
    /// The address of a mesh workload: to that very workload, no balancing.
    Workload(Arc<Workload>),
    /// Not of the mesh (any more): pass it through untouched.
    Outside,
    /// No.
    Refuse {
        /// Why, as records count it.
        reason: Reason,
        /// Why, for a person.
        detail: String,
    },
}

/// The backends that a dial may go to.
#[derive(Clone, Debug)]
pub struct ServiceRoute {
    /// The dialled service.
    pub service: Arc<Service>,
    /// Its dialled port.
    pub port: ServicePort,
    /// The route and rule that decided; `None`: no route is attached, every endpoint of the service takes part.
    pub rule: Option<(Arc<Route>, usize)>,
    /// Weighted backends with at least weight 1. Shared by all dials under one snapshot.
    pub backends: Arc<[RoutedBackend]>,
}

impl ServiceRoute {
    /// The rule that decided.
    pub fn rule(&self) -> Option<&RouteRule> {
        self.rule
            .as_ref()
            .and_then(|(route, index)| route.rules.get(*index))
    }

    /// The route and rule in words, as records and explanations give it: `route web-canary.shop rule split`.
    pub fn describe_rule(&self) -> Option<String> {
        let (route, _) = self.rule.as_ref()?;
        Some(format!("route {} rule {}", route.name, self.rule()?.name))
    }
}

/// One backend with its endpoints resolved.
#[derive(Clone, Debug)]
pub struct RoutedBackend {
    /// Its name for records: `web.shop` or `web.shop/v2`.
    pub name: String,
    /// Its share.
    pub weight: u32,
    /// Endpoints with weight above 0; may be empty.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The port of the backend service that gives the target port.
    pub port: ServicePort,
    /// `cumulative[i]` is the sum of the weights of `endpoints[..=i]`: picking by weight is one binary search.
    cumulative: Vec<u64>,
}

impl RoutedBackend {
    /// Makes a backend; endpoints with weight 0 are left out.
    pub fn new(
        name: String,
        weight: u32,
        mut endpoints: Vec<Arc<Endpoint>>,
        port: ServicePort,
    ) -> Self {
        endpoints.retain(|endpoint| endpoint.weight > 0);
        let cumulative = endpoints
            .iter()
            .scan(0_u64, |sum, endpoint| {
                *sum += u64::from(endpoint.weight);
                Some(*sum)
            })
            .collect();
        Self {
            name,
            weight,
            endpoints,
            port,
            cumulative,
        }
    }

    /// The endpoint at a uniformly random point of the line on which each endpoint is as long as its weight.
    pub(crate) fn endpoint_at_random(&self, random: u64) -> Option<usize> {
        let total = *self.cumulative.last()?;
        let point = crate::balance::below(random, total);
        Some(self.cumulative.partition_point(|sum| *sum <= point))
    }

    /// The mean weight of its endpoints, at least 1.
    pub(crate) fn mean_weight(&self) -> f64 {
        let total = self.cumulative.last().copied().unwrap_or(0);
        (total as f64 / self.endpoints.len().max(1) as f64).max(1.0)
    }
}

/// Decides where `source`'s dial to `destination` goes.
///
/// `source` does not change the answer yet; it is what rules that match on the caller will look at.
pub fn decide(snapshot: &Snapshot, source: &Workload, destination: OrigDst) -> Decision {
    let _ = source;
    let destination = canonical(destination.0);
    if is_forbidden_destination(destination.ip()) {
        // The kernel never captures these. Passing one on would dial from a proxy's socket what the workload could not.
        return Decision::Refuse {
            reason: Reason::WrongDestination,
            detail: format!("{destination} is never a destination of the mesh"),
        };
    }
    match snapshot.service_at(destination) {
        Some((service, Some(port))) => {
            to_service(snapshot, service, *port, Family::of(destination.ip()))
        }
        Some((service, None)) => Decision::Refuse {
            reason: Reason::NoRoute,
            detail: format!(
                "service {} has no port {}; it offers {}",
                service.name,
                destination.port(),
                offered_ports(service)
            ),
        },
        None => snapshot
            .workload_at(destination)
            .map_or(Decision::Outside, |workload| {
                Decision::Workload(Arc::clone(workload))
            }),
    }
}

fn to_service(
    snapshot: &Snapshot,
    service: &Arc<Service>,
    port: ServicePort,
    family: Family,
) -> Decision {
    let Some(compiled) = snapshot
        .compiled_ports(&service.name)
        .iter()
        .find(|compiled| compiled.port == port)
    else {
        return Decision::Refuse {
            reason: Reason::NoRoute,
            detail: format!("service {} has no port {}", service.name, port.port),
        };
    };
    let route = ServiceRoute {
        service: Arc::clone(service),
        port,
        rule: compiled.rule.clone(),
        backends: Arc::clone(match family {
            Family::V4 => &compiled.backends_v4,
            Family::V6 => &compiled.backends_v6,
        }),
    };
    if route.backends.is_empty() {
        return Decision::Refuse {
            reason: Reason::NoRoute,
            detail: format!(
                "{} has no backend with a weight above 0",
                route.describe_rule().unwrap_or_default()
            ),
        };
    }
    Decision::Service(route)
}

fn offered_ports(service: &Service) -> String {
    if service.ports.is_empty() {
        return "none".to_owned();
    }
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|port| port.port.to_string())
        .collect();
    ports.join(", ")
}

/// What a snapshot knows in advance about dials to one port of a service.
#[derive(Debug)]
pub(crate) struct CompiledPort {
    /// The port.
    pub(crate) port: ServicePort,
    /// The rule that speaks for it.
    pub(crate) rule: Option<(Arc<Route>, usize)>,
    /// Its backends with weight above 0, resolved, for dials to an IPv4 address of the service.
    pub(crate) backends_v4: Arc<[RoutedBackend]>,
    /// The same for dials to an IPv6 address.
    pub(crate) backends_v6: Arc<[RoutedBackend]>,
}

/// The family of the dialled address. A workload that has both is reached by the same one: only then can the server see
/// the client's true address, and a client with one family need not have the other.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    fn has(self, ip: &IpAddr) -> bool {
        ip.is_ipv6() == matches!(self, Self::V6)
    }

    /// The endpoint at its workload's address of this family, if there is one.
    fn prefer(self, endpoint: &Arc<Endpoint>) -> Arc<Endpoint> {
        let workload = endpoint.workload.as_ref();
        let other = workload
            .filter(|_| !self.has(&endpoint.address))
            .and_then(|workload| workload.addresses.iter().find(|ip| self.has(ip)));
        match other {
            None => Arc::clone(endpoint),
            Some(address) => Arc::new(Endpoint {
                address: *address,
                ..(**endpoint).clone()
            }),
        }
    }
}

/// Finds the rule for each port of a service, and resolves its backends. The first rule, in the order of the routes, that
/// names the port or none decides; a port for which no rule speaks is served by all endpoints of the service.
pub(crate) fn compile<S: std::hash::BuildHasher>(
    service: &Arc<Service>,
    routes: &[Arc<Route>],
    services: &HashMap<Name, Arc<Service>, S>,
) -> Vec<CompiledPort> {
    service
        .ports
        .iter()
        .map(|port| {
            let deciding = routes.iter().find_map(|route| {
                let index = route
                    .rules
                    .iter()
                    .position(|rule| rule.port.is_none_or(|wanted| wanted == port.port))?;
                Some((Arc::clone(route), index))
            });
            let rule = deciding
                .as_ref()
                .and_then(|(route, index)| route.rules.get(*index));
            let backends = |family: Family| match rule {
                None => {
                    let offering = service.endpoints.iter().filter(|it| it.offers(port));
                    let endpoints = offering.map(|it| family.prefer(it));
                    let name = service.name.to_string();
                    [RoutedBackend::new(name, 1, endpoints.collect(), *port)].into()
                }
                Some(rule) => rule
                    .backends
                    .iter()
                    .filter(|backend| backend.weight > 0)
                    .map(|backend| resolve(backend, *port, services, family))
                    .collect(),
            };
            CompiledPort {
                port: *port,
                backends_v4: backends(Family::V4),
                backends_v6: backends(Family::V6),
                rule: deciding,
            }
        })
        .collect()
}

/// A backend that cannot be resolved keeps its name and weight and has no endpoints: what is wrong with it is then seen
/// where it is chosen, and the others of the rule take its place.
fn resolve<S: std::hash::BuildHasher>(
    backend: &Backend,
    dialled: ServicePort,
    services: &HashMap<Name, Arc<Service>, S>,
    family: Family,
) -> RoutedBackend {
    let name = match &backend.subset {
        Some(subset) => format!("{}/{subset}", backend.service),
        None => backend.service.to_string(),
    };
    let Some(service) = services.get(&backend.service) else {
        return RoutedBackend::new(name, backend.weight, Vec::new(), dialled);
    };
    let port = match backend.port {
        None => backend_port(service, dialled.port),
        // The one that is asked for, or none: another one is not what was meant.
        Some(wanted) => match service.ports.iter().find(|port| port.port == wanted) {
            Some(port) => Some(*port),
            None => return RoutedBackend::new(name, backend.weight, Vec::new(), dialled),
        },
    };
    let wanted: Option<&Labels> = match &backend.subset {
        None => None,
        Some(subset) => match service.subsets.get(subset) {
            Some(labels) => Some(labels),
            None => return RoutedBackend::new(name, backend.weight, Vec::new(), dialled),
        },
    };
    let endpoints = service
        .endpoints
        .iter()
        // Without a matching port only an endpoint that brings its own is reachable; guessing would misdeliver.
        .filter(|endpoint| match &port {
            Some(port) => endpoint.offers(port),
            None => endpoint.port.is_some(),
        })
        .filter(|endpoint| wanted.is_none_or(|labels| selects(labels, &endpoint.labels)))
        .map(|endpoint| family.prefer(endpoint))
        .collect();
    RoutedBackend::new(name, backend.weight, endpoints, port.unwrap_or(dialled))
}

/// The port of a backend service that stands for a dialled port: the one of the same number, or its only one.
pub fn backend_port(service: &Service, dialled: u16) -> Option<ServicePort> {
    service
        .ports
        .iter()
        .find(|port| port.port == dialled)
        .or(match service.ports.as_slice() {
            [only] => Some(only),
            _ => None,
        })
        .copied()
}

/// Whether every wanted label is there with its value. No label wanted selects everything.
pub fn selects(wanted: &Labels, labels: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
