//! The link to the controller of a cluster: who this node is ([`bootstrap`]), what it is told, what it asks, and the
//! questions that people put to it through the controller ([`questions`]). Nothing here makes the loop wait: what is asked is
//! answered by an [`Event`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::identity::SpiffeId;
use mesh_distribution::hub::NodeReport;
use mesh_distribution::node::{CallError, Known, Link, Options, Signing, Subscription};
use mesh_identity::TrustBundle;
use mesh_identity::store::Due;
use tokio::sync::{mpsc, watch};

use super::AgentError;
use super::config::Configuration;
use super::options::Cluster;
use super::source::controller::Followed;
use super::supervise::chain;
use super::view::View;
use bootstrap::Credentials;

pub(crate) mod bootstrap;
mod questions;

pub(crate) use mesh_distribution::gatekeeper::{Found, Pod};
pub(crate) use mesh_distribution::hub::NodeReport as Report;

/// What the controller said last, in the state directory.
pub(crate) const WORLD: &str = "world.json";

/// How long a controller is looked for before what it said last is taken for now.
const FRESH_WITHIN: Duration = Duration::from_secs(5);

/// Something that the controller answered, or that became of it.
#[derive(Debug)]
pub(crate) enum Event {
    /// Certificates, or why not.
    Signed(Vec<Signed>),
    /// What it knows about a pod that was asked about under this number.
    Found {
        ticket: u64,
        found: Result<Found, String>,
    },
    /// The roots that are trusted now.
    Trust(TrustBundle),
    /// It is there again.
    Online,
}

/// What became of a certificate that was asked for.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) identity: SpiffeId,
    /// The chain, DER, the leaf first.
    pub(crate) outcome: Result<Vec<Vec<u8>>, NotSigned>,
}

/// Why a certificate was not signed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NotSigned {
    pub(crate) why: String,
    /// Nobody answers, which others say.
    pub(crate) away: bool,
}

/// The link. Clones are the same one, which ends with the last of them.
#[derive(Clone)]
pub(crate) struct Control {
    subscription: Arc<Subscription>,
    credentials: Arc<Credentials>,
    events: mpsc::Sender<Event>,
    node: Arc<str>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Begins to follow the controller. What it answers arrives on the channel.
pub(crate) fn begin(
    cluster: &Cluster,
    view: Arc<View>,
) -> Result<(Control, mpsc::Receiver<Event>), AgentError> {
    let (events, heard) = mpsc::channel(256);
    let credentials = Arc::new(Credentials::read(cluster).map_err(AgentError::Trust)?);
    let subscription = Subscription::start(Options {
        node: cluster.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        connect: Arc::new(bootstrap::Connector::new(cluster, Arc::clone(&credentials))),
        cache: Some(cluster.state_dir.join(WORLD)),
        answers: Arc::new(questions::Answering::new(view)),
    });
    tokio::spawn(watch_link(
        subscription.known(),
        Arc::clone(&credentials),
        events.clone(),
    ));
    let subscription = Arc::new(subscription);
    tokio::spawn(bootstrap::renew(
        Arc::downgrade(&subscription),
        Arc::clone(&credentials),
    ));
    let control = Control {
        subscription,
        credentials,
        events,
        node: cluster.node.as_str().into(),
    };
    Ok((control, heard))
}

impl Control {
    /// The roots that are trusted now.
    pub(crate) fn bundle(&self) -> TrustBundle {
        self.credentials.bundle()
    }

    /// Waits for the world: what the controller says; or what it said last, where it does not answer.
    pub(crate) async fn first_world(&self) -> (Followed, Configuration) {
        let mut known = self.subscription.known();
        let begun = Instant::now();
        loop {
            {
                let now = known.borrow_and_update();
                let late = begun.elapsed() >= FRESH_WITHIN;
                let away = late || matches!(now.link, Link::Broken { .. });
                match &now.link {
                    Link::Current { .. } if now.is_something() => {
                        tracing::info!(facts = now.facts.len(), "the controller told the world");
                        break;
                    }
                    _ if away && now.is_something() => {
                        tracing::warn!(
                            written = ?now.cached,
                            "the controller does not answer; going on with what it said last"
                        );
                        break;
                    }
                    _ => {}
                }
            }
            // An error says that the subscription has ended, which it does with `self` only.
            drop(tokio::time::timeout(FRESH_WITHIN, known.changed()).await);
        }
        Followed::begin(known, Arc::clone(&self.node))
    }

    /// Asks for certificates.
    pub(crate) fn sign(&self, due: Vec<Due>) {
        let (subscription, events) = (Arc::clone(&self.subscription), self.events.clone());
        tokio::spawn(async move {
            let identities: Vec<SpiffeId> = due.iter().map(|due| due.identity.clone()).collect();
            let signings = due
                .into_iter()
                .map(|Due { identity, csr }| Signing {
                    identity,
                    request: csr,
                })
                .collect();
            let answer = subscription.sign(signings).await;
            let signed = match answer {
                Ok(outcomes) => identities
                    .into_iter()
                    .zip(outcomes)
                    .map(|(identity, outcome)| Signed {
                        identity,
                        outcome: outcome.map_err(|refusal| NotSigned {
                            why: refusal.why,
                            away: false,
                        }),
                    })
                    .collect(),
                Err(error) => identities
                    .into_iter()
                    .map(|identity| Signed {
                        identity,
                        outcome: Err(NotSigned {
                            why: chain(&error),
                            away: !matches!(error, CallError::Refused(_)),
                        }),
                    })
                    .collect(),
            };
            // An error says that the node has ended.
            drop(events.send(Event::Signed(signed)).await);
        });
    }

    /// Asks about a pod.
    pub(crate) fn find_pod(&self, ticket: u64, pod: Pod) {
        let (subscription, events) = (Arc::clone(&self.subscription), self.events.clone());
        tokio::spawn(async move {
            let found = subscription.find_pod(pod).await;
            let found = found.map_err(|error| chain(&error));
            // As above.
            drop(events.send(Event::Found { ticket, found }).await);
        });
    }

    /// Says how this node is.
    pub(crate) fn report(&self, report: &NodeReport) {
        self.subscription.report(report.clone());
    }
}

/// Watches how it stands with the controller, for those who must know at once.
async fn watch_link(
    mut known: watch::Receiver<Known>,
    credentials: Arc<Credentials>,
    events: mpsc::Sender<Event>,
) {
    let mut online = false;
    let mut roots: Option<Arc<str>> = None;
    loop {
        let mut said = Vec::new();
        {
            let now = known.borrow_and_update();
            let is_current = matches!(now.link, Link::Current { .. });
            if is_current && !online {
                credentials.accepted();
                said.push(Event::Online);
            }
            online = is_current;
            // What comes from disk is older than what is mounted.
            if now.cached.is_none() && now.bundle.is_some() && now.bundle != roots {
                roots.clone_from(&now.bundle);
                if let Some(bundle) = now.bundle.as_ref().and_then(|pem| credentials.told(pem)) {
                    said.push(Event::Trust(bundle));
                }
            }
        }
        for event in said {
            if events.send(event).await.is_err() {
                return;
            }
        }
        if known.changed().await.is_err() {
            return;
        }
    }
}
