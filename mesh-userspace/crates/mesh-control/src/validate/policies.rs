//! Policies and exceptions from mutual TLS: targets that exist, sources that are one thing each. A bad one is never
//! simply left out, because that could open what it closes: its [`Fallback`] says what stands in for it.

use std::collections::HashSet;

use mesh_core::policy::{Action, MtlsMode, Rule, Source};
use mesh_core::workload::{Labels, Name};

use crate::located::At;
use crate::mistake::did_you_mean;
use crate::objects::{MtlsSpec, PolicySpec, TargetSpec};
use crate::raw;

use super::names::referred;
use super::settings::mtls_mode;
use super::{Bad, Checker, Kind, namespace_of};

/// What stands in for a bad policy or exception, so that nothing becomes more open than it would have made it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fallback {
    /// It could only have opened something: leaving it out is the closed side.
    Nothing,
    /// A policy that denies in its place.
    Policy(PolicySpec),
    /// An exception that requires mutual TLS in its place.
    Strict(MtlsSpec),
    /// Not even the namespace is known: the file cannot be applied.
    Impossible,
}

/// The rule of a policy that stands in for one that may have had DENY rules.
const STAND_IN: &str = "rejected-policy-denies-all";

impl Checker<'_> {
    pub(super) fn policies(&mut self, bad: &mut Vec<Bad>) -> Vec<PolicySpec> {
        let mut good = Vec::new();
        let configuration = self.configuration;
        for (index, item) in configuration.policies.iter().enumerate() {
            let spec = item
                .get()
                .and_then(|policy| self.policy(index, item, policy));
            match spec {
                Some(spec) if !self.is_broken(&item.path) => good.push(spec),
                _ => bad.push(Bad {
                    kind: Kind::Policy,
                    path: item.path.clone(),
                    name: item
                        .get()
                        .and_then(|item| self.name(&item.name, item.namespace.as_ref())),
                    fallback: Some(self.policy_fallback(index, item)),
                }),
            }
        }
        good
    }

    pub(super) fn exceptions(&mut self, bad: &mut Vec<Bad>) -> Vec<MtlsSpec> {
        let mut good = Vec::new();
        let mtls = self.configuration.mtls.as_ref().and_then(At::get);
        let exceptions = mtls
            .map(|mtls| mtls.exceptions.as_slice())
            .unwrap_or_default();
        for (index, item) in exceptions.iter().enumerate() {
            let spec = item
                .get()
                .and_then(|exception| self.exception(index, item, exception));
            match spec {
                Some(spec) if !self.is_broken(&item.path) => good.push(spec),
                _ => bad.push(Bad {
                    kind: Kind::MtlsException,
                    path: item.path.clone(),
                    name: item
                        .get()
                        .and_then(|item| self.name(&item.name, item.namespace.as_ref())),
                    fallback: Some(self.exception_fallback(index, item)),
                }),
            }
        }
        good
    }

    fn policy(
        &mut self,
        index: usize,
        item: &At<raw::Policy>,
        policy: &raw::Policy,
    ) -> Option<PolicySpec> {
        let raw::Policy {
            name,
            namespace,
            target,
            dry_run,
            rules,
        } = policy;
        let full = self.name(name, namespace.as_ref());
        self.unique(Kind::Policy, full.as_ref(), index, name);
        let full = full?;
        let target = self.target(target.as_ref(), &full.namespace, item.at);
        let list = rules.get()?;
        self.at_most(list.len(), 256, rules.at, &rules.path, "rules");
        let mut names = HashSet::new();
        let mut good = Vec::new();
        for (position, at) in list.iter().enumerate() {
            if let Some(rule) = at.get() {
                let name = self.rule_name(rule.name.as_ref(), position, &mut names);
                good.extend(self.policy_rule(rule, name));
            }
        }
        Some(PolicySpec {
            name: full,
            target: target?,
            dry_run: dry_run.as_ref().and_then(At::get).copied().unwrap_or(false),
            rules: good,
        })
    }

    fn policy_rule(&mut self, rule: &raw::PolicyRule, name: Option<String>) -> Option<Rule> {
        let raw::PolicyRule {
            name: _,
            action,
            from,
            to,
        } = rule;
        let mut sources = Vec::new();
        if let Some(list) = self.not_empty(from.as_ref(), "source") {
            for at in list {
                sources.extend(self.source(at));
            }
        }
        let mut ports = Vec::new();
        if let Some(list) = self.not_empty(to.as_ref(), "destination") {
            for at in list {
                let listed = at.get().map(|destination| &destination.ports);
                if let Some(listed) = self.not_empty(listed, "port") {
                    ports.extend(self.ports(listed));
                }
            }
        }
        ports.sort_unstable();
        ports.dedup();
        Some(Rule {
            name: name?,
            action: match action.get()? {
                raw::Action::Allow => Action::Allow,
                raw::Action::Deny => Action::Deny,
            },
            from: sources,
            ports,
        })
    }

    /// A list that is given must have something in it: an empty one would match everything, which nobody means who
    /// writes it.
    fn not_empty<'t, T>(&mut self, list: Option<&'t At<Vec<T>>>, what: &str) -> Option<&'t [T]> {
        let at = list?;
        let items = at.get()?;
        if items.is_empty() {
            let key = at.path.rsplit('.').next().unwrap_or_default().to_owned();
            let message = format!("an empty list would mean every {what}");
            let next = format!("leave `{key}` out if that is meant");
            self.error(at.at, &at.path, message, Some(next));
        }
        self.at_most(items.len(), 1024, at.at, &at.path, "entries");
        Some(items)
    }

    fn source(&mut self, at: &At<raw::Source>) -> Option<Source> {
        let raw::Source {
            service_account,
            namespace,
            identity,
            network,
            authenticated,
        } = at.get()?;
        let given = [
            service_account.as_ref().map(|_| "serviceAccount"),
            namespace.as_ref().map(|_| "namespace"),
            identity.as_ref().map(|_| "identity"),
            network.as_ref().map(|_| "network"),
            authenticated.as_ref().map(|_| "authenticated"),
        ];
        let given: Vec<&str> = given.into_iter().flatten().collect();
        if given.len() != 1 {
            let of = "serviceAccount, namespace, identity, network and authenticated";
            self.exactly_one(at.at, &at.path, &given, of);
            return None;
        }
        if let Some(account) = service_account {
            let (namespace, name) = account.get()?.0.clone();
            self.known_account(account.at, &account.path, &namespace, &name);
            return Some(Source::ServiceAccount { namespace, name });
        }
        if let Some(namespace) = namespace {
            let text = namespace.get()?.0.clone();
            if !self.names.namespaces.contains(&text) {
                let known = self.names.namespaces.iter().map(String::as_str);
                let suggestion = did_you_mean(&text, known);
                let message = format!("nothing in this file is of namespace {text}");
                self.warn(namespace.at, &namespace.path, message, suggestion);
            }
            return Some(Source::Namespace(text));
        }
        if let Some(identity) = identity {
            return Some(Source::Identity(identity.get()?.0.clone()));
        }
        if let Some(network) = network {
            return Some(Source::Network(network.get()?.0));
        }
        let authenticated = authenticated.as_ref()?;
        if !*authenticated.get()? {
            let message = "only `authenticated: true` is a source".to_owned();
            let next = "leave `from` out to match every source".to_owned();
            self.error(authenticated.at, &authenticated.path, message, Some(next));
        }
        Some(Source::Authenticated)
    }

    fn known_account(
        &mut self,
        at: crate::mistake::Location,
        path: &str,
        namespace: &str,
        name: &str,
    ) {
        let accounts = &self.names.accounts;
        if accounts.contains(&(namespace.to_owned(), name.to_owned())) {
            return;
        }
        let known: Vec<String> = accounts
            .iter()
            .map(|(namespace, name)| format!("{namespace}/{name}"))
            .collect();
        let wanted = format!("{namespace}/{name}");
        let suggestion = did_you_mean(&wanted, known.iter().map(String::as_str));
        let message = format!("no workload of this file has service account {wanted}");
        self.warn(at, path, message, suggestion);
    }

    fn exception(
        &mut self,
        index: usize,
        item: &At<raw::Exception>,
        exception: &raw::Exception,
    ) -> Option<MtlsSpec> {
        let raw::Exception {
            name,
            namespace,
            target,
            ports,
            mode,
        } = exception;
        let full = self.name(name, namespace.as_ref());
        self.unique(Kind::MtlsException, full.as_ref(), index, name);
        let full = full?;
        let target = self.target(target.as_ref(), &full.namespace, item.at);
        let listed = self.not_empty(ports.as_ref(), "port").unwrap_or_default();
        let ports = self.ports(listed);
        Some(MtlsSpec {
            name: full,
            target: target?,
            ports,
            mode: mtls_mode(*mode.get()?),
        })
    }

    /// What a target means; notes what is wrong with it. `None` when it cannot be told.
    fn target(
        &mut self,
        target: Option<&At<raw::Target>>,
        namespace: &str,
        object: crate::mistake::Location,
    ) -> Option<TargetSpec> {
        let Some(at) = target else {
            return Some(TargetSpec::Namespace);
        };
        let raw::Target {
            service,
            workload,
            labels,
        } = at.get()?;
        let given = [
            service.as_ref().map(|_| "service"),
            workload.as_ref().map(|_| "workload"),
            labels.as_ref().map(|_| "labels"),
        ];
        let given: Vec<&str> = given.into_iter().flatten().collect();
        if given.len() != 1 {
            let place = if at.at.line == 0 { object } else { at.at };
            self.exactly_one(place, &at.path, &given, "service, workload and labels");
            return None;
        }
        if let Some(service) = service {
            let name = self.in_namespace(Kind::Service, service, namespace)?;
            let (workloads, elsewhere) = self.workloads_behind(&name);
            if elsewhere {
                let message = format!(
                    "service {name} has endpoints in other namespaces, which a policy of {namespace} does not reach"
                );
                self.warn(service.at, &service.path, message, None);
            }
            return Some(TargetSpec::Service {
                name: name.name,
                workloads,
            });
        }
        if let Some(workload) = workload {
            let name = self.in_namespace(Kind::Workload, workload, namespace)?;
            return Some(TargetSpec::Workload(name.name));
        }
        let labels = labels.as_ref()?;
        let wanted = self.labels(labels.get()?);
        if wanted.is_empty() {
            let message = "a target without labels would be the whole namespace".to_owned();
            let next = "leave `target` out if that is meant".to_owned();
            self.error(labels.at, &labels.path, message, Some(next));
            return None;
        }
        self.labels_select(labels.at, &labels.path, &wanted, namespace);
        Some(TargetSpec::Labels(wanted))
    }

    /// The name that a target refers to: of the same namespace, and in the file.
    fn in_namespace(
        &mut self,
        kind: Kind,
        at: &At<raw::Reference>,
        namespace: &str,
    ) -> Option<Name> {
        let name = referred(at.get()?, namespace);
        if name.namespace != namespace {
            let message = format!(
                "{} {name} is of another namespace than this object",
                kind.word()
            );
            self.error(at.at, &at.path, message, None);
            return None;
        }
        self.must_exist(kind, &name, at).then_some(name)
    }

    fn labels_select(
        &mut self,
        at: crate::mistake::Location,
        path: &str,
        wanted: &Labels,
        namespace: &str,
    ) {
        let selected = self.configuration.workloads.iter().any(|item| {
            let Some(workload) = item.get() else {
                return false;
            };
            namespace_of(workload.namespace.as_ref()).as_deref() == Some(namespace)
                && wanted.iter().all(|(key, value)| {
                    workload.labels.0.iter().any(|(own_key, own_value)| {
                        own_key.get().is_some_and(|own| own.0 == *key)
                            && own_value.get().is_some_and(|own| own.0 == *value)
                    })
                })
        });
        if !selected {
            let message = format!("no workload of namespace {namespace} has these labels");
            self.warn(at, path, message, None);
        }
    }

    /// Workloads that a service has in its own namespace, as far as can be read, and whether it has others elsewhere.
    fn workloads_behind(&self, service: &Name) -> (Vec<String>, bool) {
        let mut names = Vec::new();
        let mut elsewhere = false;
        let positions = self.names.services.get(service).into_iter().flatten();
        let services = &self.configuration.services;
        for raw in positions.filter_map(|index| services.get(*index)?.get()) {
            for endpoint in raw.endpoints.iter().filter_map(At::get) {
                let reference = endpoint.workload.as_ref().and_then(At::get);
                let Some(reference) = reference else { continue };
                let name = referred(reference, &service.namespace);
                if name.namespace != service.namespace {
                    elsewhere = true;
                } else if !names.contains(&name.name) {
                    names.push(name.name);
                }
            }
        }
        (names, elsewhere)
    }

    fn policy_fallback(&mut self, index: usize, item: &At<raw::Policy>) -> Fallback {
        let Some(policy) = item.get() else {
            return Fallback::Impossible;
        };
        let Some(namespace) = namespace_of(policy.namespace.as_ref()) else {
            return Fallback::Impossible;
        };
        let dry_run = policy.dry_run.as_ref();
        if dry_run.is_some_and(|dry_run| dry_run.get() == Some(&true)) {
            return Fallback::Nothing;
        }
        // Only if every rule is known to allow is it enough to let nobody in: other policies' rules still count. A rule
        // that may have denied must deny in their place too.
        let only_allows = policy.rules.get().is_some_and(|rules| {
            rules.iter().all(|rule| {
                rule.get()
                    .is_some_and(|rule| rule.action.get() == Some(&raw::Action::Allow))
            })
        });
        let deny_all = Rule {
            name: STAND_IN.to_owned(),
            action: Action::Deny,
            from: Vec::new(),
            ports: Vec::new(),
        };
        Fallback::Policy(PolicySpec {
            name: self.stand_in_name(&policy.name, &namespace, index),
            target: self.fallback_target(policy.target.as_ref(), &namespace),
            dry_run: false,
            rules: if only_allows {
                Vec::new()
            } else {
                vec![deny_all]
            },
        })
    }

    fn exception_fallback(&mut self, index: usize, item: &At<raw::Exception>) -> Fallback {
        let Some(exception) = item.get() else {
            return Fallback::Impossible;
        };
        let Some(namespace) = namespace_of(exception.namespace.as_ref()) else {
            return Fallback::Impossible;
        };
        if exception.mode.get() == Some(&raw::Mode::Permissive) {
            return Fallback::Nothing;
        }
        let listed = exception.ports.as_ref();
        let readable = listed
            .and_then(At::get)
            .filter(|ports| !ports.is_empty() && ports.iter().all(|port| port.get().is_some()));
        let ports = readable.map(|ports| ports.iter().filter_map(|port| Some(port.get()?.0)));
        Fallback::Strict(MtlsSpec {
            name: self.stand_in_name(&exception.name, &namespace, index),
            target: self.fallback_target(exception.target.as_ref(), &namespace),
            ports: ports.map(Iterator::collect).unwrap_or_default(),
            mode: MtlsMode::Strict,
        })
    }

    fn stand_in_name(&self, name: &At<raw::ObjectName>, namespace: &str, index: usize) -> Name {
        let name = name.get().map(|name| name.0.clone());
        Name::new(
            namespace,
            name.unwrap_or_else(|| format!("unnamed-{index}")),
        )
    }

    /// The target if it can be told, else the namespace: whoever was meant is in it.
    fn fallback_target(&mut self, target: Option<&At<raw::Target>>, namespace: &str) -> TargetSpec {
        // The mistakes of the target are noted already.
        let noted = self.mistakes.len();
        let told = self.target(target, namespace, crate::mistake::Location::START);
        self.mistakes.truncate(noted);
        told.unwrap_or(TargetSpec::Namespace)
    }
}
