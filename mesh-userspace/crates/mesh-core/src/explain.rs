//! What would happen to a connection, step by step: the answer of `warren explain`. It calls the very functions that
//! carry real connections ([`crate::route::decide`], [`crate::policy::authorize`], [`crate::policy::mtls_mode`]) and adds
//! nothing but words. It knows only what the world says, not which endpoints are healthy at the moment.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::addr::{AppAddr, OrigDst, canonical};
use crate::outcome::{Reason, Verdict};
use crate::policy::{Caller, authorize, describe_mtls, mtls_mode};
use crate::route::{Decision, RoutedBackend, ServiceRoute, decide};
use crate::snapshot::Snapshot;
use crate::workload::{Name, Workload};

#[cfg(test)]
mod tests;

/// Endpoints of one backend that are explained one by one.
const MOST_ENDPOINTS: usize = 32;

/// The steps of a connection that would be made now.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The generation of the world that was asked.
    pub generation: u64,
    /// What became of it as a whole: `allowed`, `denied` (at least one of the endpoints it may reach denies), `failed`.
    pub verdict: &'static str,
    /// In order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Which.
    pub kind: StepKind,
    /// What it is about: an address, a backend, an endpoint.
    pub subject: String,
    /// What was found.
    pub outcome: String,
    /// The rule that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Expected share of the connections, in percent, for a backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The label of the reason, when the connection would not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<&'static str>,
}

/// The kinds of step, in the order in which a connection meets them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StepKind {
    /// What the destination stands for.
    Resolve,
    /// Which rule decides.
    Route,
    /// One backend and its share.
    Split,
    /// Whether an endpoint's policies allow the caller.
    Policy,
    /// How an endpoint is reached.
    Mtls,
}

/// Why a name given by a person leads to nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unresolved {
    /// No workload of this name.
    #[error("no workload {text:?} in the mesh; `warren get workloads` lists them")]
    NoWorkload {
        /// As given.
        text: String,
    },
    /// Several namespaces have one.
    #[error("{text:?} is the name of several ({candidates}); say which, as name.namespace")]
    Ambiguous {
        /// As given.
        text: String,
        /// The candidates, separated by commas.
        candidates: String,
    },
    /// Neither a service nor a workload nor an address.
    #[error(
        "{text:?} is not a service, a workload or an address; `warren get services` lists the services"
    )]
    NoDestination {
        /// As given.
        text: String,
    },
    /// The port is not a number from 1 to 65535.
    #[error("{text:?} is not a port; a port is a number from 1 to 65535")]
    Port {
        /// As given.
        text: String,
    },
    /// The destination has no single port that could be meant.
    #[error("which port of {text}? Say {text}:PORT{offered}")]
    NeedsPort {
        /// As given.
        text: String,
        /// The ports it offers, as the end of the sentence.
        offered: String,
    },
    /// It has no address that could be dialled.
    #[error("{text} has no address")]
    NoAddress {
        /// As given.
        text: String,
    },
}

/// Finds the workload that `text` names: `client.shop`, or `client` where only one namespace has it.
///
/// # Errors
/// Says what could not be found, or between what to choose.
pub fn workload<'a>(snapshot: &'a Snapshot, text: &str) -> Result<&'a Arc<Workload>, Unresolved> {
    let names = snapshot.world.workloads.iter().map(|item| &item.name);
    let name = match named(text, names)? {
        Some(name) => name,
        None => {
            return Err(Unresolved::NoWorkload {
                text: text.to_owned(),
            });
        }
    };
    snapshot
        .workload(name)
        .ok_or_else(|| Unresolved::NoWorkload {
            text: text.to_owned(),
        })
}

