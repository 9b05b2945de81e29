//! A configuration file, watched.

use std::sync::Arc;

use mesh_control::mistake::Severity;
use mesh_control::report::Report;
use mesh_control::source::Applied;
use mesh_control::source::file::{FileSource, SourceError};
use tokio::sync::watch;

use crate::agent::AgentError;
use crate::agent::config::{Change, Configuration, Problems};
use crate::agent::options::host_name;
use crate::api::objects::ConfigurationProblem;

/// Mistakes that people are shown; a file can have one per line.
const SHOWN: usize = 100;

/// The file.
#[derive(Debug)]
pub(crate) struct Watched {
    changes: watch::Receiver<Arc<Applied>>,
    generation: u64,
    /// Watches for as long as it is held.
    _file: FileSource,
}

impl Watched {
    /// Reads the file, which must apply, and watches it. Gives the node's name, too.
    pub(crate) fn open(
        file: &std::path::Path,
        name: Option<String>,
    ) -> Result<(Self, String, Configuration), AgentError> {
        let file = FileSource::start(file, name, &host_name()).map_err(|error| match error {
            SourceError::Rejected { report } => AgentError::Configuration {
                report: report.to_string(),
            },
            error => AgentError::Source(error),
        })?;
        let mut changes = file.subscribe();
        let applied = Arc::clone(&changes.borrow_and_update());
        let source = Self {
            changes,
            generation: applied.generation,
            _file: file,
        };
        Ok((source, applied.node.to_string(), configuration(&applied)))
    }

    /// The next change; never ends while the file is watched. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Change> {
        self.changes.changed().await.ok()?;
        let applied = Arc::clone(&self.changes.borrow_and_update());
        if applied.generation == self.generation {
            return Some(Change::Said {
                problems: problems(&applied),
                current: true,
                generation: 0,
            });
        }
        self.generation = applied.generation;
        Some(Change::Applies(Box::new(configuration(&applied))))
    }
}

fn configuration(applied: &Applied) -> Configuration {
    let world = (*applied.world).clone();
    let objects = Arc::clone(&applied.objects);
    let mut configuration = Configuration::new(&applied.node, objects, world);
    configuration.problems = problems(applied);
    configuration
}

/// The mistakes for people, and how many objects do not apply (a file that does not apply counts as one).
fn problems(applied: &Applied) -> Problems {
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
    Problems {
        list: problems,
        rejected,
    }
}
