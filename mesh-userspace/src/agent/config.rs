//! From the file source to what the agent acts on: the workloads of this node, the world, and the mistakes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_control::mistake::Severity;
use mesh_control::objects::{LocalWorkloadSpec, Selector as Selected};
use mesh_control::report::Report;
use mesh_control::source::Applied;
use mesh_control::source::file::{FileSource, SourceError};
use mesh_core::identity::TrustDomain;
use mesh_core::policy::{MtlsMode, mtls_mode};
use mesh_core::snapshot::{Snapshot, World};
use mesh_core::workload::Name;
use mesh_kernel::{GuardMode, Udp};
use tokio::sync::watch;

use super::AgentError;
use super::enrol::Wanted;
use super::options::{Options, host_name};
use super::select::Selector;
use crate::api::objects::ConfigurationProblem;

/// Mistakes that people are shown; a file can have one per line.
const SHOWN: usize = 100;

/// A configuration that applies.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) identity_directory: PathBuf,
    pub(crate) certificate_lifetime: Duration,
    pub(crate) drain: Duration,
    pub(crate) tunnel_port: u16,
    /// The workloads of this node.
    pub(crate) wanted: Vec<Wanted>,
    applied: Arc<Applied>,
}

/// What became of a file that changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// Another configuration applies.
    Applies(Box<Configuration>),
    /// The same applies, but something else is to be said about the file.
    Said(Arc<Applied>),
}

/// The configuration file, watched.
#[derive(Debug)]
pub(crate) struct Source {
    changes: watch::Receiver<Arc<Applied>>,
    generation: u64,
    /// Watches for as long as it is held.
    _file: FileSource,
}

impl Source {
    /// Reads the file, which must apply, and watches it. Gives the node's name, too.
    pub(crate) fn open(options: &Options) -> Result<(Self, String, Configuration), AgentError> {
        let file = FileSource::start(&options.file, options.name.clone(), &host_name()).map_err(
            |error| match error {
                SourceError::Rejected { report } => AgentError::Configuration {
                    report: report.to_string(),
                },
                error => AgentError::Source(error),
            },
        )?;
        let mut changes = file.subscribe();
        let applied = Arc::clone(&changes.borrow_and_update());
        let source = Self {
            changes,
            generation: applied.generation,
            _file: file,
        };
        Ok((source, applied.node.to_string(), Configuration::of(applied)))
    }

    /// The next change; never ends while the file is watched. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Change> {
        self.changes.changed().await.ok()?;
        let applied = Arc::clone(&self.changes.borrow_and_update());
        if applied.generation == self.generation {
            return Some(Change::Said(applied));
        }
        self.generation = applied.generation;
        Some(Change::Applies(Box::new(Configuration::of(applied))))
    }
}

impl Configuration {
    fn of(applied: Arc<Applied>) -> Self {
        let settings = applied.settings.clone();
        let snapshot = Snapshot::new((*applied.world).clone());
        Self {
            trust_domain: settings.trust_domain,
            identity_directory: settings.authority_directory,
            certificate_lifetime: settings.certificate_lifetime,
            drain: settings.drain,
            tunnel_port: settings.tunnel_port,
            wanted: applied
                .local
                .iter()
                .map(|spec| wanted(spec, &snapshot))
                .collect(),
            applied,
        }
    }

    /// The world, with the addresses that were found for this node's workloads.
    pub(crate) fn world(&self, generation: u64, found: &BTreeMap<Name, Vec<IpAddr>>) -> World {
        World {
            generation,
            ..self.applied.world_with(found)
        }
    }

    /// What is to be said about the file.
    pub(crate) fn problems(&self) -> (Vec<ConfigurationProblem>, usize) {
        problems(&self.applied)
    }
}

fn wanted(spec: &LocalWorkloadSpec, snapshot: &Snapshot) -> Wanted {
    let LocalWorkloadSpec {
        name,
        identity,
        addresses,
        ports,
        labels: _,
        select,
        udp,
    } = spec.clone();
    // The mode of the workload as a whole: an exception for single ports is about what arrives there.
    let mode = snapshot
        .workload(&name)
        .map_or(snapshot.world.default_mtls, |workload| {
            mtls_mode(snapshot, workload, 0).0
        });
    Wanted {
        name,
        identity,
        selector: match select {
            Selected::NetworkNamespace(path) => Selector::NetworkNamespace(path),
            Selected::Container(container) => Selector::container(container),
            Selected::Cgroup(path) => Selector::Cgroup(path),
            Selected::Pod { uid } => Selector::Pod(uid),
        },
        addresses,
        ports,
        mode: match mode {
            MtlsMode::Strict => GuardMode::Strict,
            MtlsMode::Permissive => GuardMode::Permissive,
        },
        udp: if udp { Udp::Allow } else { Udp::Deny },
    }
}

/// The mistakes for people, and how many objects do not apply (a file that does not apply counts as one).
pub(crate) fn problems(applied: &Applied) -> (Vec<ConfigurationProblem>, usize) {
    let report: &Report = &applied.report;
    let problem = |severity: &str, message: String| ConfigurationProblem {
        severity: severity.to_owned(),
        message,
    };
    let mut problems = Vec::new();
    let mut rejected = report.rejected.len();
    if let Some(why) = &applied.unreadable {
        problems.push(problem(
            "error",
            format!("{why}; what applied before stays"),
        ));
        rejected += 1;
    } else if !report.usable {
        problems.push(problem(
            "error",
            format!("{}; what applied before stays", report.summary()),
        ));
        rejected += 1;
    }
    for mistake in report.mistakes.iter().take(SHOWN) {
        let severity = match mistake.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        problems.push(problem(
            severity,
            format!("{}:{mistake}", report.file.display()),
        ));
    }
    for object in report.rejected.iter().take(SHOWN) {
        let name = object
            .name
            .as_ref()
            .map(|name| format!(" {name}"))
            .unwrap_or_default();
        let kind = object.kind.word();
        let what = format!(
            "{kind}{name} ({}) is rejected: {}",
            object.path, object.consequence
        );
        problems.push(problem("error", what));
    }
    (problems, rejected)
}
