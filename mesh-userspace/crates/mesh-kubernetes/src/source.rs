//! Lists and watches everything that decides what nodes are told, and hands it on as facts.

mod discover;
mod watch;

use std::time::Duration;

use kube::Client;
use mesh_control::facts::{FactChange, MeshSpec};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::names;
use crate::observe::Observation;
use crate::view::View;

pub(crate) use discover::is_not_found;
pub(crate) use watch::LONGEST_WATCH;

/// What the controller was started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of Warren itself: it is never meshed.
    pub system_namespace: String,
    /// About the mesh as a whole; told to nodes as it is.
    pub mesh: MeshSpec,
    /// How often to look whether kinds of object have appeared that were not there (Gateway API, our own).
    pub discover_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            system_namespace: names::SYSTEM_NAMESPACE.to_owned(),
            mesh: MeshSpec::default(),
            discover_every: Duration::from_secs(10),
        }
    }
}

/// Facts that changed together.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Grows with every update; the first one is the whole of what there is.
    pub sequence: u64,
    /// The change.
    pub change: FactChange,
}

/// Changes within this time go into one update: a rollout of a thousand pods writes its service again and again.
const GATHER: Duration = Duration::from_millis(30);

/// Observations that wait; beyond, the watches do.
const MOST_WAITING: usize = 1024;

/// Watches until the receiver of `updates` is gone. Nothing is sent before everything was listed once: a half-known cluster
/// would take from nodes what they rely on. What stands in the way is among [`View::problems`].
pub async fn run(client: Client, view: View, updates: mpsc::Sender<Update>) {
    let (observations, mut inbox) = mpsc::channel(MOST_WAITING);
    let mut watches = JoinSet::new();
    watch::start(&mut watches, &client, &view, &observations);
    // Only the watches hold it now: they never end by themselves.
    drop(observations);
    let mut waiting: Vec<Observation> = Vec::new();
    let mut due: Option<Instant> = None;
    let mut settled = Instant::now();
    loop {
        let is_due = due.is_some_and(|due| due <= Instant::now());
        tokio::select! {
            () = updates.closed() => return,
            count = inbox.recv_many(&mut waiting, MOST_WAITING) => {
                if count == 0 {
                    return;
                }
                view.observe(waiting.drain(..));
                if due.is_none() && view.has_work() {
                    due = Some(Instant::now().max(settled + GATHER));
                }
            }
            () = sleep_until(due.unwrap_or(settled)), if due.is_some() && !is_due => {}
            permit = updates.reserve(), if is_due => {
                let Ok(permit) = permit else { return };
                due = None;
                settled = Instant::now();
                if let Some(update) = view.settle() {
                    permit.send(update);
                }
            }
        }
    }
}
