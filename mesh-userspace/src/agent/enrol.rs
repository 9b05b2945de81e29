//! From a workload in the configuration to one that is captured and served, and back.
//!
//! ```text
//!            found, prepared in the kernel        worker accepts
//!  Waiting ───────────────────────────► Preparing ─────────────► Enrolled
//!     ▲  ▲  not there (yet): tried again    │                        │
//!     └──┘                                  └──► Leaving ◄───────────┘  no longer wanted, changed, or gone
//!     ▲                                             │
//!     └──────── wanted again, or still ─────────────┘  last connection ended
//! ```
//! Where another namespace has taken the place of one that leaves (a pod of the same name, a container that was started
//! again), its place is free at once, and it leaves among the departing.
//!
//! It decides the order; the kernel half does the work, the worker carries the connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mesh_core::identity::SpiffeId;
use mesh_core::workload::{Name, WorkloadId};
use mesh_kernel::{GuardMode, Kernel, Udp};
use mesh_proxy::link::{LocalWorkload, ToWorker};

use super::select::{Finder, Mark, Selector};
use super::supervise::{Outgoing, chain};
use adjust::adjust;

mod adjust;
mod check;
mod describe;
pub(crate) mod pods;
mod prepare;

/// The first wait for something that is not there.
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// The longest: a pod that starts is enrolled within this.
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// A workload of this node, as the configuration wants it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) name: Name,
    pub(crate) identity: SpiffeId,
    pub(crate) selector: Selector,
    /// Of a host service; of a pod, those by which it is proven. Others know theirs themselves.
    pub(crate) addresses: Vec<IpAddr>,
    /// Of a host service.
    pub(crate) ports: Vec<u16>,
    pub(crate) mode: GuardMode,
    pub(crate) udp: Udp,
}

/// What the steps work with.
pub(crate) struct Context<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) finder: &'a mut Finder,
    /// Whether the node holds a certificate of an identity. Nothing is taken into the mesh before.
    pub(crate) certified: &'a dyn Fn(&SpiffeId) -> bool,
    /// Whether what is wanted is what the source says now, and not what it said when it was last heard.
    pub(crate) current: bool,
    /// Says something to the worker, if there is one; a new one is told everything by [`Enrolments::announce_all`].
    pub(crate) say: &'a dyn Fn(Outgoing),
}

/// The workloads of this node.
#[derive(Debug, Default)]
pub(crate) struct Enrolments {
    entries: BTreeMap<Name, Entry>,
    /// Those whose place another has taken, until their last connection has ended.
    departing: BTreeMap<WorkloadId, (Name, Active)>,
    /// Numbers that an earlier agent gave to things that are still wanted.
    claimed: BTreeSet<WorkloadId>,
    last_id: u32,
    /// The worker has the listeners that all host services share.
    host_told: bool,
    /// What earlier agents left and nobody wants was cleared.
    swept: bool,
}

#[derive(Debug)]
struct Entry {
    /// `None`: it goes for good.
    wanted: Option<Wanted>,
    state: State,
    since: Timestamp,
    /// Why it waits.
    reason: Option<String>,
    /// When a runtime announced it, until the configuration names it.
    announced: Option<Instant>,
    /// It waits, but what an earlier agent enrolled for it goes on.
    held: bool,
}

#[derive(Debug)]
enum State {
    Waiting { retry_at: Instant, wait: Duration },
    Preparing(Active),
    Enrolled(Active),
    Leaving(Active),
}

#[derive(Clone, Debug)]
struct Active {
    id: WorkloadId,
    mark: Mark,
    /// By which it was found.
    selector: Selector,
    workload: LocalWorkload,
}

/// Whether what leaves has to be gone before its place is free.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Leaving {
    /// It comes again, changed.
    Itself,
    /// Another has taken its place, or will.
    Replaced,
}

impl Entry {
    fn new(wanted: Wanted) -> Self {
        let (state, reason) = Self::wait(None);
        Self {
            wanted: Some(wanted),
            state,
            since: Timestamp::now(),
            reason,
            announced: None,
            held: false,
        }
    }

    fn enter(&mut self, state: State, reason: Option<String>) {
        self.state = state;
        self.reason = reason;
        self.since = Timestamp::now();
    }

    fn active(&self) -> Option<&Active> {
        match &self.state {
            State::Waiting { .. } => None,
            State::Preparing(active) | State::Enrolled(active) | State::Leaving(active) => {
                Some(active)
            }
        }
    }

