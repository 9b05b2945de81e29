//! Routes of the Gateway API with Service parents → routes by weight, per connection. All routes of one service are worked
//! out together, because a port of it is decided by one of them: which one does not depend on who reads the facts.
//!
//! What cannot be told to the nodes (matches, filters, …) is said in the route's status, rule by rule; nothing is silently
//! left out. A route only ever speaks for services of its own namespace.

use std::collections::BTreeMap;

use mesh_core::service::{Backend, Route as RouteFact, RouteRule as RuleFact};
use mesh_core::workload::Name;
use serde_json::Value;

use super::state::State;
use super::verdict::{Outcome, Programmable, Verdict};
use crate::observe::{
    BackendRef, Observed, ParentRef, Route, RouteKey, RouteKind, RouteRule, Service,
};

/// What the routes of one service come to.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    pub(crate) routes: Vec<RouteFact>,
    /// By route, and position of the parent in it.
    pub(crate) verdicts: BTreeMap<(RouteKey, usize), Verdict>,
}

/// Works out the routes that have `parent` among their parents.
pub(crate) fn attached(state: &State, parent: &Name) -> Attached {
    let mut routes: Vec<&Route> = state.routes_of_parent(parent).map(AsRef::as_ref).collect();
    // The more specific kind first, then the older one, then by name (GEP-1426, and "conflict resolution" of the Gateway API).
    routes.sort_by_key(|route| (route.key.kind, route.created, route.key.name.clone()));
    let mut attached = Attached::default();
    let mut taken: BTreeMap<u16, RouteKey> = BTreeMap::new();
    for route in routes {
        let plan = Plan::of(state, route);
        let mut rules = Vec::new();
        for (index, reference) in route.parents().iter().enumerate() {
            if reference.service(&route.key.name.namespace).as_ref() != Some(parent) {
                continue;
            }
            let verdict = match ports(state, route, parent, reference) {
                Err(accepted) => plan.verdict(route, accepted, None),
                Ok(ports) => {
                    let conflict = plan.claim(&route.key, ports, &mut taken, &mut rules);
                    plan.verdict(route, Outcome::accepted(), conflict)
                }
            };
            attached.verdicts.insert((route.key(), index), verdict);
        }
        if !rules.is_empty() {
            attached.routes.push(RouteFact {
                name: fact_name(route, parent),
                service: parent.clone(),
                rules,
            });
        }
    }
    attached
}

/// The name under which nodes know a route: unique among kinds, and among the parents of one route.
fn fact_name(route: &Route, parent: &Name) -> Name {
    let RouteKey { kind, name } = &route.key;
    let first = route
        .parent_services()
        .find(|service| service.namespace == name.namespace);
    let text = if first.as_ref() == Some(parent) {
        format!("{}/{}", kind.word(), name.name)
    } else {
        format!("{}/{}:{}", kind.word(), name.name, parent.name)
    };
    Name::new(name.namespace.as_str(), text)
}

/// The ports of the parent that a reference is about, or why it is about none.
fn ports(
    state: &State,
    route: &Route,
    parent: &Name,
    reference: &ParentRef,
) -> Result<Vec<u16>, Outcome> {
    let own = &route.key.name.namespace;
    if parent.namespace != *own {
        return Err(Outcome::bad(
            "UnsupportedValue",
            format!(
                "a route of namespace {own} cannot decide for clients of service {parent}; put it into namespace {}",
                parent.namespace
            ),
        ));
    }
    let Some(service) = state.services.get(parent) else {
        return Err(Outcome::bad(
            "NoMatchingParent",
            format!("there is no service {} in namespace {own}", parent.name),
        ));
    };
    if service.external || service.is_headless() {
        return Err(Outcome::bad(
            "NoMatchingParent",
            format!(
                "service {} has no cluster IP: clients dial its pods, past every route",
                parent.name
            ),
        ));
    }
    let offered = || ports_of(service);
    let wanted = match (reference.port, &reference.section_name) {
        (None, None) => return Ok(service.ports.iter().map(|port| port.port).collect()),
        (Some(port), _) => {
            let wanted = service.ports.iter().find(|own| i32::from(own.port) == port);
            (
                wanted,
                format!("no TCP port {port}; its TCP ports are {}", offered()),
            )
        }
        // Implementations may let a section name a port of the service.
        (None, Some(section)) => {
            let wanted = service.ports.iter().find(|own| own.name == *section);
            (wanted, format!("no TCP port named {section}"))
        }
    };
    match wanted {
        (Some(port), _) => Ok(vec![port.port]),
        (None, why) => Err(Outcome::bad(
            "NoMatchingParent",
            format!("service {} has {why}", parent.name),
        )),
    }
}

