//! How a node ends: its worker goes on, for the next agent to replace; or drains; or everything is taken away. But for
//! the last, what is in the kernel stays.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_proxy::link::ToWorker;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::oneshot;

use super::{Node, demand};
use crate::agent::supervise::{Outgoing, chain};
use crate::agent::view::HandedOver;
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
    /// The next agent, when it is there already and waits for the node.
    pub(crate) successor: Option<HandedOver>,
}

impl Ending {
    /// The agent goes, and nothing else.
    pub(super) fn leave() -> Self {
        Self::new(Duration::ZERO, None)
    }

    /// The agent goes at once; the next one waits for it.
    pub(super) fn hand_over(successor: HandedOver) -> Self {
        Self {
            successor: Some(successor),
            ..Self::leave()
        }
    }

    /// The agent stops once its worker has drained; capture stays.
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
            successor: None,
        }
    }
}

/// Everything is about to be taken away: first the mesh is opened, see [`super::open`].
#[derive(Debug)]
pub(super) struct Opening {
    answer: oneshot::Sender<Result<Vec<String>, Problem>>,
    /// When the dials that were on their way have arrived; `None`: dials are still captured.
    settled_at: Option<Instant>,
}

impl Opening {
    /// How long a dial that was captured may take to arrive.
    const SETTLE: Duration = Duration::from_millis(300);
}

impl Node {
    /// Begins to take everything away.
    pub(super) fn uninstall(&mut self, answer: oneshot::Sender<Result<Vec<String>, Problem>>) {
        if self.state.opening.is_some() || self.state.ending.is_some() {
            let problem = Problem::new("the agent is ending already");
            // An error says that nobody waits any more.
            answer.send(Err(problem)).unwrap_or_default();
            return;
        }
        tracing::info!("uninstalling");
        self.state.opening = Some(Opening {
            answer,
            settled_at: None,
        });
        self.open(None, None);
    }

    /// Goes on with taking everything away: first dials are captured no longer, then everybody leaves.
    pub(super) fn tend_uninstall(&mut self, now: Instant) {
        let is_open = self.is_open(now);
        let Some(opening) = &mut self.state.opening else {
            return;
        };
        match opening.settled_at {
            None => {
                if !is_open {
                    return;
                }
                opening.settled_at = Some(now + Opening::SETTLE);
                if let Err(error) = self.kernel.set_destinations(&BTreeMap::new()) {
                    tracing::warn!(
                        error = chain(&error),
                        "dials are captured until their workload leaves"
                    );
                }
            }
            Some(settled_at) if now < settled_at => {}
            Some(_) => {
                let Some(Opening { answer, .. }) = self.state.opening.take() else {
                    return;
                };
                self.enrolling(|enrolments, cx| enrolments.leave_all(cx));
                self.end(Ending::uninstall(self.configuration.drain, answer));
            }
        }
    }

    /// Nobody looks after the CNI plugin any more, so that it can be taken away.
    pub(crate) fn keep_plugin_no_longer(&mut self) {
        self.cluster = None;
    }

    /// Prepares the worker for a time without an agent: what it would ask for in that time is given now.
    pub(super) async fn leave(&mut self) {
        let Some(worker) = &self.state.worker else {
            return;
        };
        let away = match self.cluster {
            Some(_) => demand::REPLACEMENT,
            None => demand::RESTART,
        };
        // The worker's limit is the agent's.
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(limit, _)| limit);
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let given = self.state.demand.in_advance(Instant::now(), away, files);
        for (workload, kind, count) in given {
            self.give_sockets(workload, kind, count);
        }
        let (done, flushed) = oneshot::channel();
        worker.say(Outgoing::HangUp(done));
        match tokio::time::timeout(GRACE, flushed).await {
            Ok(Ok(())) => tracing::info!(pid = worker.pid, "ending; the worker goes on"),
            Ok(Err(_)) | Err(_) => tracing::warn!(
                pid = worker.pid,
                "ending; the worker goes on, but takes no sockets"
            ),
        }
    }

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
