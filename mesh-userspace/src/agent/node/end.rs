//! How a node ends: its worker drains, what is in the kernel stays; or everything is taken away.

use std::time::{Duration, Instant};

use mesh_proxy::link::ToWorker;
use tokio::sync::oneshot;

use super::Node;
use crate::agent::supervise::Outgoing;
use crate::api::objects::Problem;

/// The longest that an uninstall waits for connections: whoever asks for it waits too.
const UNINSTALL_DRAIN: Duration = Duration::from_secs(5);

/// From the worker's own deadline to the end of our patience.
const GRACE: Duration = Duration::from_secs(2);

/// An end that was asked for.
#[derive(Debug)]
pub(crate) struct Ending {
    drain: Duration,
    patience_ends: Instant,
    /// Who waits for everything to be taken away; `None`: it stays in the kernel, for the next agent.
    pub(crate) uninstall: Option<oneshot::Sender<Result<Vec<String>, Problem>>>,
}

impl Ending {
    /// The agent stops; capture stays.
    pub(super) fn stop(drain: Duration) -> Self {
        Self::new(drain, None)
    }

    /// Everything is taken away.
    pub(super) fn uninstall(
        drain: Duration,
        answer: oneshot::Sender<Result<Vec<String>, Problem>>,
    ) -> Self {
        Self::new(drain.min(UNINSTALL_DRAIN), Some(answer))
    }

    fn new(
        drain: Duration,
        uninstall: Option<oneshot::Sender<Result<Vec<String>, Problem>>>,
    ) -> Self {
        Self {
            drain,
            patience_ends: Instant::now() + drain + GRACE,
            uninstall,
        }
    }
}

impl Node {
    /// Begins to end; asked a second time, ends at once.
    pub(super) fn end(&mut self, ending: Ending) {
        if let Some(before) = &mut self.state.ending {
            tracing::info!("told to end again: at once");
            before.patience_ends = Instant::now();
            return;
        }
        tracing::info!(deadline = ?ending.drain, "ending: the worker drains");
        self.view.state().ending = true;
        self.state.start_at = None;
        self.say(Outgoing::Message(
            ToWorker::Drain {
                deadline: ending.drain,
            },
            Vec::new(),
        ));
        self.state.ending = Some(ending);
    }

    /// The end, once the worker is gone. One that does not go is ended.
    pub(super) fn ended(&mut self) -> Option<Ending> {
        let ending = self.state.ending.as_mut()?;
        if let Some(worker) = &mut self.state.worker {
            if Instant::now() >= ending.patience_ends {
                worker.kill();
            }
            return None;
        }
        let ending = self.state.ending.take()?;
        if ending.uninstall.is_some() {
            self.enrolling(|enrolments, cx| enrolments.release_all(cx));
        }
        Some(ending)
    }
}