/// What a route comes to, whichever parent.
struct Plan {
    /// The rule that takes connections: name and backends.
    rule: Option<(String, Vec<Backend>)>,
    resolved: Outcome,
    /// What is not told to the nodes.
    missing: Vec<String>,
}

impl Plan {
    fn of(state: &State, route: &Route) -> Self {
        let mut plan = Self {
            rule: None,
            resolved: Outcome::resolved(),
            missing: Vec::new(),
        };
        let mut wrong: Vec<(&'static str, String)> = Vec::new();
        for (position, rule) in route.rules().iter().enumerate() {
            let name = rule.name.clone().unwrap_or_else(|| position.to_string());
            let mut missing = not_programmed(route.key.kind, rule);
            let mut backends = Vec::new();
            for backend in &rule.backend_refs {
                if backend
                    .filters
                    .as_ref()
                    .is_some_and(|filters| !filters.is_empty())
                {
                    missing
                        .get_or_insert_default()
                        .push(format!("filters of backend {}", backend.name));
                }
                match resolve(state, route, backend) {
                    Ok(backend) => backends.push(backend),
                    Err(why) => wrong.push(why),
                }
            }
            match missing {
                Some(what) => plan
                    .missing
                    .push(format!("rule {name}: {}", what.join(", "))),
                None if plan.rule.is_some() => plan.missing.push(format!(
                    "rule {name}: an earlier rule takes every connection already"
                )),
                None => {
                    let extras = extras(rule);
                    if !extras.is_empty() {
                        plan.missing
                            .push(format!("rule {name}: {}", extras.join(", ")));
                    }
                    plan.rule = Some((name, backends));
                }
            }
        }
        if let Some((reason, _)) = wrong.first() {
            let messages: Vec<&str> = wrong.iter().map(|(_, message)| message.as_str()).collect();
            plan.resolved = Outcome::bad(reason, messages.join("; "));
        }
        plan
    }

    /// Takes the ports that no earlier route has, and says what is left to others.
    fn claim(
        &self,
        key: &RouteKey,
        ports: Vec<u16>,
        taken: &mut BTreeMap<u16, RouteKey>,
        rules: &mut Vec<RuleFact>,
    ) -> Option<String> {
        let (name, backends) = self.rule.as_ref()?;
        let mut lost = Vec::new();
        for port in ports {
            match taken.get(&port) {
                // Two references of one route to one port.
                Some(other) if other == key => {}
                Some(RouteKey { kind, name }) => {
                    lost.push(format!(
                        "port {port} is decided by {} {}",
                        kind.kind(),
                        name.name
                    ));
                }
                None => {
                    taken.insert(port, key.clone());
                    rules.push(RuleFact {
                        name: name.clone(),
                        port: Some(port),
                        backends: backends.clone(),
                    });
                }
            }
        }
        (!lost.is_empty()).then(|| lost.join("; "))
    }

    fn verdict(&self, route: &Route, accepted: Outcome, conflict: Option<String>) -> Verdict {
        let accepted = match &route.unreadable {
            None => accepted,
            Some(why) => Outcome::bad(
                "UnsupportedValue",
                format!("the route cannot be read: {why}"),
            ),
        };
        let programmable = if !accepted.good {
            Programmable::NotAll {
                reason: "NotAccepted",
                message: accepted.message.clone(),
            }
        } else if let Some(conflict) = conflict {
            Programmable::NotAll {
                reason: "Conflicted",
                message: conflict,
            }
        } else if !self.missing.is_empty() {
            let programmed = match &self.rule {
                None => "no rule takes connections".to_owned(),
                Some((name, _)) => format!("rule {name} splits connections by weight"),
            };
            Programmable::NotAll {
                reason: "NotYetProgrammed",
                message: format!(
                    "{programmed}; not programmed yet: {}",
                    self.missing.join("; ")
                ),
            }
        } else {
            Programmable::Whole {
                note: String::new(),
            }
        };
        Verdict {
            generation: route.generation,
            accepted,
            resolved: self.resolved.clone(),
            programmable,
        }
    }
}

/// What keeps a rule from taking every connection.
fn not_programmed(kind: RouteKind, rule: &RouteRule) -> Option<Vec<String>> {
    let mut what = Vec::new();
    let matches = rule.matches.as_deref().unwrap_or_default();
    if !matches.is_empty()
        && !matches
            .iter()
            .any(|wanted| matches_everything(kind, wanted))
    {
        what.push("matches".to_owned());
    }
    let filters = rule.filters.iter().flatten();
    what.extend(filters.map(|filter| {
        let kind = filter.get("type").and_then(Value::as_str).unwrap_or("?");
        format!("filter {kind}")
    }));
    (!what.is_empty()).then_some(what)
}

/// What of a rule that takes connections is not done nevertheless.
fn extras(rule: &RouteRule) -> Vec<&'static str> {
    [
        ("timeouts", &rule.timeouts),
        ("retry", &rule.retry),
        ("sessionPersistence", &rule.session_persistence),
    ]
    .into_iter()
    .filter(|(_, value)| value.as_ref().is_some_and(|value| !value.is_null()))
    .map(|(name, _)| name)
    .collect()
}

