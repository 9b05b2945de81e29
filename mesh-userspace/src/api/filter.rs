//! Which flows are meant. The agent and `warren flows --input` ask the very same function.
//!
//! Terms about one field are alternatives, terms about different fields must all hold, a negated term must not.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::flow::Flow;

/// A selection of flows.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Filter {
    pub(crate) terms: Vec<Term>,
}

/// One condition.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Term {
    pub(crate) field: Field,
    pub(crate) value: String,
    #[serde(default)]
    pub(crate) negated: bool,
}

/// What a condition is about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Field {
    From,
    To,
    Namespace,
    Workload,
    Service,
    Verdict,
    Reason,
    Direction,
    Transport,
    Port,
}

/// A thing as people name it on the command line: `web`, `web.shop`, `svc/web.shop`, `workload/web-v1.shop`, `ns/shop`,
/// `10.1.0.2`, `10.1.0.0/16`, `10.1.0.2:80`, `spiffe://…`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Noun {
    /// Of either kind.
    Any(NameQuery),
    Service(NameQuery),
    Workload(NameQuery),
    Namespace(String),
    Network(IpNet),
    Socket(SocketAddr),
    Identity(String),
}

/// A name, with its namespace when it was said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NameQuery(pub(crate) String);

/// Why a text names nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{text:?} names nothing: {why}")]
pub(crate) struct InvalidNoun {
    pub(crate) text: String,
    pub(crate) why: String,
}

impl NameQuery {
    /// Whether `full` (`name.namespace`) is meant: in full, or by its name alone.
    pub(crate) fn matches(&self, full: &str) -> bool {
        self.0 == full
            // Names may hold dots themselves; the namespace never does.
            || full.rsplit_once('.').is_some_and(|(name, _)| name == self.0)
    }
}

impl fmt::Display for NameQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Kinds of nouns, with every spelling that is understood.
const KINDS: &[(&str, &[&str])] = &[
    ("service", &["svc", "service", "services"]),
    ("workload", &["workload", "workloads", "wl", "pod", "vm"]),
    ("namespace", &["ns", "namespace", "namespaces"]),
];

impl FromStr for Noun {
    type Err = InvalidNoun;

    fn from_str(text: &str) -> Result<Self, InvalidNoun> {
        let fail = |why: String| InvalidNoun {
            text: text.to_owned(),
            why,
        };
        if text.is_empty() {
            return Err(fail("it is empty".to_owned()));
        }
        if text.starts_with("spiffe://") {
            return Ok(Self::Identity(text.to_owned()));
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self::Socket(socket));
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        let Some((kind, name)) = text.split_once('/') else {
            return Ok(Self::Any(NameQuery(text.to_owned())));
        };
        if name.is_empty() {
            return Err(fail(format!("there is no name after {kind}/")));
        }
        let canonical = KINDS
            .iter()
            .find(|(_, spellings)| spellings.contains(&kind))
            .map(|(canonical, _)| *canonical);
        match canonical {
            Some("service") => Ok(Self::Service(NameQuery(name.to_owned()))),
            Some("workload") => Ok(Self::Workload(NameQuery(name.to_owned()))),
            Some("namespace") => Ok(Self::Namespace(name.to_owned())),
            _ => Err(fail(
                match nearest(kind, KINDS.iter().flat_map(|(_, all)| all.iter().copied())) {
                    Some(near) => format!("there is no kind {kind:?}; did you mean {near}/{name}?"),
                    None => format!("there is no kind {kind:?}; kinds are svc, workload, ns"),
                },
            )),
        }
    }
}