/// Finds the address that `text` means: `web.shop:80`, `web` (of the source's namespace first; the port may be left out
/// where there is only one), `10.200.0.9:80`, `[fd00::9]:80`.
///
/// # Errors
/// Says what could not be found, or between what to choose.
pub fn destination(
    snapshot: &Snapshot,
    source: &Workload,
    text: &str,
) -> Result<OrigDst, Unresolved> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok(OrigDst(canonical(addr)));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return address_without_port(snapshot, ip, text);
    }
    let (host, port) = match text.rsplit_once(':') {
        None => (text, None),
        Some((host, port)) => match port.parse::<u16>() {
            Ok(port) if port > 0 => (host, Some(port)),
            _ => {
                return Err(Unresolved::Port {
                    text: port.to_owned(),
                });
            }
        },
    };
    let own = Name::new(source.name.namespace.clone(), host);
    let world = &snapshot.world;
    let service = match snapshot.service(&own) {
        Some(service) => Some(service),
        None => named(host, world.services.iter().map(|item| &item.name))?
            .and_then(|name| snapshot.service(name)),
    };
    if let Some(service) = service {
        let ports: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
        return socket(host, service.addresses.first(), port, &ports);
    }
    let workload = match snapshot.workload(&own) {
        Some(workload) => Some(workload),
        None => named(host, world.workloads.iter().map(|item| &item.name))?
            .and_then(|name| snapshot.workload(name)),
    };
    match workload {
        Some(workload) => socket(host, workload.addresses.first(), port, &workload.ports),
        None => Err(Unresolved::NoDestination {
            text: host.to_owned(),
        }),
    }
}

/// What would happen if `source` dialled `destination` now.
pub fn explain(snapshot: &Snapshot, source: &Workload, destination: OrigDst) -> Explanation {
    let mut steps = Steps::default();
    match decide(snapshot, source, destination) {
        Decision::Refuse { reason, detail } => {
            steps.add(StepKind::Resolve, destination.to_string(), detail);
            steps.refuse(reason);
        }
        Decision::Outside => {
            steps.add(
                StepKind::Resolve,
                destination.to_string(),
                "outside the mesh: passed through untouched, in clear".to_owned(),
            );
        }
        Decision::Workload(workload) => {
            steps.add(
                StepKind::Resolve,
                destination.to_string(),
                format!("workload {} on node {}", workload.name, workload.node),
            );
            steps.endpoint(snapshot, source, &workload, AppAddr(destination.0));
        }
        Decision::Service(route) => {
            steps.add(
                StepKind::Resolve,
                destination.to_string(),
                format!("service {} port {}", route.service.name, route.port.port),
            );
            steps.service(snapshot, source, &route);
        }
    }
    let verdict = steps
        .refused
        .into_values()
        .min()
        .unwrap_or(Verdict::Allowed);
    Explanation {
        generation: snapshot.world.generation,
        verdict: verdict.label(),
        steps: steps.steps,
    }
}

#[derive(Default)]
struct Steps {
    steps: Vec<Step>,
    /// Verdicts other than allowed, by step.
    refused: BTreeMap<usize, Verdict>,
}

impl Steps {
    fn add(&mut self, kind: StepKind, subject: String, outcome: String) {
        self.steps.push(Step {
            kind,
            subject,
            outcome,
            rule: None,
            share: None,
            refused: None,
        });
    }

    fn rule(&mut self, rule: String) {
        if let Some(step) = self.steps.last_mut() {
            step.rule = Some(rule);
        }
    }

    fn refuse(&mut self, reason: Reason) {
        if let Some(step) = self.steps.last_mut() {
            step.refused = Some(reason.label());
            self.refused.insert(self.steps.len(), reason.verdict());
        }
    }

    fn service(&mut self, snapshot: &Snapshot, source: &Workload, route: &ServiceRoute) {
        let subject = format!("{}:{}", route.service.name, route.port.port);
        match route.describe_rule() {
            Some(rule) => {
                self.add(StepKind::Route, subject, "split by weight".to_owned());
                self.rule(rule);
            }
            None => self.add(
                StepKind::Route,
                subject,
                "no route: every endpoint of the service takes part".to_owned(),
            ),
        }
        let total: u64 = route
            .backends
            .iter()
            .map(|backend| u64::from(backend.weight))
            .sum();
        let somewhere = route
            .backends
            .iter()
            .any(|backend| !backend.endpoints.is_empty());
        for backend in route.backends.iter() {
            self.backend(backend, total, somewhere);
            for endpoint in backend.endpoints.iter().take(MOST_ENDPOINTS) {
                let address = AppAddr(endpoint.socket_addr(&backend.port));
                match &endpoint.workload {
                    Some(workload) => self.endpoint(snapshot, source, workload, address),
                    None => self.add(
                        StepKind::Mtls,
                        address.to_string(),
                        "not a workload of the mesh: reached in clear".to_owned(),
                    ),
                }
            }
        }
    }