/// Whether a match lets everything through. The API server writes the one of HTTPRoute where none is given.
fn matches_everything(kind: RouteKind, wanted: &Value) -> bool {
    let Value::Object(wanted) = wanted else {
        return false;
    };
    wanted
        .iter()
        .all(|(key, value)| match (kind, key.as_str()) {
            (RouteKind::Http, "path") => {
                let part = |key| value.get(key).and_then(Value::as_str);
                part("type").is_none_or(|kind| kind == "PathPrefix")
                    && part("value").is_none_or(|path| path == "/")
            }
            (_, "headers" | "queryParams") => value.as_array().is_some_and(Vec::is_empty),
            _ => value.is_null(),
        })
}

/// The backend that a reference leads to, or why to none: then the others of the rule have its share, and where there are
/// no others, connections are refused.
fn resolve(
    state: &State,
    route: &Route,
    reference: &BackendRef,
) -> Result<Backend, (&'static str, String)> {
    let own = &route.key.name.namespace;
    let Some(name) = reference.service(own) else {
        let kind = reference.kind.as_deref().unwrap_or_default();
        return Err((
            "InvalidKind",
            format!(
                "backend {} is a {kind}; only a Service can be one",
                reference.name
            ),
        ));
    };
    if name.namespace != *own && !state.is_granted(&route.key, &name) {
        return Err((
            "RefNotPermitted",
            format!(
                "no ReferenceGrant of namespace {} lets {} of namespace {own} lead to service {}",
                name.namespace,
                route.key.kind.kind(),
                name.name
            ),
        ));
    }
    let Some(service) = state.services.get(&name) else {
        return Err(("BackendNotFound", format!("there is no service {name}")));
    };
    let port = backend_port(service, reference)?;
    Ok(Backend {
        service: name,
        subset: None,
        port: Some(port),
        weight: weight(reference.weight),
    })
}

fn backend_port(service: &Service, reference: &BackendRef) -> Result<u16, (&'static str, String)> {
    let name = &service.name;
    let Some(wanted) = reference.port else {
        return Err((
            "UnsupportedValue",
            format!("backend {name} needs a port: it is a Service"),
        ));
    };
    let offered = service
        .ports
        .iter()
        .find(|port| i32::from(port.port) == wanted);
    offered.map(|port| port.port).ok_or_else(|| {
        let ports = ports_of(service);
        (
            "BackendNotFound",
            format!("service {name} has no TCP port {wanted}; its TCP ports are {ports}"),
        )
    })
}

/// From 0 to 1,000,000 (Gateway API); 1 if none is given.
fn weight(given: Option<i64>) -> u32 {
    u32::try_from(given.unwrap_or(1).clamp(0, 1_000_000)).unwrap_or(1)
}

/// The TCP ports of a service, for a person.
fn ports_of(service: &Service) -> String {
    if service.ports.is_empty() {
        return "none".to_owned();
    }
    let ports = service.ports.iter().map(|port| port.port.to_string());
    ports.collect::<Vec<_>>().join(", ")
}
