//! The whole of a node's relation to its controllers: connection after connection, with pauses, and what is known meanwhile.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::backoff::Backoff;
use super::cache::{self, Cache, Loaded};
use super::calls::{self, CallError, Certified, Signing};
use super::following::{Ended, follow};
use super::outbox::Outbox;
use super::{Connect, Known, Link};
use crate::channel::Channel;
use crate::gatekeeper::{Found, Pod};
use crate::hub::NodeReport;
use crate::question::Answers;

/// What a node needs to follow its controllers.
pub struct Options {
    /// Its name: whose the file on disk has to be. The controller knows it by its certificate.
    pub node: String,
    /// Its release.
    pub version: String,
    /// Makes connections.
    pub connect: Arc<dyn Connect>,
    /// Where the last good world is kept; `None`: nowhere.
    pub cache: Option<PathBuf>,
    /// Who answers questions.
    pub answers: Arc<dyn Answers>,
}

/// A node that follows its controllers. It is over when this is dropped; [`Subscription::stop`] also waits for the disk.
pub struct Subscription {
    shared: Arc<Shared>,
    known: watch::Receiver<Known>,
    following: JoinHandle<()>,
    keeping: Option<JoinHandle<()>>,
}

pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) known: watch::Sender<Known>,
    /// A new connection is wanted.
    pub(super) renew: Notify,
    current: Mutex<Current>,
}

/// The connection there is.
#[derive(Default)]
struct Current {
    channel: Option<Channel>,
    outbox: Option<Outbox>,
    report: Option<NodeReport>,
}

impl Subscription {
    /// Reads the last good world and begins to look for a controller.
    pub fn start(options: Options) -> Self {
        let cache = options.cache.as_ref().map(|path| Cache {
            path: path.clone(),
            node: options.node.clone(),
            version: options.version.clone(),
        });
        let loaded = cache.as_ref().map(Cache::load).unwrap_or_default();
        let (sender, known) = watch::channel(from_disk(loaded));
        let keeping = cache.map(|cache| tokio::spawn(cache::keep(cache, known.clone())));
        let shared = Arc::new(Shared {
            options,
            known: sender,
            renew: Notify::new(),
            current: Mutex::default(),
        });
        let following = tokio::spawn(run(shared.clone()));
        Self {
            shared,
            known,
            following,
            keeping,
        }
    }

    /// What is known, now and whenever it changes.
    pub fn known(&self) -> watch::Receiver<Known> {
        self.known.clone()
    }

    /// Certificates for workloads of this node, in the order in which they are wanted.
    ///
    /// # Errors
    /// No controller answers. One that is refused is refused in its place.
    pub async fn sign(&self, signings: Vec<Signing>) -> Result<Vec<Certified>, CallError> {
        calls::sign(&self.channel()?, signings).await
    }

    /// Whether a pod that is about to start on this node is of the mesh.
    ///
    /// # Errors
    /// No controller answers, or it refuses.
    pub async fn find_pod(&self, pod: Pod) -> Result<Found, CallError> {
        calls::find_pod(&self.channel()?, pod).await
    }

    /// Tells the controller how the node is, now and whenever it finds another one.
    pub fn report(&self, report: NodeReport) {
        let mut current = self.shared.current();
        if let Some(outbox) = &current.outbox {
            outbox.report(report.to_wire());
        }
        current.report = Some(report);
    }

    /// Makes a new connection in place of the one there is, as after the node's certificate was renewed: a connection ends
    /// with the certificate that it was made with.
    pub fn reconnect(&self) {
        self.shared.renew.notify_one();
    }

    /// Ends it. What is known is on disk afterwards.
    pub async fn stop(mut self) {
        self.shared.say_goodbye();
        self.following.abort();
        let keeping = self.keeping.take();
        // The last sender: whoever keeps the world on disk writes it and ends.
        drop(self);
        if let Some(keeping) = keeping
            && let Err(error) = keeping.await
        {
            tracing::warn!(%error, "keeping the last good world failed");
        }
    }

    fn channel(&self) -> Result<Channel, CallError> {
        let channel = self.shared.current().channel.clone();
        let channel = channel.filter(|channel| !channel.is_over());
        channel.ok_or_else(|| CallError::NotConnected {
            why: match &self.known.borrow().link {
                Link::Broken { why, .. } => why.clone(),
                Link::None | Link::Current { .. } | Link::CatchingUp { .. } => {
                    "the connection is being made".to_owned()
                }
            },
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Shared {
    pub(super) fn connected(&self, channel: Channel, outbox: Outbox) {
        let mut current = self.current();
        if let Some(report) = &current.report {
            // Which generation applies was said of another hub's.
            let report = NodeReport {
                applied: 0,
                ..report.clone()
            };
            outbox.report(report.to_wire());
        }
        current.channel = Some(channel);
        current.outbox = Some(outbox);
    }

    pub(super) fn disconnected(&self) {
        let mut current = self.current();
        current.channel = None;
        current.outbox = None;
    }

    fn say_goodbye(&self) {
        if let Some(outbox) = &self.current().outbox {
            outbox.close();
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, why: String) {
        tracing::warn!(why, "no connection to the controller");
        self.known.send_modify(|known| {
            let since = match &known.link {
                Link::Broken { since, .. } => *since,
                Link::None | Link::Current { .. } | Link::CatchingUp { .. } => SystemTime::now(),
            };
            known.generation = None;
            known.link = Link::Broken { since, why };
        });
    }
}

fn from_disk(loaded: Loaded) -> Known {
    let Loaded {
        facts,
        bundle,
        written,
        problem,
    } = loaded;
    if let Some(problem) = &problem {
        tracing::warn!("{problem}");
    }
    let problems = problem.into_iter().chain(facts.problems()).collect();
    Known {
        revision: u64::from(!facts.is_empty()),
        facts: facts.into(),
        generation: None,
        bundle,
        link: Link::None,
        cached: written,
        problems,
    }
}

/// Connection after connection.
async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    loop {
        let ended = match shared.options.connect.connect().await {
            Err(why) => Ended::Failed(why),
            Ok(connection) => follow(&shared, connection).await,
        };
        let chance = rand::random();
        let pause = match ended {
            Ended::Renewed => continue,
            Ended::Left(why) => {
                shared.broken(why);
                backoff.after_success(chance)
            }
            Ended::Failed(why) => {
                shared.broken(why);
                backoff.after_failure(chance)
            }
        };
        tokio::time::sleep(pause).await;
    }
}
