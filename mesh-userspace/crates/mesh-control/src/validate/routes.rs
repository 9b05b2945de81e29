//! Routes: services, ports and subsets that exist, rules that can be reached, weights that lead somewhere.

use std::collections::{HashMap, HashSet};

use mesh_core::service::{Backend, Route, RouteRule};
use mesh_core::workload::Name;

use crate::located::At;
use crate::mistake::did_you_mean;
use crate::objects::ServiceSpec;
use crate::raw::{self, RuleName};

use super::names::referred;
use super::{Bad, Checker, Kind};

/// Ports and subsets of a service, as the file says, even where the service is rejected for something else.
#[derive(Default)]
struct Offer {
    ports: Vec<u16>,
    subsets: Vec<String>,
    /// Some of it could not be read: what is not in it may be there.
    partial: bool,
}

impl Checker<'_> {
    pub(super) fn routes(&mut self, services: &[ServiceSpec], bad: &mut Vec<Bad>) -> Vec<Route> {
        let offers = self.offers(services);
        // The route and line that decides for a service and port.
        let mut decided: HashMap<(Name, Option<u16>), u32> = HashMap::new();
        let mut good = Vec::new();
        let configuration = self.configuration;
        for (index, item) in configuration.routes.iter().enumerate() {
            let route = item
                .get()
                .and_then(|route| self.route(index, item, route, &offers));
            match route {
                Some(route) if !self.is_broken(&item.path) => {
                    self.shadowed(item, &route, &mut decided);
                    good.push(route);
                }
                _ => bad.push(Bad {
                    kind: Kind::Route,
                    path: item.path.clone(),
                    name: item
                        .get()
                        .and_then(|item| self.name(&item.name, item.namespace.as_ref())),
                    fallback: None,
                }),
            }
        }
        good
    }

    fn route(
        &mut self,
        index: usize,
        item: &At<raw::Route>,
        route: &raw::Route,
        offers: &HashMap<Name, Offer>,
    ) -> Option<Route> {
        let raw::Route {
            name,
            namespace,
            service,
            rules,
        } = route;
        let full = self.name(name, namespace.as_ref());
        self.unique(Kind::Route, full.as_ref(), index, name);
        let full = full?;
        let target = referred(service.get()?, &full.namespace);
        if target.namespace != full.namespace {
            let message = format!(
                "route {full} cannot split service {target}: a route is of the namespace of its service"
            );
            let next = format!("put the route into namespace {}", target.namespace);
            self.error(service.at, &service.path, message, Some(next));
        }
        self.must_exist(Kind::Service, &target, service);
        let list = rules.get()?;
        self.at_most(list.len(), 256, rules.at, &rules.path, "rules");
        if list.is_empty() {
            let message = "the route has no rule, and changes nothing".to_owned();
            self.warn(rules.at, &rules.path, message, None);
        }
        let mut names = HashSet::new();
        let mut good = Vec::new();
        for (position, at) in list.iter().enumerate() {
            let Some(rule) = at.get() else {
                continue;
            };
            let name = self.rule_name(rule.name.as_ref(), position, &mut names);
            let backends = self.backends(rule, &full, &target, offers);
            self.rule_port(rule, &target, offers);
            if let Some(name) = name {
                good.push(RouteRule {
                    name,
                    port: rule.port.as_ref().and_then(At::get).map(|port| port.0),
                    backends,
                });
            }
        }
        self.unreachable(item, &good);
        Some(Route {
            name: full,
            service: target,
            rules: good,
        })
    }

    /// The name of a rule, or its position; doubles are noted.
    pub(super) fn rule_name(
        &mut self,
        name: Option<&At<RuleName>>,
        position: usize,
        names: &mut HashSet<String>,
    ) -> Option<String> {
        let text = match name {
            None => position.to_string(),
            Some(name) => name.get()?.0.clone(),
        };
        if !names.insert(text.clone())
            && let Some(name) = name
        {
            let message = format!("rule {text} is given twice");
            self.error(name.at, &name.path, message, None);
        }
        Some(text)
    }

    fn rule_port(&mut self, rule: &raw::RouteRule, target: &Name, offers: &HashMap<Name, Offer>) {
        let Some(at) = &rule.port else {
            return;
        };
        let (Some(port), Some(offer)) = (at.get(), offers.get(target)) else {
            return;
        };
        if !offer.partial && !offer.ports.contains(&port.0) {
            let message = format!("service {target} has no port {}", port.0);
            let next = format!("it offers {}", list(&offer.ports));
            self.error(at.at, &at.path, message, Some(next));
        }
    }

    fn backends(
        &mut self,
        rule: &raw::RouteRule,
        route: &Name,
        target: &Name,
        offers: &HashMap<Name, Offer>,
    ) -> Vec<Backend> {
        let Some(items) = rule.backends.get() else {
            return Vec::new();
        };
        let (at, path) = (rule.backends.at, rule.backends.path.as_str());
        self.at_most(items.len(), 64, at, path, "backends");
        let mut good: Vec<Backend> = Vec::new();
        for item in items {
            let Some(backend) = item
                .get()
                .and_then(|backend| self.backend(backend, rule, route, target, offers))
            else {
                continue;
            };
            let twice = good.iter().any(|earlier| {
                earlier.service == backend.service && earlier.subset == backend.subset
            });
            if twice {
                let message = "this backend is given twice in the rule; add the weights up";
                self.error(item.at, &item.path, message.to_owned(), None);
            }
            good.push(backend);
        }
        if good.iter().all(|backend| backend.weight == 0) && good.len() == items.len() {
            let message = "no backend has a weight above 0; every connection is refused";
            self.warn(at, path, message.to_owned(), None);
        }
        good
    }

    fn backend(
        &mut self,
        backend: &raw::Backend,
        rule: &raw::RouteRule,
        route: &Name,
        target: &Name,
        offers: &HashMap<Name, Offer>,
    ) -> Option<Backend> {
        let raw::Backend {
            service,
            subset,
            weight,
        } = backend;
        let name = match service {
            None => target.clone(),
            Some(at) => {
                let name = referred(at.get()?, &route.namespace);
                if name.namespace != route.namespace {
                    let message =
                        format!("service {name} is of another namespace than route {route}");
                    self.error(at.at, &at.path, message, None);
                } else if self.must_exist(Kind::Service, &name, at) && name != *target {
                    self.stands_for(at, rule, &name, offers);
                }
                name
            }
        };
        let subset = match subset {
            None => None,
            Some(at) => {
                let text = &at.get()?.0;
                if let Some(offer) = offers.get(&name)
                    && !offer.partial
                    && !offer.subsets.contains(text)
                {
                    let message = format!("service {name} has no subset \"{text}\"");
                    let subsets = offer.subsets.iter().map(String::as_str);
                    let next = did_you_mean(text, subsets).or_else(|| {
                        (!offer.subsets.is_empty())
                            .then(|| format!("its subsets are {}", offer.subsets.join(", ")))
                    });
                    self.error(at.at, &at.path, message, next);
                }
                Some(text.clone())
            }
        };
        Some(Backend {
            service: name,
            subset,
            port: None,
            weight: match weight {
                None => 1,
                Some(weight) => weight.get()?.0,
            },
        })
    }

    /// Another service as a backend must have a port that stands for the dialled one.
    fn stands_for(
        &mut self,
        at: &At<raw::Reference>,
        rule: &raw::RouteRule,
        name: &Name,
        offers: &HashMap<Name, Offer>,
    ) {
        let (Some(offer), Some(port)) = (
            offers.get(name),
            rule.port.as_ref().and_then(At::get).map(|port| port.0),
        ) else {
            return;
        };
        if !offer.partial && offer.ports.len() != 1 && !offer.ports.contains(&port) {
            let message = format!("service {name} has no port {port} to stand for the rule's");
            let next = format!("it offers {}", list(&offer.ports));
            self.error(at.at, &at.path, message, Some(next));
        }
    }

    /// Warns of rules behind one that takes everything they would.
    fn unreachable(&mut self, item: &At<raw::Route>, rules: &[RouteRule]) {
        for (index, rule) in rules.iter().enumerate() {
            let before = rules.get(..index).unwrap_or_default();
            let earlier = before
                .iter()
                .find(|earlier| earlier.port.is_none() || earlier.port == rule.port);
            if let Some(earlier) = earlier {
                let path = format!("{}.rules[{index}]", item.path);
                let at = item
                    .get()
                    .and_then(|route| route.rules.get())
                    .and_then(|rules| rules.get(index))
                    .map_or(item.at, |rule| rule.at);
                let message = format!(
                    "rule {} is never reached: rule {} before it takes its connections",
                    rule.name, earlier.name
                );
                self.warn(at, &path, message, None);
            }
        }
    }

    /// Warns of a route behind another one for the same port of the same service.
    fn shadowed(
        &mut self,
        item: &At<raw::Route>,
        route: &Route,
        decided: &mut HashMap<(Name, Option<u16>), u32>,
    ) {
        for port in route.rules.iter().map(|rule| rule.port) {
            let every = (route.service.clone(), None);
            let this = (route.service.clone(), port);
            let earlier = decided.get(&this).or_else(|| decided.get(&every)).copied();
            match earlier {
                Some(line) if line != item.at.line => {
                    let message = format!(
                        "the route at line {line} decides for the same port of service {} first",
                        route.service
                    );
                    self.warn(item.at, &item.path, message, None);
                    return;
                }
                _ => decided.insert(this, item.at.line),
            };
        }
    }

    fn offers(&self, services: &[ServiceSpec]) -> HashMap<Name, Offer> {
        let mut offers: HashMap<Name, Offer> = HashMap::new();
        for item in &self.configuration.services {
            let Some(name) = item
                .get()
                .and_then(|service| self.name(&service.name, service.namespace.as_ref()))
            else {
                continue;
            };
            offers.entry(name).or_insert_with(|| Offer {
                partial: true,
                ..Offer::default()
            });
        }
        for service in services {
            let offer = Offer {
                ports: service.ports.iter().map(|port| port.port).collect(),
                subsets: service.subsets.keys().cloned().collect(),
                partial: false,
            };
            offers.insert(service.name.clone(), offer);
        }
        offers
    }
}

fn list(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    ports.join(", ")
}
