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
//!
//! It decides the order; the kernel half does the work, the worker carries the connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use mesh_core::identity::SpiffeId;
use mesh_core::workload::{Name, WorkloadId};
use mesh_kernel::{EnrolRequest, GuardMode, Kernel, Target, Udp};
use mesh_proxy::link::{self, LocalWorkload, ToWorker};

use super::select::{self, Found, Mark, Selector};
use super::supervise::{Outgoing, chain};
use crate::api::objects::{Enrolment, EnrolmentState};

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
    /// Of a host service; others know theirs themselves.
    pub(crate) addresses: Vec<IpAddr>,
    /// Of a host service.
    pub(crate) ports: Vec<u16>,
    pub(crate) mode: GuardMode,
    pub(crate) udp: Udp,
}

/// What the steps work with.
pub(crate) struct Context<'a> {
    pub(crate) kernel: &'a mut Kernel,
    /// Where cgroups are looked for.
    pub(crate) cgroup2: &'a Path,
    /// Says something to the worker, if there is one; a new one is told everything by [`Enrolments::announce_all`].
    pub(crate) say: &'a dyn Fn(Outgoing),
}

/// The workloads of this node.
#[derive(Debug, Default)]
pub(crate) struct Enrolments {
    entries: BTreeMap<Name, Entry>,
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
    workload: LocalWorkload,
}

