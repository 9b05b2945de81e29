//! Raw configuration → checked objects, with every mistake at once. It knows what objects mean to each other; it knows
//! nothing of files, and does not decide what becomes of the place of a rejected object ([`crate::reconcile`]).

mod names;
mod policies;
mod routes;
mod services;
mod settings;
mod workloads;

use std::collections::{BTreeMap, HashSet};

use mesh_core::workload::{Labels, Name};

use crate::located::{At, Entries};
use crate::mistake::{Location, Mistake, Severity};
use crate::objects::{MtlsSpec, Objects, PolicySpec};
use crate::raw::{Configuration, LabelKey, LabelValue, ObjectName, Port};

use names::Names;
pub(crate) use policies::Fallback;

/// The namespace of an object that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// What was found in a file.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The good objects.
    pub(crate) objects: Objects,
    /// The file as a whole cannot be applied.
    pub(crate) unusable: bool,
    /// Objects that are not among the good ones.
    pub(crate) bad: Vec<Bad>,
}

/// An object that cannot be applied.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) kind: Kind,
    pub(crate) path: String,
    /// Unknown when it is the name that is wrong.
    pub(crate) name: Option<Name>,
    /// What takes its place, for objects whose absence would make something more open.
    pub(crate) fallback: Option<Fallback>,
}

/// Kinds of object.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A workload.
    Workload,
    /// A service.
    Service,
    /// A route.
    Route,
    /// An authorization policy.
    Policy,
    /// An exception from the default mode of mutual TLS.
    MtlsException,
}

impl Kind {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Service => "service",
            Self::Route => "route",
            Self::Policy => "policy",
            Self::MtlsException => "mtls exception",
        }
    }
}

/// Checks a configuration as the node `node` sees it. Mistakes found by reading are among `mistakes` already.
pub(crate) fn check(
    configuration: &Configuration,
    node: Option<&str>,
    mistakes: &mut Vec<Mistake>,
) -> Checked {
    let own_node = node.map(str::to_owned).or_else(|| {
        let node = configuration.node.as_ref()?.get()?;
        Some(node.name.as_ref()?.get()?.0.clone())
    });
    let mut checker = Checker {
        configuration,
        own_node,
        names: Names::of(configuration),
        broken: mistakes.iter().filter_map(broken_object).collect(),
        mistakes,
    };
    let settings = checker.settings();
    let mut bad = Vec::new();
    let mut objects = Objects {
        settings,
        default_mtls: checker.default_mtls(),
        ..Objects::default()
    };
    objects.workloads = checker.workloads(&objects.settings, &mut bad);
    objects.services = checker.services(&objects.settings, &mut bad);
    objects.routes = checker.routes(&objects.services, &mut bad);
    let policies: Vec<PolicySpec> = checker.policies(&mut bad);
    let exceptions: Vec<MtlsSpec> = checker.exceptions(&mut bad);
    objects.policies = policies;
    objects.mtls = exceptions;
    let unusable = checker.unusable(&bad);
    Checked {
        objects,
        unusable,
        bad,
    }
}

/// The path of the object in which an error is, e.g. `services[2]`, `mtls.exceptions[0]`; `None` for warnings and for what is
/// in no object.
fn broken_object(mistake: &Mistake) -> Option<String> {
    if mistake.severity != Severity::Error {
        return None;
    }
    let (list, rest) = mistake.path.split_once('[')?;
    let (index, _) = rest.split_once(']')?;
    let is_object = matches!(
        list,
        "workloads" | "services" | "routes" | "policies" | "mtls.exceptions"
    );
    is_object.then(|| format!("{list}[{index}]"))
}

struct Checker<'c> {
    configuration: &'c Configuration,
    own_node: Option<String>,
    names: Names,
    mistakes: &'c mut Vec<Mistake>,
    /// Paths of objects with errors.
    broken: HashSet<String>,
}