/// The candidate that is most like `text`, if any is like it at all.
pub(crate) fn nearest<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(text, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

impl Term {
    /// Checks a condition, so that a mistake is an error rather than an empty answer.
    ///
    /// # Errors
    /// Says what is wrong with the value.
    pub(crate) fn new(field: Field, value: &str, negated: bool) -> Result<Self, InvalidNoun> {
        let fail = |why: String| InvalidNoun {
            text: value.to_owned(),
            why,
        };
        let one_of = |known: &[&str]| {
            if known.contains(&value) {
                return Ok(());
            }
            let hint = nearest(value, known.iter().copied())
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default();
            Err(fail(format!("it is none of {}{hint}", known.join(", "))))
        };
        match field {
            Field::From | Field::To | Field::Workload | Field::Service => {
                value.parse::<Noun>()?;
            }
            Field::Namespace if value.is_empty() => return Err(fail("it is empty".to_owned())),
            Field::Namespace => {}
            Field::Port => {
                value
                    .parse::<u16>()
                    .map_err(|_wrong| fail("a port is a number from 0 to 65535".to_owned()))?;
            }
            Field::Verdict => one_of(&["allowed", "denied", "failed"])?,
            Field::Direction => one_of(&["outbound", "inbound"])?,
            Field::Transport => one_of(&[
                "none",
                "mutual_tls",
                "mtls",
                "plaintext",
                "itself",
                "kernel",
            ])?,
            Field::Reason => {
                let known: Vec<&str> = mesh_core::outcome::Reason::ALL
                    .iter()
                    .map(|reason| reason.label())
                    .chain(
                        mesh_common::counter::Reason::ALL
                            .iter()
                            .map(|reason| reason.label()),
                    )
                    .collect();
                one_of(&known)?;
            }
        }
        Ok(Self {
            field,
            value: value.to_owned(),
            negated,
        })
    }

    /// Whether the condition, negation aside, holds.
    fn holds(&self, flow: &Flow) -> bool {
        let value = self.value.as_str();
        match self.field {
            Field::From => source_is(flow, value),
            Field::To => destination_is(flow, value),
            Field::Namespace => flow.touches(value),
            Field::Workload => {
                let query = NameQuery(strip_kind(value).to_owned());
                [&flow.source.workload, &flow.destination.workload]
                    .into_iter()
                    .any(|name| named(name.as_deref(), &query))
            }
            Field::Service => named(
                flow.destination.service.as_deref(),
                &NameQuery(strip_kind(value).to_owned()),
            ),
            Field::Verdict => flow.verdict.label() == value,
            // A kernel drop names the kernel's reason as its rule.
            Field::Reason => {
                flow.reason == value
                    || (flow.reason == "kernel" && flow.rule.as_deref() == Some(value))
            }
            Field::Direction => flow.direction.label() == value,
            Field::Transport => flow.transport.label() == value || flow.transport.short() == value,
            Field::Port => [&flow.destination.address, &flow.destination.endpoint]
                .into_iter()
                .filter_map(|address| address.as_deref()?.parse::<SocketAddr>().ok())
                .any(|address| value.parse() == Ok(address.port())),
        }
    }
}

impl Filter {
    /// Whether a flow is meant.
    pub(crate) fn matches(&self, flow: &Flow) -> bool {
        self.terms.iter().all(|term| {
            if term.negated {
                return !term.holds(flow);
            }
            self.terms
                .iter()
                .filter(|other| other.field == term.field && !other.negated)
                .any(|other| other.holds(flow))
        })
    }
}

fn strip_kind(value: &str) -> &str {
    value.split_once('/').map_or(value, |(_, name)| name)
}

fn named(name: Option<&str>, query: &NameQuery) -> bool {
    name.is_some_and(|name| query.matches(name))
}

fn in_namespace(name: Option<&str>, namespace: &str) -> bool {
    name.and_then(|name| name.rsplit_once('.'))
        .is_some_and(|(_, found)| found == namespace)
}

fn source_is(flow: &Flow, value: &str) -> bool {
    let source = &flow.source;
    match value.parse::<Noun>() {
        Ok(Noun::Any(query) | Noun::Workload(query)) => named(source.workload.as_deref(), &query),
        Ok(Noun::Namespace(namespace)) => in_namespace(source.workload.as_deref(), &namespace),
        Ok(Noun::Network(network)) => within(source.address.as_deref(), &network),
        Ok(Noun::Socket(socket)) => at(source.address.as_deref(), socket),
        Ok(Noun::Identity(identity)) => source.identity.as_deref() == Some(&identity),
        Ok(Noun::Service(_)) | Err(_) => false,
    }
}

fn destination_is(flow: &Flow, value: &str) -> bool {
    let destination = &flow.destination;
    let addresses = [&destination.address, &destination.endpoint];
    match value.parse::<Noun>() {
        Ok(Noun::Any(query)) => {
            named(destination.service.as_deref(), &query)
                || named(destination.workload.as_deref(), &query)
        }
        Ok(Noun::Service(query)) => named(destination.service.as_deref(), &query),
        Ok(Noun::Workload(query)) => named(destination.workload.as_deref(), &query),
        Ok(Noun::Namespace(namespace)) => [&destination.workload, &destination.service]
            .into_iter()
            .any(|name| in_namespace(name.as_deref(), &namespace)),
        Ok(Noun::Network(network)) => addresses
            .into_iter()
            .any(|address| within(address.as_deref(), &network)),
        Ok(Noun::Socket(socket)) => addresses
            .into_iter()
            .any(|address| at(address.as_deref(), socket)),
        Ok(Noun::Identity(identity)) => destination.identity.as_deref() == Some(&identity),
        Err(_) => false,
    }
}

fn within(address: Option<&str>, network: &IpNet) -> bool {
    address
        .and_then(|text| text.parse::<SocketAddr>().ok())
        .is_some_and(|address| network.contains(&address.ip()))
}

fn at(address: Option<&str>, socket: SocketAddr) -> bool {
    address.and_then(|text| text.parse().ok()) == Some(socket)
}
