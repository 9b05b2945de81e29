//! The mesh is opened before everything is taken away, so that it makes no difference who leaves first: a dial from a
//! workload that has left to one that has not would be refused for coming in clear, and the other way round there would be no
//! tunnel to join. The nodes of a cluster are opened all before the first is uninstalled.
//!
//! Open means that nobody is refused, not that anything goes in clear that went encrypted. It ends by itself when no uninstall
//! follows: a mesh must not stay open because somebody has changed their mind.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use mesh_core::policy::MtlsMode;
use mesh_core::snapshot::World;
use tokio::sync::oneshot;

use super::Node;
use crate::api::objects::Problem;

/// How long the worker may take to apply the open world.
const PATIENCE: Duration = Duration::from_secs(1);

/// Nobody has a mesh open for longer, whatever is asked for.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// The mesh is open, for an uninstall that was announced.
#[derive(Debug)]
pub(super) struct Open {
    /// The open world.
    generation: u64,
    /// When it is taken for applied, whatever the worker says.
    patience_ends: Instant,
    /// `None`: the uninstall goes on.
    closes_at: Option<Instant>,
    /// Who is told once it is applied.
    waiting: Vec<oneshot::Sender<Result<(), Problem>>>,
}

impl Node {
    /// Opens the mesh, for an uninstall that goes on, or one that was announced and must follow within a time. Tells who waits for
    /// it, if anybody.
    pub(super) fn open(
        &mut self,
        within: Option<Duration>,
        answer: Option<oneshot::Sender<Result<(), Problem>>>,
    ) {
        let now = Instant::now();
        // What has begun closes no more.
        let goes_on = self.state.opening.is_some() || self.state.ending.is_some();
        let within = within
            .filter(|_| !goes_on)
            .map(|within| within.min(LONGEST));
        if let Some(within) = within {
            tracing::warn!(
                seconds = within.as_secs(),
                "an uninstall is announced: until then, or until this time is over, nobody is refused"
            );
        }
        self.view.state().open_until =
            within.and_then(|within| Timestamp::now().checked_add(within).ok());
        let closes_at = within.map(|within| now + within);
        if let Some(open) = &mut self.state.open {
            open.closes_at = closes_at;
            open.waiting.extend(answer);
            return;
        }
        self.state.open = Some(Open {
            generation: self.state.generation + 1,
            patience_ends: now + PATIENCE,
            closes_at,
            waiting: answer.into_iter().collect(),
        });
        self.publish();
    }

    /// Tells who waits; closes the mesh again when nothing followed.
    pub(super) fn tend_open(&mut self, now: Instant) {
        let is_open = self.is_open(now);
        let Some(open) = &mut self.state.open else {
            return;
        };
        if is_open {
            for answer in open.waiting.drain(..) {
                // An error says that nobody waits any more.
                answer.send(Ok(())).unwrap_or_default();
            }
        }
        if open.closes_at.is_some_and(|closes_at| now >= closes_at) {
            tracing::warn!("no uninstall has followed: policies and strict mode hold again");
            self.state.open = None;
            self.view.state().open_until = None;
            self.publish();
        }
    }

    /// Whether the open world is applied, as far as anybody can tell.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        let Some(open) = &self.state.open else {
            return false;
        };
        let applied = self.view.state().configuration.applied_generation;
        let waits = self.state.worker.is_some() && applied < open.generation;
        !waits || now >= open.patience_ends
    }

    /// A world as it is to be published now.
    pub(super) fn as_open(&self, world: World) -> World {
        match self.state.open.is_some() {
            true => opened(world),
            false => world,
        }
    }
}

/// The world in which nobody is refused.
fn opened(mut world: World) -> World {
    world.default_mtls = MtlsMode::Permissive;
    world.mtls.clear();
    world.policies.clear();
    world
}