    fn wait(reason: Option<String>) -> (State, Option<String>) {
        let now = State::Waiting {
            retry_at: Instant::now(),
            wait: FIRST_RETRY,
        };
        (now, reason)
    }
}

impl Enrolments {
    /// Makes the wanted workloads these.
    pub(crate) fn want(&mut self, wanted: Vec<Wanted>, cx: &mut Context<'_>) {
        let mut wanted: BTreeMap<Name, Wanted> = wanted
            .into_iter()
            .map(|wanted| (wanted.name.clone(), wanted))
            .collect();
        let names: Vec<Name> = self.entries.keys().cloned().collect();
        for name in names {
            match (self.entries.get_mut(&name), wanted.remove(&name)) {
                (Some(entry), Some(new)) => {
                    entry.announced = None;
                    self.change(&name, new, cx);
                }
                // The configuration does not know of it yet.
                (Some(entry), None) if entry.announced.is_some() => {}
                (Some(entry), None) => {
                    entry.wanted = None;
                    let reason = "it is no longer in the configuration";
                    self.leave(&name, reason, Leaving::Itself, cx);
                }
                (None, _) => {}
            }
        }
        for (name, wanted) in wanted {
            self.entries.insert(name, Entry::new(wanted));
        }
    }

    /// Something else is wanted of a workload.
    fn change(&mut self, name: &Name, new: Wanted, cx: &mut Context<'_>) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        let kept = entry
            .wanted
            .as_ref()
            .is_some_and(|old| adjust(old, &new, entry, cx));
        let other = entry
            .active()
            .is_some_and(|active| active.selector != new.selector);
        entry.wanted = Some(new);
        if kept {
            return;
        }
        let leaving = match other {
            true => Leaving::Replaced,
            false => Leaving::Itself,
        };
        self.leave(name, "its configuration changed", leaving, cx);
    }

