//! What the controller tells, as a configuration.

use std::sync::Arc;
use std::time::Duration;

use mesh_control::facts::Fact;
use mesh_control::objects::Objects;
use mesh_distribution::node::{Known, Link};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::config::{Change, Configuration, Problems};
use crate::api::objects::ConfigurationProblem;
use crate::cni::namespaces::{Entry, Namespaces};

/// Changes come one pod at a time, and each costs as much as the whole world is large: at most a fifth of the time goes
/// into them …
const SHARE: u32 = 5;

/// … but none waits for longer than this.
const LONGEST: Duration = Duration::from_secs(1);

/// The controller's world, followed.
#[derive(Debug)]
pub(crate) struct Followed {
    known: watch::Receiver<Known>,
    node: Arc<str>,
    /// What was given out last.
    revision: u64,
    said: (Problems, bool, u64),
    not_before: Instant,
}

impl Followed {
    /// Begins with what is known now.
    pub(crate) fn begin(
        mut known: watch::Receiver<Known>,
        node: Arc<str>,
    ) -> (Self, Configuration) {
        let now = known.borrow_and_update().clone();
        let mut followed = Self {
            known,
            node,
            revision: now.revision,
            said: Default::default(),
            not_before: Instant::now(),
        };
        let configuration = followed.configuration(&now);
        (followed, configuration)
    }

    /// The next change; never ends while the subscription lives. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Change> {
        loop {
            tokio::time::sleep_until(self.not_before).await;
            let now = self.known.borrow_and_update().clone();
            if now.revision != self.revision {
                self.revision = now.revision;
                return Some(Change::Applies(Box::new(self.configuration(&now))));
            }
            let said = (problems(&now), is_current(&now), generation(&now));
            if said != self.said {
                self.said = said.clone();
                let (problems, current, generation) = said;
                return Some(Change::Said {
                    problems,
                    current,
                    generation,
                });
            }
            self.known.changed().await.ok()?;
        }
    }

    fn configuration(&mut self, now: &Known) -> Configuration {
        let begun = Instant::now();
        let objects = Arc::new(Objects::from_facts(now.facts.iter()));
        let world = objects.world(now.revision, &self.node, &Default::default());
        let (problems, current, generation) = (problems(now), is_current(now), generation(now));
        let mut configuration = Configuration::new(&self.node, objects, world);
        configuration.namespaces = namespaces(now);
        configuration.problems.clone_from(&problems);
        configuration.current = current;
        configuration.generation = generation;
        self.said = (problems, current, generation);
        self.not_before = Instant::now() + (begun.elapsed() * SHARE).min(LONGEST);
        configuration
    }
}

fn is_current(known: &Known) -> bool {
    matches!(known.link, Link::Current { .. })
}

fn generation(known: &Known) -> u64 {
    known.generation.unwrap_or_default()
}

fn namespaces(known: &Known) -> Namespaces {
    Namespaces::new(known.facts.iter().filter_map(|fact| match fact {
        Fact::Namespace(spec) => {
            let entry = Entry {
                meshed: spec.meshed,
                pods_opt_in: spec.pods_opt_in,
            };
            Some((spec.name.clone(), entry))
        }
        _ => None,
    }))
}

/// What is to be said: about the link, and about facts that this release cannot read.
fn problems(known: &Known) -> Problems {
    let warning = |message: String| ConfigurationProblem {
        severity: "warning".to_owned(),
        message,
    };
    let away = match &known.link {
        Link::Broken { why, .. } => Some(warning(format!(
            "the controller does not answer ({why}); what it said last stays, and new pods of namespaces in the mesh wait"
        ))),
        Link::None | Link::Current { .. } | Link::CatchingUp { .. } => None,
    };
    let unreadable = known.problems.iter().map(|problem| ConfigurationProblem {
        severity: "error".to_owned(),
        message: problem.clone(),
    });
    Problems {
        rejected: known.problems.len(),
        list: away.into_iter().chain(unreadable).collect(),
    }
}