impl Entry {
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
                    let kept = entry
                        .wanted
                        .as_ref()
                        .is_some_and(|old| adjust(old, &new, entry, cx));
                    entry.wanted = Some(new);
                    if !kept {
                        self.leave(&name, "its configuration changed", cx);
                    }
                }
                (Some(entry), None) => {
                    entry.wanted = None;
                    self.leave(&name, "it is no longer in the configuration", cx);
                }
                (None, _) => {}
            }
        }
        for (name, wanted) in wanted {
            let (state, reason) = Entry::wait(None);
            let entry = Entry {
                wanted: Some(wanted),
                state,
                since: Timestamp::now(),
                reason,
            };
            self.entries.insert(name, entry);
        }
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
                    entry.enter(
                        State::Preparing(active),
                        Some("the worker does not accept from it yet".to_owned()),
                    );
                }
                Err(reason) => {
                    if entry.reason.as_ref() != Some(&reason) {
                        tracing::warn!(workload = %name, reason, "cannot be enrolled yet; trying again");
                    }
                    let State::Waiting { wait, .. } = entry.state else {
                        continue;
                    };
                    let since = entry.since;
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

    fn prepare(
        &mut self,
        wanted: &Wanted,
        cx: &mut Context<'_>,
    ) -> Result<(Active, Vec<mesh_kernel::Listener>), String> {
        let (found, mark) =
            select::find(&wanted.selector, cx.cgroup2).map_err(|error| error.to_string())?;
        let target = match found {
            Found::NetworkNamespace(namespace) => Target::NetworkNamespace(namespace),
            Found::Cgroup(path) => Target::Cgroup {
                path,
                addresses: wanted.addresses.clone(),
                ports: wanted.ports.clone(),
            },
        };
        let known = cx.kernel.known_id(&target).map_err(|error| chain(&error))?;
        let id = match known {
            Some(id) => id,
            None => self.free_id(cx.kernel),
        };
        if let Some(id) = known {
            self.claimed.insert(id);
            if let Some((other, _)) = self.entries.iter().find(|(name, entry)| {
                **name != wanted.name && entry.active().is_some_and(|active| active.id == id)
            }) {
                return Err(format!("{other} selects the same; a workload has one name"));
            }
        }
        let prepared = cx
            .kernel
            .enrol(EnrolRequest {
                id,
                target,
                mode: wanted.mode,
                udp: wanted.udp,
            })
            .map_err(|error| chain(&error))?;
        tracing::info!(
            workload = %wanted.name,
            %id,
            addresses = ?prepared.addresses,
            adopted = prepared.adopted,
            guard = ?prepared.guard,
            "prepared"
        );
        let workload = LocalWorkload {
            id,
            name: wanted.name.clone(),
            identity: wanted.identity.clone(),
            addresses: prepared.addresses,
            host: prepared.host,
        };
        Ok((Active { id, mark, workload }, prepared.listeners))
    }

    /// A number that nobody has, nor had in this agent's time.
    fn free_id(&mut self, kernel: &Kernel) -> WorkloadId {
        let used = kernel.known();
        let mut id = self
            .last_id
            .max(used.iter().map(|id| id.0).max().unwrap_or(0));
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !used.contains(&WorkloadId(id)) {
                self.last_id = id;
                return WorkloadId(id);
            }
        }
    }

    /// Tells the worker about a workload.
    pub(crate) fn announce(
        &mut self,
        workload: &LocalWorkload,
        listeners: Vec<mesh_kernel::Listener>,
        cx: &mut Context<'_>,
    ) {
        if workload.host && !self.host_told {
            match cx.kernel.host_listeners() {
                Ok(shared) => {
                    let (kinds, sockets) = split(shared);
                    (cx.say)(Outgoing::Message(
                        ToWorker::Host { listeners: kinds },
                        sockets,
                    ));
                    self.host_told = true;
                }
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "host services cannot be reached from other nodes"
                    );
                }
            }
        }
        let (kinds, sockets) = split(listeners);
        let message = ToWorker::Enrol {
            workload: workload.clone(),
            listeners: kinds,
        };
        (cx.say)(Outgoing::Message(message, sockets));
    }

    /// Tells a new worker about everything. What was leaving has left: its connections ended with the worker before.
    pub(crate) fn announce_all(&mut self, cx: &mut Context<'_>) {
        self.host_told = false;
        let leaving: Vec<WorkloadId> = self.ids(|state| matches!(state, State::Leaving(_)));
        for id in leaving {
            self.left(id, cx);
        }
        let active: Vec<LocalWorkload> = self
            .entries
            .values()
            .filter_map(|entry| entry.active().map(|active| active.workload.clone()))
            .collect();
        for workload in active {
            match cx.kernel.listeners(workload.id) {
                Ok(listeners) => self.announce(&workload, listeners, cx),
                Err(error) => {
                    tracing::error!(workload = %workload.name, error = chain(&error), "has no listeners any more");
                    self.leave(&workload.name, "its listeners were lost", cx);
                }
            }
        }
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
                self.leave(&name, &chain(&error), cx);
            }
        }
    }

    /// The last connection of a workload ended.
    pub(crate) fn left(&mut self, id: WorkloadId, cx: &mut Context<'_>) {
        let Some((name, entry)) = self
            .entries
            .iter_mut()
            .find(|(_, entry)| matches!(&entry.state, State::Leaving(active) if active.id == id))
        else {
            return;
        };
        if let Err(error) = cx.kernel.release(id) {
            tracing::warn!(workload = %name, error = chain(&error), "was not put back as it was");
        }
        self.claimed.remove(&id);
        tracing::info!(workload = %name, %id, "left");
        match entry.wanted {
            Some(_) => {
                let (state, reason) = Entry::wait(None);
                entry.enter(state, reason);
            }
            None => {
                let name = name.clone();
                self.entries.remove(&name);
            }
        }
    }

    /// Looks whether what is enrolled is still what its selector means.
    pub(crate) fn check(&mut self, cx: &mut Context<'_>) {
        let gone: Vec<(Name, String)> = self
            .entries
            .iter()
            .filter_map(|(name, entry)| {
                let (State::Preparing(active) | State::Enrolled(active)) = &entry.state else {
                    return None;
                };
                let reason = match select::find(&entry.wanted.as_ref()?.selector, cx.cgroup2) {
                    Ok((_, mark)) if mark == active.mark => return None,
                    Ok(_) => "it was made anew".to_owned(),
                    // What cannot be looked at may well be there.
                    Err(select::NotFound::Unreadable { .. }) => return None,
                    Err(error) => error.to_string(),
                };
                Some((name.clone(), reason))
            })
            .collect();
        for (name, reason) in gone {
            self.leave(&name, &reason, cx);
        }
    }

    /// Every workload leaves for good.
    pub(crate) fn leave_all(&mut self, cx: &mut Context<'_>) {
        self.want(Vec::new(), cx);
    }

    /// Every leaving workload has left, whatever its connections do.
    pub(crate) fn release_all(&mut self, cx: &mut Context<'_>) {
        for id in self.ids(|state| matches!(state, State::Leaving(_))) {
            self.left(id, cx);
        }
    }

    fn leave(&mut self, name: &Name, reason: &str, cx: &mut Context<'_>) {
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
            State::Leaving(_) => {}
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
                entry.enter(State::Leaving(active), Some(reason.to_owned()));
            }
        }
    }

    /// Takes away, once, what an earlier agent enrolled and the configuration no longer names. Not before everything
    /// wanted was looked for: what is wanted keeps its capture throughout.
    fn sweep(&mut self, cx: &mut Context<'_>) {
        let untried =
            |entry: &Entry| matches!(entry.state, State::Waiting { .. }) && entry.reason.is_none();
        if self.swept || self.entries.values().any(untried) {
            return;
        }
        self.swept = true;
        let ours: BTreeSet<WorkloadId> = self
            .entries
            .values()
            .filter_map(Entry::active)
            .map(|active| active.id)
            .collect();
        for id in cx.kernel.known() {
            if ours.contains(&id) || self.claimed.contains(&id) {
                continue;
            }
            tracing::info!(%id, "an earlier agent enrolled it; the configuration no longer names it");
            let done = cx.kernel.unenrol(id).and_then(|()| cx.kernel.release(id));
            if let Err(error) = done {
                tracing::warn!(%id, error = chain(&error), "what an earlier agent left was not taken away whole");
            }
        }
    }

    fn ids(&self, state: impl Fn(&State) -> bool) -> Vec<WorkloadId> {
        self.entries
            .values()
            .filter(|entry| state(&entry.state))
            .filter_map(|entry| entry.active().map(|active| active.id))
            .collect()
    }

    /// Whether every workload that can be served is: none is between two listeners.
    pub(crate) fn settled(&self) -> bool {
        self.swept
            && self
                .ids(|state| matches!(state, State::Preparing(_)))
                .is_empty()
    }

    /// The name behind a number.
    pub(crate) fn name(&self, id: WorkloadId) -> Option<&Name> {
        let mut entries = self.entries.iter();
        entries
            .find(|(_, entry)| entry.active().is_some_and(|active| active.id == id))
            .map(|(name, _)| name)
    }

    /// The workload behind a number.
    pub(crate) fn workload(&self, id: WorkloadId) -> Option<&LocalWorkload> {
        let mut active = self.entries.values().filter_map(Entry::active);
        active
            .find(|active| active.id == id)
            .map(|active| &active.workload)
    }

    /// The addresses that workloads were found to have.
    pub(crate) fn addresses(&self) -> BTreeMap<Name, Vec<IpAddr>> {
        self.entries
            .iter()
            .filter_map(|(name, entry)| {
                Some((name.clone(), entry.active()?.workload.addresses.clone()))
            })
            .collect()
    }

    /// The identities in use: what leaves keeps its own until its last connection has ended.
    pub(crate) fn identities(&self) -> BTreeSet<SpiffeId> {
        let wanted = self
            .entries
            .values()
            .filter_map(|entry| entry.wanted.as_ref());
        let active = self.entries.values().filter_map(Entry::active);
        wanted
            .map(|wanted| wanted.identity.clone())
            .chain(active.map(|active| active.workload.identity.clone()))
            .collect()
    }

    /// The names that use an identity.
    pub(crate) fn users(&self, identity: &SpiffeId) -> Vec<String> {
        self.entries
            .iter()
            .filter(|(_, entry)| {
                entry
                    .wanted
                    .as_ref()
                    .is_some_and(|wanted| wanted.identity == *identity)
            })
            .map(|(name, _)| name.to_string())
            .collect()
    }

    /// For people.
    pub(crate) fn describe(&self) -> BTreeMap<Name, Enrolment> {
        self.entries
            .iter()
            .map(|(name, entry)| {
                let enrolment = Enrolment {
                    state: match entry.state {
                        State::Waiting { .. } => EnrolmentState::Waiting,
                        State::Preparing(_) => EnrolmentState::Preparing,
                        State::Enrolled(_) => EnrolmentState::Enrolled,
                        State::Leaving(_) => EnrolmentState::Leaving,
                    },
                    since: entry.since,
                    reason: entry.reason.clone(),
                    id: entry.active().map(|active| active.id.0),
                };
                (name.clone(), enrolment)
            })
            .collect()
    }
}

