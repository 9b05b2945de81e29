//! Who is enrolled, for those who ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_core::identity::SpiffeId;
use mesh_core::workload::{Name, WorkloadId};
use mesh_proxy::link::LocalWorkload;

use super::{Enrolments, State};
use crate::api::objects::{Enrolment, EnrolmentState};

impl Enrolments {
    /// The name behind a number.
    pub(crate) fn name(&self, id: WorkloadId) -> Option<&Name> {
        let mut actives = self.actives();
        actives
            .find(|(_, active)| active.id == id)
            .map(|(name, _)| name)
    }

    /// The workload behind a number.
    pub(crate) fn workload(&self, id: WorkloadId) -> Option<&LocalWorkload> {
        let mut actives = self.actives();
        actives
            .find(|(_, active)| active.id == id)
            .map(|(_, active)| &active.workload)
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
        wanted
            .map(|wanted| wanted.identity.clone())
            .chain(
                self.actives()
                    .map(|(_, active)| active.workload.identity.clone()),
            )
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
