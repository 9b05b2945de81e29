//! What the node shows of itself: workloads, certificates, counters and faults, in its view and in its metrics.

use std::collections::BTreeMap;

use super::Node;
use crate::agent::watchdog::Found;
use crate::api::objects::EnrolmentState;

impl Node {
    pub(super) fn show_enrolments(&self) {
        let enrolments = self.state.enrolments.describe();
        let certificates = self
            .identities
            .list(|identity| self.state.enrolments.users(identity));
        let states = [
            EnrolmentState::Waiting,
            EnrolmentState::Preparing,
            EnrolmentState::Enrolled,
            EnrolmentState::Leaving,
        ];
        let counts = states.map(|state| {
            let found = enrolments
                .values()
                .filter(|enrolment| enrolment.state == state);
            (state, u32::try_from(found.count()).unwrap_or(u32::MAX))
        });
        self.metrics.workloads(&counts);
        self.metrics.certificates(&certificates);
        let mut state = self.view.state();
        // Once and for all: what comes later is no reason to send the node nothing more.
        state.served |= self.state.enrolments.tried();
        state.enrolments = enrolments;
        state.certificates = certificates;
        state.trusted_roots = self.identities.snapshot().bundle.roots().len();
    }

    pub(super) fn show_counters(&self) {
        let counters = self.kernel.counters();
        let mut totals = BTreeMap::new();
        for (_, reason, count) in &counters {
            *totals.entry(reason.label().to_owned()).or_insert(0) += count;
        }
        let named: Vec<_> = counters
            .into_iter()
            .map(|(id, reason, count)| (self.state.enrolments.name(id).cloned(), reason, count))
            .collect();
        self.metrics.kernel_counters(&named);
        self.view.state().kernel.counters = totals;
    }

    pub(super) fn show_faults(&self, found: &Found) {
        self.metrics.kernel_repairs.inc_by(found.repaired);
        self.metrics
            .kernel_faults
            .set(i64::try_from(found.left.len()).unwrap_or(i64::MAX));
        let mut state = self.view.state();
        state.kernel.repaired += found.repaired;
        state.kernel.faults.clone_from(&found.left);
    }
}
