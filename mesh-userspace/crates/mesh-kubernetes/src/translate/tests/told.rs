//! Facts in a line each.

use mesh_control::facts::{Fact, NamespaceSpec};
use mesh_control::objects::{
    EndpointSpec, MtlsSpec, Place, PolicySpec, Selector, ServiceSpec, TargetSpec, WorkloadSpec,
};
use mesh_core::policy::{Action, Source};
use mesh_core::service::{Backend, Route};
use mesh_core::workload::Labels;

pub(super) fn line(fact: &Fact) -> String {
    match fact {
        Fact::Mesh(_) => "mesh".to_owned(),
        Fact::Namespace(spec) => namespace(spec),
        Fact::Workload(spec) => workload(spec),
        Fact::Service(spec) => service(spec),
        Fact::Route(route) => self::route(route),
        Fact::Policy(spec) => policy(spec),
        Fact::Mtls(spec) => mtls(spec),
    }
}

fn namespace(spec: &NamespaceSpec) -> String {
    let NamespaceSpec {
        name,
        meshed,
        pods_opt_in,
        reach,
    } = spec;
    let mut line = name.clone();
    line += if *meshed { " meshed" } else { " not meshed" };
    line += if *pods_opt_in { ", pods opt in" } else { "" };
    if let Some(reach) = reach {
        line += &format!(", reaches {}", joined(reach.iter()));
    }
    line
}

fn workload(spec: &WorkloadSpec) -> String {
    let WorkloadSpec {
        name,
        service_account,
        node,
        addresses,
        labels,
        ports,
        select,
        udp,
    } = spec;
    assert!(ports.is_empty(), "a pod's address is its own");
    let Some(Selector::Pod { uid }) = select else {
        panic!("not selected as a pod: {select:?}");
    };
    let node = node.as_ref().expect("a node");
    let udp = if *udp { " udp" } else { "" };
    format!(
        "{name} as {service_account} on {node} uid {uid} at [{}] {{{}}}{udp}",
        joined(addresses.iter()),
        self::labels(labels)
    )
}

fn service(spec: &ServiceSpec) -> String {
    let ServiceSpec {
        name,
        addresses,
        ports,
        endpoints,
        subsets,
        export_to,
    } = spec;
    assert!(subsets.is_empty());
    let ports = ports
        .iter()
        .map(|port| format!("{}->{}", port.port, port.target_port));
    let export = match export_to {
        None => String::new(),
        Some(to) => format!(" for [{}]", joined(to.iter())),
    };
    format!(
        "{name} at [{}] {}: {}{export}",
        joined(addresses.iter()),
        joined(ports),
        joined(endpoints.iter().map(endpoint))
    )
}

fn endpoint(spec: &EndpointSpec) -> String {
    let EndpointSpec {
        place,
        port,
        ports,
        weight,
        labels,
    } = spec;
    assert_eq!((port, weight, labels.len()), (&None, &1, 0));
    let place = match place {
        Place::Workload(name) => name.to_string(),
        Place::Address(ip) => format!("outside {ip}"),
    };
    let own = ports.iter().map(|(port, own)| match own {
        Some(own) => format!("{port}->{own}"),
        None => format!("not {port}"),
    });
    if ports.is_empty() {
        place
    } else {
        format!("{place} ({})", joined(own))
    }
}

fn route(route: &Route) -> String {
    let rules = route.rules.iter().map(|rule| {
        let port = rule
            .port
            .map_or_else(|| "any".to_owned(), |port| port.to_string());
        let backends = rule.backends.iter().map(|backend| {
            let Backend {
                service,
                subset,
                port,
                weight,
            } = backend;
            assert_eq!(*subset, None);
            format!("{service}:{}*{weight}", port.expect("a port"))
        });
        format!("{} for {port} [{}]", rule.name, joined(backends))
    });
    format!("{} of {}: {}", route.name, route.service, joined(rules))
}

fn policy(spec: &PolicySpec) -> String {
    let PolicySpec {
        name,
        target,
        dry_run,
        rules,
    } = spec;
    let rules = rules.iter().map(|rule| {
        let action = match rule.action {
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        let from = rule.from.iter().map(|source| match source {
            Source::Authenticated => "authenticated".to_owned(),
            Source::Namespace(namespace) => format!("{namespace}/*"),
            Source::ServiceAccount { namespace, name } => format!("{namespace}/{name}"),
            Source::Identity(identity) => identity.to_string(),
            Source::Network(network) => network.to_string(),
        });
        format!(
            "{} {action} [{}] to [{}]",
            rule.name,
            joined(from),
            joined(rule.ports.iter())
        )
    });
    let dry = if *dry_run { " (dry run)" } else { "" };
    format!("{name}{dry} on {}: {}", self::target(target), joined(rules))
}

fn mtls(spec: &MtlsSpec) -> String {
    let MtlsSpec {
        name,
        target,
        ports,
        mode,
    } = spec;
    format!(
        "{name} on {} [{}]: {mode:?}",
        self::target(target),
        joined(ports.iter())
    )
}

fn target(target: &TargetSpec) -> String {
    match target {
        TargetSpec::Namespace => "the namespace".to_owned(),
        TargetSpec::Workload(name) => format!("workload {name}"),
        TargetSpec::Labels(wanted) => format!("{{{}}}", labels(wanted)),
        TargetSpec::Service { name, .. } => format!("service {name}"),
    }
}

fn labels(labels: &Labels) -> String {
    joined(labels.iter().map(|(key, value)| format!("{key}={value}")))
}

fn joined(items: impl Iterator<Item = impl ToString>) -> String {
    items
        .map(|item| item.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
