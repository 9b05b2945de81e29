//! What there is to do on a node of a cluster beside everything else: kubelet is recognised, namespaces are written down for
//! the CNI plugin, the controller is told how the node stands.

use std::time::Instant;

use super::Node;
use crate::agent::cni_install::watch::InPlace;
use crate::agent::control::{Event, Report};
use crate::agent::view;
use crate::api::objects::EnrolmentState;

impl Node {
    /// What is looked at once a second.
    pub(super) fn tend_cluster(&mut self, now: Instant) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        cluster.kubelet.look(now, &mut self.kernel);
        let current = i64::from(self.configuration.current);
        self.metrics.controller_current.set(current);
        {
            let mut state = self.view.state();
            state.plugin = match &*cluster.plugin.borrow() {
                InPlace::Unknown => Err("the CNI plugin is about to be put in place".to_owned()),
                InPlace::Yes(name) => Ok(Some(name.clone())),
                InPlace::No(why) => Err(why.clone()),
            };
            state.kubelet_missing = cluster.kubelet.missing();
        }
        let (enrolments, pending) = (&self.state.enrolments, &self.state.pending);
        self.finder
            .retain_pods(|uid| enrolments.knows_pod(uid) || pending.knows_pod(uid));
        self.write_namespaces();
        self.report();
    }

    /// Writes down which namespaces are in the mesh, when that is something else than before.
    pub(super) fn write_namespaces(&mut self) {
        let Some(cluster) = &mut self.cluster else {
            return;
        };
        let now = &self.configuration.namespaces;
        if cluster.written.as_ref() == Some(now) {
            return;
        }
        let folders = [Some(&self.options.run_dir), self.options.state_dir()];
        let written: Result<(), std::io::Error> = folders
            .into_iter()
            .flatten()
            .try_for_each(|folder| now.write(folder));
        match written {
            Ok(()) => cluster.written = Some(now.clone()),
            Err(error) => {
                tracing::error!(%error, "it could not be written down which namespaces are in the mesh; trying again");
            }
        }
    }

    /// What the controller says, or what becomes of it.
    pub(super) fn controller_event(&mut self, event: Event) {
        match event {
            Event::Found { ticket, found } => self.pod_found(ticket, found),
            Event::Signed(signed) => {
                self.identities.signed(signed);
                self.certificates_changed();
            }
            Event::Trust(bundle) => {
                self.identities.trust(bundle);
                self.certificates_changed();
            }
            Event::Online => {
                self.identities.retry();
                self.tend_identities();
            }
        }
    }

    fn certificates_changed(&mut self) {
        self.tend_identities();
        let now = Instant::now();
        self.advance(now);
        self.tend_pods(now);
    }

    /// Tells the controller how the node stands, when that is something else than before.
    fn report(&mut self) {
        let (Some(cluster), Some(control)) = (&mut self.cluster, &self.control) else {
            return;
        };
        let state = self.view.state();
        let missing = view::not_ready(&state);
        let count = |wanted: &[EnrolmentState]| {
            let mut enrolments = state.enrolments.values();
            let found = enrolments
                .by_ref()
                .filter(|found| wanted.contains(&found.state));
            u32::try_from(found.count()).unwrap_or(u32::MAX)
        };
        let report = Report {
            ready: missing.is_empty(),
            message: missing.join("; "),
            enforcing: count(&[EnrolmentState::Enrolled]),
            pending: count(&[EnrolmentState::Waiting]),
            blocked: count(&[EnrolmentState::Preparing]),
            applied: self.state.applied_of_source,
            details: String::new(),
        };
        drop(state);
        if cluster.reported.as_ref() != Some(&report) {
            control.report(&report);
            cluster.reported = Some(report);
        }
    }
}
