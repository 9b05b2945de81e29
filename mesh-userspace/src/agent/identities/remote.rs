//! Certificates signed by the controller of a cluster. Keys are made here and go nowhere but to the worker, and to the agent
//! after this one ([`super::kept`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_identity::store::{self, Store};
use mesh_identity::{Certificate, TrustBundle};

use super::kept::{Kept, is_good};
use crate::agent::control::{Control, NotSigned, Signed};
use crate::agent::supervise::chain;

/// What the controller has signed for this node.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(super) store: Store,
    /// What the agent before this one had, for as long as there is nothing newer.
    inherited: BTreeMap<SpiffeId, Certificate>,
    wanted: BTreeSet<SpiffeId>,
    /// One that was inherited came into use, which the store knows nothing of.
    pending: bool,
    /// How often that happened: generations have to grow.
    taken_over: u64,
    kept: Option<Kept>,
    /// What was said about identities that were refused, so that it is said once.
    said: BTreeMap<SpiffeId, String>,
}

impl Remote {
    /// `bundle` is what is trusted for now; in the run directory may be what the agent before had.
    pub(crate) fn new(bundle: TrustBundle, lifetime: Duration, run_dir: &Path) -> Self {
        let kept = Kept::at(run_dir);
        let inherited = kept
            .as_ref()
            .map(|kept| kept.read(&bundle, SystemTime::now()));
        Self {
            store: Store::remote(bundle, lifetime),
            inherited: inherited
                .unwrap_or_default()
                .into_iter()
                .map(|certificate| (certificate.identity().clone(), certificate))
                .collect(),
            wanted: BTreeSet::new(),
            pending: false,
            taken_over: 0,
            kept,
            said: BTreeMap::new(),
        }
    }

    /// Sets what the node needs.
    pub(crate) fn want(&mut self, identities: BTreeSet<SpiffeId>) {
        self.store.want(identities.iter().cloned());
        let new = identities.difference(&self.wanted);
        let takes_over = new
            .filter(|identity| self.inherited.contains_key(identity))
            .count();
        self.pending |= takes_over > 0;
        self.wanted = identities;
    }

    /// Asks for what is due; gives what the worker is to have, when that changed.
    pub(crate) fn refresh(
        &mut self,
        now: SystemTime,
        control: Option<&Control>,
    ) -> Option<store::Snapshot> {
        if let Some(control) = control {
            self.ask(control, now);
        }
        let changed = self.store.changed().is_some();
        if !changed && !self.pending {
            return None;
        }
        if self.pending {
            self.pending = false;
            self.taken_over += 1;
        }
        let snapshot = self.snapshot();
        self.keep(&snapshot);
        Some(snapshot)
    }

    /// Asks for what is due.
    pub(crate) fn ask(&mut self, control: &Control, now: SystemTime) {
        if !self.store.due(now) {
            return;
        }
        let due = self.store.requests_due(now);
        if !due.is_empty() {
            control.sign(due);
        }
    }

    /// What the worker is to have.
    pub(crate) fn snapshot(&self) -> store::Snapshot {
        let mut snapshot = self.store.snapshot();
        snapshot.generation += self.taken_over;
        let newer: BTreeSet<&SpiffeId> = snapshot
            .certificates
            .iter()
            .map(Certificate::identity)
            .collect();
        let older: Vec<Certificate> = self
            .inherited
            .iter()
            .filter(|(identity, _)| self.wanted.contains(identity) && !newer.contains(identity))
            .map(|(_, certificate)| certificate.clone())
            .collect();
        snapshot.certificates.extend(older);
        snapshot
    }

    /// The certificate of an identity.
    pub(crate) fn certificate(&self, identity: &SpiffeId) -> Option<&Certificate> {
        let newest = self.store.certificate(identity);
        newest.or_else(|| self.inherited.get(identity))
    }

    /// What the controller answered.
    pub(crate) fn signed(&mut self, signed: Vec<Signed>, now: SystemTime) {
        for Signed { identity, outcome } in signed {
            let taken = outcome.and_then(|certificates| {
                self.store
                    .take(&identity, certificates, now)
                    .map_err(|error| NotSigned {
                        why: chain(&error),
                        away: false,
                    })
            });
            let Err(NotSigned { why: refused, away }) = taken else {
                tracing::info!(%identity, "the controller signed a certificate");
                self.said.remove(&identity);
                continue;
            };
            if !away && self.said.get(&identity) != Some(&refused) {
                tracing::warn!(%identity, why = refused, "the controller signed no certificate; trying again");
                self.said.insert(identity.clone(), refused.clone());
            }
            self.store.refused(&identity, refused, now);
        }
    }

    /// Other roots are trusted: what was inherited is only good if it is signed by one of them.
    pub(crate) fn trust(&mut self, bundle: TrustBundle, now: SystemTime) {
        let before = self.inherited.len();
        self.inherited
            .retain(|_, certificate| is_good(certificate, &bundle, now));
        self.pending |= self.inherited.len() != before;
        self.store.trust(bundle, None, now);
    }

    fn keep(&self, snapshot: &store::Snapshot) {
        if let Some(kept) = &self.kept
            && let Err(error) = kept.write(&snapshot.certificates)
        {
            tracing::warn!(%error, "certificates are not kept for the agent after this one");
        }
    }
}
