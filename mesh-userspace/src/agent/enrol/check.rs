//! Whether what is enrolled is still there, and whether anything else is.

use std::collections::BTreeSet;

use mesh_core::workload::{Name, WorkloadId};

use super::{Context, Enrolments, Entry, Leaving, State};
use crate::agent::select::NotFound;
use crate::agent::supervise::chain;

impl Enrolments {
    /// Looks whether what is enrolled is still what its selector means.
    pub(crate) fn check(&mut self, cx: &mut Context<'_>) {
        cx.finder.look_anew();
        let names: Vec<Name> = self.entries.keys().cloned().collect();
        let gone: Vec<(Name, String)> = names
            .into_iter()
            .filter_map(|name| Some((name.clone(), self.gone(&name, cx)?)))
            .collect();
        for (name, reason) in gone {
            self.leave(&name, &reason, Leaving::Replaced, cx);
        }
    }

    /// Why what is enrolled is not what its selector means any more, if so.
    pub(super) fn gone(&self, name: &Name, cx: &mut Context<'_>) -> Option<String> {
        let entry = self.entries.get(name)?;
        let (State::Preparing(active) | State::Enrolled(active)) = &entry.state else {
            return None;
        };
        let wanted = entry.wanted.as_ref()?;
        let known = Some(active.mark);
        match cx.finder.find(&wanted.selector, &wanted.addresses, known) {
            Ok((_, mark)) if mark == active.mark => None,
            Ok(_) => Some("it was made anew".to_owned()),
            // What cannot be looked at may well be there.
            Err(NotFound::Unreadable { .. }) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// Takes away, once, what an earlier agent enrolled and the configuration no longer names. Not before everything
    /// wanted was looked for: what is wanted keeps its capture throughout.
    pub(super) fn sweep(&mut self, cx: &mut Context<'_>) {
        let untried =
            |entry: &Entry| matches!(entry.state, State::Waiting { .. }) && entry.reason.is_none();
        if self.swept || !cx.current || self.entries.values().any(untried) {
            return;
        }
        self.swept = true;
        let ours: BTreeSet<WorkloadId> = self.actives().map(|(_, active)| active.id).collect();
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

    /// Whether every workload was looked for, and none is between two listeners: each is served, or it is known why not.
    pub(crate) fn tried(&self) -> bool {
        !self.entries.values().any(|entry| match entry.state {
            State::Waiting { .. } => entry.reason.is_none(),
            State::Preparing(_) => true,
            State::Enrolled(_) | State::Leaving(_) => false,
        })
    }

    /// Whether nothing of an earlier agent is needed any more.
    pub(crate) fn settled(&self) -> bool {
        let held = |entry: &Entry| entry.held && matches!(entry.state, State::Waiting { .. });
        self.swept && self.tried() && !self.entries.values().any(held)
    }
}
