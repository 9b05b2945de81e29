//! Certificates signed by the controller of a cluster. Keys are made here and go nowhere but to the worker.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_identity::TrustBundle;
use mesh_identity::store::{self, Store};

use crate::agent::control::{Control, Signed};
use crate::agent::supervise::chain;

/// What the controller has signed for this node.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(super) store: Store,
    /// What was said about identities that were refused, so that it is said once.
    said: BTreeMap<SpiffeId, String>,
}

impl Remote {
    /// `bundle` is what is trusted for now.
    pub(crate) fn new(bundle: TrustBundle, lifetime: Duration) -> Self {
        Self {
            store: Store::remote(bundle, lifetime),
            said: BTreeMap::new(),
        }
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
        self.store.changed()
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

    /// What the controller answered.
    pub(crate) fn signed(&mut self, signed: Vec<Signed>, now: SystemTime) {
        for Signed { identity, outcome } in signed {
            let refused = match outcome {
                Ok(chain_of_certificates) => {
                    match self.store.take(&identity, chain_of_certificates, now) {
                        Ok(()) => {
                            tracing::info!(%identity, "the controller signed a certificate");
                            self.said.remove(&identity);
                            continue;
                        }
                        Err(error) => chain(&error),
                    }
                }
                Err(why) => why,
            };
            if self.said.get(&identity) != Some(&refused) {
                tracing::warn!(%identity, why = refused, "the controller signed no certificate; trying again");
                self.said.insert(identity.clone(), refused.clone());
            }
            self.store.refused(&identity, refused, now);
        }
    }
}