/// Changes what can be changed in place; `false`: it has to leave and come again.
fn adjust(old: &Wanted, new: &Wanted, entry: &Entry, cx: &mut Context<'_>) -> bool {
    let Wanted {
        name: _,
        identity,
        selector,
        addresses,
        ports,
        mode,
        udp,
    } = old;
    let same = identity == &new.identity
        && selector == &new.selector
        && addresses == &new.addresses
        && ports == &new.ports
        && udp == &new.udp;
    if !same || *mode == new.mode {
        return same;
    }
    let Some(active) = entry.active() else {
        return true;
    };
    match cx.kernel.set_mode(active.id, new.mode) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(workload = %new.name, error = chain(&error), "the guard's mode was not changed");
            false
        }
    }
}

fn split(listeners: Vec<mesh_kernel::Listener>) -> (Vec<link::Listener>, Vec<OwnedFd>) {
    listeners
        .into_iter()
        .map(|listener| {
            let kind = match listener.kind {
                mesh_kernel::ListenerKind::Outbound => link::ListenerKind::Outbound,
                mesh_kernel::ListenerKind::Tunnel => link::ListenerKind::Tunnel,
                mesh_kernel::ListenerKind::Plaintext => link::ListenerKind::Plaintext,
            };
            let kind = link::Listener {
                kind,
                ipv6: listener.ipv6,
            };
            (kind, listener.socket)
        })
        .unzip()
}