    /// Tries what is due. Gives the workloads that were prepared: announce them once the world with their addresses is
    /// published.
    pub(crate) fn advance(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> Vec<(LocalWorkload, Vec<mesh_kernel::Listener>)> {
        let mut prepared = Vec::new();
        let due: Vec<Name> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.state, State::Waiting { retry_at, .. } if retry_at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        if !due.is_empty() {
            cx.finder.look_anew();
        }
        for name in due {
            let Some(wanted) = self
                .entries
                .get(&name)
                .and_then(|entry| entry.wanted.clone())
            else {
                self.entries.remove(&name);
                continue;
            };
            let outcome = self.prepare(&wanted, cx);
            let Some(entry) = self.entries.get_mut(&name) else {
                continue;
            };
            match outcome {
                Ok((active, listeners)) => {
                    prepared.push((active.workload.clone(), listeners));
                    entry.held = false;
                    entry.enter(
                        State::Preparing(active),
                        Some("the worker does not accept from it yet".to_owned()),
                    );
                }
                Err(NotYet { reason, held }) => {
                    entry.held = held;
                    if entry.reason.as_ref() != Some(&reason) {
                        tell_waiting(&name, &wanted.selector, &reason, held);
                    }
                    let State::Waiting { wait, .. } = entry.state else {
                        continue;
                    };
                    let since = entry.since;
                    // What holds the workload up is the node itself: it is tried again as soon as can be.
                    let wait = if held { FIRST_RETRY } else { wait };
                    let state = State::Waiting {
                        retry_at: now + wait,
                        wait: (wait * 2).min(LONGEST_RETRY),
                    };
                    entry.enter(state, Some(reason));
                    entry.since = since;
                }
            }
        }
        self.sweep(cx);
        prepared
    }

    /// The worker accepts from a workload's listeners.
    pub(crate) fn acked(&mut self, id: WorkloadId, cx: &mut Context<'_>) {
        let Some((name, entry)) = self
            .entries
            .iter_mut()
            .find(|(_, entry)| matches!(&entry.state, State::Preparing(active) if active.id == id))
        else {
            return;
        };
        let State::Preparing(active) = &entry.state else {
            return;
        };
        match cx.kernel.activate(id) {
            Ok(()) => {
                tracing::info!(workload = %name, %id, "enrolled");
                let active = active.clone();
                entry.enter(State::Enrolled(active), None);
            }
            Err(error) => {
                // It stays closed: guarded, not captured.
                tracing::error!(workload = %name, error = chain(&error), "cannot be captured");
                let name = name.clone();
                self.leave(&name, &chain(&error), Leaving::Itself, cx);
            }
        }
    }

    /// The last connection of a workload ended.
    pub(crate) fn left(&mut self, id: WorkloadId, cx: &mut Context<'_>) {
        if let Some((name, _)) = self.departing.remove(&id) {
            self.release(id, &name, cx);
            return;
        }
        let Some(name) = self
            .entries
            .iter()
            .find(|(_, entry)| matches!(&entry.state, State::Leaving(active) if active.id == id))
            .map(|(name, _)| name.clone())
        else {
            return;
        };
        self.release(id, &name, cx);
        let Some(entry) = self.entries.get_mut(&name) else {
            return;
        };
        match entry.wanted {
            Some(_) => {
                let (state, reason) = Entry::wait(None);
                entry.enter(state, reason);
            }
            None => {
                self.entries.remove(&name);
            }
        }
    }

    fn release(&mut self, id: WorkloadId, name: &Name, cx: &mut Context<'_>) {
        if let Err(error) = cx.kernel.release(id) {
            tracing::warn!(workload = %name, error = chain(&error), "was not put back as it was");
        }
        self.claimed.remove(&id);
        tracing::info!(workload = %name, %id, "left");
    }

    /// Every workload leaves for good.
    pub(crate) fn leave_all(&mut self, cx: &mut Context<'_>) {
        for entry in self.entries.values_mut() {
            entry.announced = None;
        }
        self.want(Vec::new(), cx);
    }

    /// Every leaving workload has left, whatever its connections do.
    pub(crate) fn release_all(&mut self, cx: &mut Context<'_>) {
        for id in self.leaving() {
            self.left(id, cx);
        }
    }

    fn leaving(&self) -> Vec<WorkloadId> {
        let mut leaving = self.ids(|state| matches!(state, State::Leaving(_)));
        leaving.extend(self.departing.keys());
        leaving
    }

    fn leave(&mut self, name: &Name, reason: &str, how: Leaving, cx: &mut Context<'_>) {
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        match &entry.state {
            State::Waiting { .. } => match entry.wanted {
                Some(_) => {
                    let (state, reason) = Entry::wait(None);
                    entry.enter(state, reason);
                }
                None => {
                    self.entries.remove(name);
                }
            },
            State::Leaving(active) => {
                let active = active.clone();
                if how == Leaving::Replaced && entry.wanted.is_some() {
                    self.depart(name, active);
                }
            }
            State::Preparing(active) | State::Enrolled(active) => {
                tracing::info!(workload = %name, id = %active.id, reason, "leaves");
                if let Err(error) = cx.kernel.unenrol(active.id) {
                    tracing::error!(workload = %name, error = chain(&error), "is not released from capture whole");
                }
                (cx.say)(Outgoing::Message(
                    ToWorker::Unenrol {
                        workload: active.id,
                    },
                    Vec::new(),
                ));
                let active = active.clone();
                if how == Leaving::Replaced && entry.wanted.is_some() {
                    self.depart(name, active);
                } else {
                    entry.enter(State::Leaving(active), Some(reason.to_owned()));
                }
            }
        }
    }

    /// Makes the place of one that leaves free for another.
    fn depart(&mut self, name: &Name, active: Active) {
        self.departing.insert(active.id, (name.clone(), active));
        if let Some(entry) = self.entries.get_mut(name) {
            let (state, reason) = Entry::wait(None);
            entry.enter(state, reason);
        }
    }

    /// Everything that has a number.
    fn actives(&self) -> impl Iterator<Item = (&Name, &Active)> {
        let entries = self.entries.iter();
        let placed = entries.filter_map(|(name, entry)| Some((name, entry.active()?)));
        placed.chain(self.departing.values().map(|(name, active)| (name, active)))
    }

    fn ids(&self, state: impl Fn(&State) -> bool) -> Vec<WorkloadId> {
        self.entries
            .values()
            .filter(|entry| state(&entry.state))
            .filter_map(|entry| entry.active().map(|active| active.id))
            .collect()
    }
}

/// That a pod is not there, because it starts or ends, or that the controller takes a moment, is nothing to worry about.
fn tell_waiting(name: &Name, selector: &Selector, reason: &str, held: bool) {
    match held || matches!(selector, Selector::Pod(_)) {
        true => tracing::info!(workload = %name, reason, "is not enrolled yet"),
        false => tracing::warn!(workload = %name, reason, "cannot be enrolled yet; trying again"),
    }
}

/// Why a workload cannot be prepared yet.
struct NotYet {
    reason: String,
    /// What holds it up is the node itself; whatever an earlier agent did for it goes on.
    held: bool,
}

impl NotYet {
    fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            held: false,
        }
    }
}
