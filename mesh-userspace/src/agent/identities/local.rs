//! Certificates issued by the authority in a directory, and issued anew when its root changes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mesh_core::identity::TrustDomain;
use mesh_identity::authority::Authority;
use mesh_identity::store::{self, Store};

use crate::agent::AgentError;
use crate::agent::supervise::chain;

/// The authority and what it has issued for this node.
#[derive(Debug)]
pub(crate) struct Local {
    directory: PathBuf,
    authority: Authority,
    pub(super) store: Store,
    /// The last complaint about the directory, so that it is made once.
    complaint: Option<String>,
}

impl Local {
    /// Opens the authority, or makes a new one where there is none.
    pub(crate) fn open(
        directory: &Path,
        trust_domain: &TrustDomain,
        lifetime: Duration,
    ) -> Result<Self, AgentError> {
        let authority = Authority::open_or_create(directory, trust_domain)?;
        let store = Store::new(&authority, lifetime);
        Ok(Self {
            directory: directory.to_owned(),
            authority,
            store,
            complaint: None,
        })
    }

    /// Whether these settings are what it was opened with.
    pub(crate) fn is_of(&self, directory: &Path, trust_domain: &TrustDomain) -> bool {
        self.directory == directory && self.authority.trust_domain() == trust_domain
    }

    /// Looks for what is due; gives what the worker is to have, when that changed.
    pub(crate) fn refresh(&mut self, now: SystemTime) -> Option<store::Snapshot> {
        let reloaded = match self.authority.reload() {
            Ok(reloaded) => {
                self.complaint = None;
                reloaded
            }
            Err(error) => {
                let complaint = chain(&error);
                if self.complaint.as_ref() != Some(&complaint) {
                    tracing::error!(
                        error = complaint,
                        "the certificate authority cannot be read again; going on with what is known"
                    );
                    self.complaint = Some(complaint);
                }
                Default::default()
            }
        };
        if !self.store.due(now) && !reloaded.bundle && !reloaded.signer {
            return None;
        }
        let changed = self.store.refresh(now, &self.authority);
        for identity in &changed.issued {
            tracing::info!(%identity, "issued a certificate");
        }
        for (identity, error) in &changed.failed {
            tracing::error!(%identity, error = chain(error), "no certificate could be issued; trying again");
        }
        if changed.bundle {
            tracing::info!(
                roots = self.authority.bundle().roots().len(),
                "the trusted roots changed"
            );
        }
        changed.any.then(|| self.store.snapshot())
    }
}