impl Checker<'_> {
    fn error(&mut self, at: Location, path: &str, message: String, suggestion: Option<String>) {
        self.note(Mistake::error(at, path, message).suggest(suggestion));
    }

    fn warn(&mut self, at: Location, path: &str, message: String, suggestion: Option<String>) {
        self.note(Mistake::warning(at, path, message).suggest(suggestion));
    }

    fn note(&mut self, mistake: Mistake) {
        self.broken.extend(broken_object(&mistake));
        self.mistakes.push(mistake);
    }

    fn is_broken(&self, path: &str) -> bool {
        self.broken.contains(path)
    }

    fn is_broken_within(&self, path: &str) -> bool {
        let object = path.split_once(']').map(|(object, _)| format!("{object}]"));
        object.is_some_and(|object| self.is_broken(&object))
    }

    /// An error outside of every object, or an object that cannot be left out without making something more open and does
    /// not even say for which namespace, makes the file unusable as a whole.
    fn unusable(&self, bad: &[Bad]) -> bool {
        let header = self
            .mistakes
            .iter()
            .any(|mistake| mistake.severity == Severity::Error && broken_object(mistake).is_none());
        header
            || bad
                .iter()
                .any(|bad| matches!(bad.fallback, Some(Fallback::Impossible)))
    }

    /// The full name of an object, if its parts could be read.
    fn name(&self, name: &At<ObjectName>, namespace: Option<&At<ObjectName>>) -> Option<Name> {
        full_name(name, namespace)
    }

    /// Notes a name that an earlier object of the kind has.
    fn unique(&mut self, kind: Kind, name: Option<&Name>, index: usize, at: &At<ObjectName>) {
        let Some(name) = name else {
            return;
        };
        if let Some((first, line)) = self.names.first(kind, name)
            && first != index
        {
            self.error(
                at.at,
                &at.path,
                format!(
                    "{} {name} is given twice; the first is at line {line}",
                    kind.word()
                ),
                None,
            );
        }
    }

    fn at_most(&mut self, count: usize, most: usize, at: Location, path: &str, what: &str) {
        if count > most {
            self.error(
                at,
                path,
                format!("{count} {what}, but at most {most} are allowed"),
                None,
            );
        }
    }

    fn labels(&mut self, entries: &Entries<LabelKey, At<LabelValue>>) -> Labels {
        if let Some((first, _)) = entries.0.first() {
            let (path, _) = first.path.rsplit_once(['.', '[']).unwrap_or(("", ""));
            self.at_most(entries.0.len(), 64, first.at, path, "labels");
        }
        entries
            .0
            .iter()
            .filter_map(|(key, value)| Some((key.get()?.0.clone(), value.get()?.0.clone())))
            .collect()
    }

    /// Ports without those that could not be read; doubles are noted.
    fn ports(&mut self, ports: &[At<Port>]) -> Vec<u16> {
        if let Some(first) = ports.first() {
            let path = first.path.trim_end_matches("[0]").to_owned();
            self.at_most(ports.len(), 256, first.at, &path, "ports");
        }
        let mut seen = BTreeMap::new();
        let mut numbers = Vec::with_capacity(ports.len());
        for port in ports {
            let Some(Port(number)) = port.get() else {
                continue;
            };
            if seen.insert(*number, ()).is_some() {
                let message = format!("port {number} is given twice");
                self.error(port.at, &port.path, message, None);
            } else {
                numbers.push(*number);
            }
        }
        numbers
    }
}

/// The full name of an object, if its parts could be read.
pub(crate) fn full_name(name: &At<ObjectName>, namespace: Option<&At<ObjectName>>) -> Option<Name> {
    let namespace = namespace_of(namespace)?;
    Some(Name::new(namespace, name.get()?.0.clone()))
}

/// The namespace of an object, if it could be read.
pub(crate) fn namespace_of(namespace: Option<&At<ObjectName>>) -> Option<String> {
    match namespace {
        None => Some(DEFAULT_NAMESPACE.to_owned()),
        Some(namespace) => Some(namespace.get()?.0.clone()),
    }
}
