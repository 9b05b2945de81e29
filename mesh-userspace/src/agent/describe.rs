//! The world in the words of the node API.

use std::collections::BTreeMap;

use mesh_core::addr::OrigDst;
use mesh_core::explain;
use mesh_core::policy::{self, Target};
use mesh_core::snapshot::{Snapshot, World};
use mesh_core::workload::{self, Name};

use super::view::did_you_mean;
use crate::api::flow::Verdict;
use crate::api::objects::{
    Backend, Certificate, Endpoint, Enrolment, Explanation, ExplanationStep, Policy, PolicyRule,
    Problem, Route, RouteRule, Service, ServicePort, Workload,
};

/// Every workload, those of this node with their state.
pub(crate) fn workloads(
    world: &World,
    enrolments: &BTreeMap<Name, Enrolment>,
    certificates: &[Certificate],
) -> Vec<Workload> {
    let mut workloads: Vec<Workload> = world
        .workloads
        .iter()
        .map(|workload| {
            let identity = workload.identity.to_string();
            Workload {
                name: workload.name.name.clone(),
                namespace: workload.name.namespace.clone(),
                node: workload.node.clone(),
                addresses: workload.addresses.iter().map(ToString::to_string).collect(),
                labels: workload.labels.clone(),
                ports: workload.ports.clone(),
                enrolment: enrolments.get(&workload.name).cloned(),
                certificate_not_after: certificates
                    .iter()
                    .find(|certificate| certificate.identity == identity)
                    .map(|certificate| certificate.not_after),
                identity,
            }
        })
        .collect();
    workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    workloads
}

/// Every service with its routes.
pub(crate) fn services(snapshot: &Snapshot) -> Vec<Service> {
    let mut services: Vec<Service> = snapshot
        .world
        .services
        .iter()
        .map(|service| Service {
            name: service.name.name.clone(),
            namespace: service.name.namespace.clone(),
            addresses: service.addresses.iter().map(ToString::to_string).collect(),
            ports: service
                .ports
                .iter()
                .map(|port| ServicePort {
                    port: port.port,
                    target_port: port.target_port,
                })
                .collect(),
            endpoints: service
                .endpoints
                .iter()
                .map(|endpoint| Endpoint {
                    address: endpoint.address.to_string(),
                    port: endpoint.port,
                    weight: endpoint.weight,
                    workload: endpoint
                        .workload
                        .as_ref()
                        .map(|workload| workload.name.to_string()),
                    labels: endpoint.labels.clone(),
                })
                .collect(),
            subsets: service.subsets.clone(),
            routes: snapshot
                .routes_of(&service.name)
                .iter()
                .map(|route| route.name.to_string())
                .collect(),
        })
        .collect();
    services.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    services
}

/// Every route, in the order in which they are asked.
pub(crate) fn routes(world: &World) -> Vec<Route> {
    world
        .routes
        .iter()
        .map(|route| Route {
            name: route.name.name.clone(),
            namespace: route.name.namespace.clone(),
            service: route.service.to_string(),
            rules: route
                .rules
                .iter()
                .map(|rule| RouteRule {
                    name: rule.name.clone(),
                    port: rule.port,
                    backends: rule
                        .backends
                        .iter()
                        .map(|backend| Backend {
                            service: backend.service.to_string(),
                            subset: backend.subset.clone(),
                            weight: backend.weight,
                        })
                        .collect(),
                })
                .collect(),
        })
        .collect()
}

/// Every policy.
pub(crate) fn policies(world: &World) -> Vec<Policy> {
    world
        .policies
        .iter()
        .map(|policy| Policy {
            name: policy.name.name.clone(),
            namespace: policy.name.namespace.clone(),
            target: target(&policy.target),
            dry_run: policy.dry_run,
            rules: policy
                .rules
                .iter()
                .map(|rule| PolicyRule {
                    name: rule.name.clone(),
                    action: match rule.action {
                        policy::Action::Allow => "allow".to_owned(),
                        policy::Action::Deny => "deny".to_owned(),
                    },
                    from: rule.from.iter().map(source).collect(),
                    ports: rule.ports.clone(),
                })
                .collect(),
        })
        .collect()
}

fn target(target: &Target) -> String {
    match target {
        Target::Namespace => "namespace".to_owned(),
        Target::Workload(name) => format!("workload/{name}"),
        Target::Workloads { service, .. } => format!("service/{service}"),
        Target::Labels(labels) => {
            let pairs: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("labels {}", pairs.join(","))
        }
    }
}

fn source(source: &policy::Source) -> String {
    match source {
        policy::Source::Authenticated => "authenticated".to_owned(),
        policy::Source::Namespace(namespace) => format!("ns/{namespace}"),
        policy::Source::ServiceAccount { namespace, name } => format!("sa/{namespace}/{name}"),
        policy::Source::Identity(identity) => identity.to_string(),
        policy::Source::Network(network) => network.to_string(),
    }
}

/// What would happen to a connection between two things as people name them.
pub(crate) fn explain(
    snapshot: &Snapshot,
    source: &str,
    destination: &str,
) -> Result<Explanation, Problem> {
    let names: Vec<String> = snapshot
        .world
        .workloads
        .iter()
        .map(|workload| workload.name.to_string())
        .collect();
    let from = without_kind(source);
    let workload = explain::workload(snapshot, from)
        .map_err(|error| Problem::new(format!("{error}{}", did_you_mean(from, &names))))?;
    let to = without_kind(destination);
    let dialled = explain::destination(snapshot, workload, to).map_err(|error| {
        let services = snapshot
            .world
            .services
            .iter()
            .map(|service| service.name.to_string());
        let known: Vec<String> = names.iter().cloned().chain(services).collect();
        let name = to.split(':').next().unwrap_or(to);
        Problem::new(format!("{error}{}", did_you_mean(name, &known)))
    })?;
    Ok(explanation(snapshot, workload, dialled))
}

/// What would happen to a connection of a workload to an address.
pub(crate) fn explanation(
    snapshot: &Snapshot,
    workload: &workload::Workload,
    dialled: OrigDst,
) -> Explanation {
    let explain::Explanation {
        generation,
        verdict,
        steps,
    } = explain::explain(snapshot, workload, dialled);
    Explanation {
        api_version: crate::api::VERSION.to_owned(),
        kind: "Explanation".to_owned(),
        source: workload.name.to_string(),
        destination: dialled.to_string(),
        verdict: match verdict {
            "allowed" => Verdict::Allowed,
            "denied" => Verdict::Denied,
            _ => Verdict::Failed,
        },
        generation,
        steps: steps.into_iter().map(step).collect(),
    }
}

fn step(step: explain::Step) -> ExplanationStep {
    let explain::Step {
        kind,
        subject,
        outcome,
        rule,
        share,
        refused,
    } = step;
    ExplanationStep {
        step: match kind {
            explain::StepKind::Resolve => "resolve",
            explain::StepKind::Route => "route",
            explain::StepKind::Split => "split",
            explain::StepKind::Policy => "policy",
            explain::StepKind::Mtls => "mtls",
        }
        .to_owned(),
        subject,
        outcome,
        rule,
        share,
        refused: refused.map(str::to_owned),
    }
}

/// `workload/client.shop` and `svc/web.shop:80` without the kind: what is meant is clear from where it stands.
pub(crate) fn without_kind(text: &str) -> &str {
    match text.split_once('/') {
        Some((
            "workload" | "workloads" | "wl" | "pod" | "pods" | "po" | "vm" | "svc" | "service"
            | "services",
            name,
        )) => name,
        _ => text,
    }
}
