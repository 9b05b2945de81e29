//! Pods that a runtime announces: enrolled before the configuration names them, and then the same as any other.

use std::time::{Duration, Instant};

use mesh_core::workload::Name;

use super::{Context, Enrolments, Entry, Leaving, State, Wanted};
use crate::agent::select::{Mark, Selector};

/// One that the configuration does not name within this is let go: it was deleted before the controller told of it.
const UNNAMED: Duration = Duration::from_secs(60);

/// How a pod stands.
#[derive(Debug, PartialEq)]
pub(crate) enum Standing {
    /// Whatever it sends and receives is the mesh's.
    Enforced,
    /// Not yet, and why.
    NotYet(String),
    /// Nobody wants it.
    Unknown,
}

impl Enrolments {
    /// Wants a pod that was announced, beside those that the configuration names.
    pub(crate) fn announce_pod(&mut self, wanted: Wanted, now: Instant, cx: &mut Context<'_>) {
        let name = wanted.name.clone();
        match self.entries.get_mut(&name) {
            Some(entry)
                if entry
                    .wanted
                    .as_ref()
                    .is_some_and(|old| old.selector == wanted.selector) => {}
            // A pod of the same name, of before.
            Some(entry) => {
                entry.announced = Some(now);
                self.change(&name, wanted, cx);
            }
            None => {
                let mut entry = Entry::new(wanted);
                entry.announced = Some(now);
                self.entries.insert(name, entry);
            }
        }
    }

    /// Tries a workload at the next opportunity, however long it has been waiting.
    pub(crate) fn hurry(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name)
            && matches!(entry.state, State::Waiting { .. })
        {
            entry.state = Entry::wait(None).0;
        }
    }

    /// Looks at once whether a workload is still what its selector means.
    pub(crate) fn check_pod(&mut self, name: &Name, cx: &mut Context<'_>) {
        cx.finder.look_anew();
        if let Some(reason) = self.gone(name, cx) {
            self.leave(name, &reason, Leaving::Replaced, cx);
        }
    }

    /// How a pod stands; `namespace` is the one that is meant, where that is known: a pod's sandbox can be made anew.
    pub(crate) fn standing(&self, name: &Name, uid: &str, namespace: Option<Mark>) -> Standing {
        let Some(entry) = self.entries.get(name) else {
            return Standing::Unknown;
        };
        let is_it = |selector: &Selector| matches!(selector, Selector::Pod(found) if found == uid);
        if !entry
            .wanted
            .as_ref()
            .is_some_and(|wanted| is_it(&wanted.selector))
        {
            return Standing::Unknown;
        }
        match &entry.state {
            State::Enrolled(active)
                if is_it(&active.selector)
                    && namespace.is_none_or(|namespace| namespace == active.mark) =>
            {
                Standing::Enforced
            }
            _ => Standing::NotYet(
                entry
                    .reason
                    .clone()
                    .unwrap_or_else(|| "it is about to be enrolled".to_owned()),
            ),
        }
    }

    /// A runtime takes a namespace down.
    pub(crate) fn namespace_ends(&mut self, mark: Mark, cx: &mut Context<'_>) {
        let found = self.entries.iter().find(|(_, entry)| {
            let active = matches!(entry.state, State::Preparing(_) | State::Enrolled(_));
            active && entry.active().is_some_and(|active| active.mark == mark)
        });
        let Some(name) = found.map(|(name, _)| name.clone()) else {
            return;
        };
        if let Some(entry) = self.entries.get_mut(&name)
            && entry.announced.take().is_some()
        {
            entry.wanted = None;
        }
        self.leave(&name, "its runtime takes it down", Leaving::Replaced, cx);
    }

    /// Lets those go that were announced long ago and never named. Only what the configuration says now counts.
    pub(crate) fn expire(&mut self, now: Instant, cx: &mut Context<'_>) {
        if !cx.current {
            return;
        }
        let unnamed = |entry: &Entry| {
            let announced = entry.announced;
            announced.is_some_and(|at| now.duration_since(at) >= UNNAMED)
        };
        let names: Vec<Name> = self
            .entries
            .iter()
            .filter(|(_, entry)| unnamed(entry))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            if let Some(entry) = self.entries.get_mut(&name) {
                entry.announced = None;
                entry.wanted = None;
            }
            let reason = "its runtime announced it, but the controller knows no such pod";
            self.leave(&name, reason, Leaving::Itself, cx);
        }
    }

    /// Whether anybody wants a pod of this UID.
    pub(crate) fn knows_pod(&self, uid: &str) -> bool {
        self.entries.values().any(|entry| {
            let wanted = entry.wanted.as_ref();
            wanted.is_some_and(
                |wanted| matches!(&wanted.selector, Selector::Pod(found) if found == uid),
            )
        })
    }
}