    fn backend(&mut self, backend: &RoutedBackend, total: u64, somewhere: bool) {
        let count = backend.endpoints.len();
        let outcome = match count {
            0 if somewhere => "no endpoint: the other backends take its share".to_owned(),
            0 => "no endpoint".to_owned(),
            1 => "1 endpoint".to_owned(),
            _ if count > MOST_ENDPOINTS => {
                format!("{count} endpoints; the first {MOST_ENDPOINTS} follow")
            }
            _ => format!("{count} endpoints"),
        };
        self.add(StepKind::Split, backend.name.clone(), outcome);
        if let Some(step) = self.steps.last_mut() {
            step.share = Some(f64::from(backend.weight) * 100.0 / total.max(1) as f64);
        }
        if count == 0 && !somewhere {
            self.refuse(Reason::NothingHealthy);
        }
    }

    fn endpoint(
        &mut self,
        snapshot: &Snapshot,
        source: &Workload,
        workload: &Workload,
        address: AppAddr,
    ) {
        let subject = format!("{} {address}", workload.name);
        let caller = Caller::Authenticated {
            identity: &source.identity,
            address: source
                .addresses
                .first()
                .copied()
                .unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
        };
        match authorize(snapshot, caller, workload, address) {
            Ok(permit) => {
                let outcome = match permit.would_deny() {
                    None => "allowed".to_owned(),
                    Some(rule) => format!("allowed; dry run: {rule} would deny"),
                };
                self.add(StepKind::Policy, subject.clone(), outcome);
                self.rule(permit.rule().to_owned());
            }
            Err(denied) => {
                self.add(StepKind::Policy, subject.clone(), "denied".to_owned());
                self.rule(denied.rule);
                self.refuse(denied.reason);
            }
        }
        let (mode, rule) = mtls_mode(snapshot, workload, address.0.port());
        let outcome = if workload.name == source.name {
            "itself: within the node, no network".to_owned()
        } else {
            format!("mutual TLS, expecting {}", workload.identity)
        };
        self.add(StepKind::Mtls, subject, outcome);
        self.rule(describe_mtls(mode, rule));
    }
}

fn named<'a>(
    text: &str,
    names: impl Iterator<Item = &'a Name>,
) -> Result<Option<&'a Name>, Unresolved> {
    let mut found: Vec<&Name> = Vec::new();
    for name in names {
        if name.to_string() == text {
            return Ok(Some(name));
        }
        if name.name == text {
            found.push(name);
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        several => {
            let candidates: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(Unresolved::Ambiguous {
                text: text.to_owned(),
                candidates: candidates.join(", "),
            })
        }
    }
}

fn address_without_port(
    snapshot: &Snapshot,
    ip: IpAddr,
    text: &str,
) -> Result<OrigDst, Unresolved> {
    let ip = ip.to_canonical();
    let world = &snapshot.world;
    let service = world
        .services
        .iter()
        .find(|item| item.addresses.contains(&ip));
    let workload = world
        .workloads
        .iter()
        .find(|item| item.addresses.contains(&ip));
    let ports: Vec<u16> = match (service, workload) {
        (Some(service), _) => service.ports.iter().map(|port| port.port).collect(),
        (None, Some(workload)) => workload.ports.clone(),
        (None, None) => Vec::new(),
    };
    socket(text, Some(&ip), None, &ports)
}

fn socket(
    text: &str,
    address: Option<&IpAddr>,
    port: Option<u16>,
    offered: &[u16],
) -> Result<OrigDst, Unresolved> {
    let Some(address) = address else {
        return Err(Unresolved::NoAddress {
            text: text.to_owned(),
        });
    };
    let port = match (port, offered) {
        (Some(port), _) => port,
        (None, [only]) => *only,
        (None, []) => {
            return Err(Unresolved::NeedsPort {
                text: text.to_owned(),
                offered: String::new(),
            });
        }
        (None, several) => {
            let ports: Vec<String> = several.iter().map(ToString::to_string).collect();
            return Err(Unresolved::NeedsPort {
                text: text.to_owned(),
                offered: format!("; it offers {}", ports.join(", ")),
            });
        }
    };
    Ok(OrigDst(SocketAddr::new(*address, port)))
}
