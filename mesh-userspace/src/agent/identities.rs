//! The certificates of this node's identities: issued by the authority in a directory, renewed in time, and issued anew
//! when its root changes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_identity::authority::Authority;
use mesh_identity::store::{self, Store};

use super::AgentError;
use super::supervise::chain;
use crate::api::objects::Certificate;

/// The authority and what it has issued for this node.
#[derive(Debug)]
pub(crate) struct Identities {
    directory: PathBuf,
    authority: Authority,
    store: Store,
    /// The last complaint about the directory, so that it is made once.
    complaint: Option<String>,
}

impl Identities {
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

    /// Sets what the node needs.
    pub(crate) fn want(
        &mut self,
        identities: impl IntoIterator<Item = SpiffeId>,
        lifetime: Duration,
    ) {
        self.store.set_lifetime(lifetime);
        self.store.want(identities);
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

    /// What the worker is to have.
    pub(crate) fn snapshot(&self) -> store::Snapshot {
        self.store.snapshot()
    }

    /// The certificates, for people. `users` names the workloads of an identity.
    pub(crate) fn list(&self, users: impl Fn(&SpiffeId) -> Vec<String>) -> Vec<Certificate> {
        let moment = |time: SystemTime| Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
        let certificates = self.store.snapshot().certificates;
        certificates
            .iter()
            .map(|certificate| Certificate {
                identity: certificate.identity().to_string(),
                node: None,
                serial: certificate.serial().to_owned(),
                issuer: certificate.issuer().to_owned(),
                not_before: moment(certificate.not_before()),
                not_after: moment(certificate.not_after()),
                renew_at: moment(
                    self.store
                        .renews_at(certificate.identity())
                        .unwrap_or_else(|| certificate.not_after()),
                ),
                workloads: users(certificate.identity()),
            })
            .collect()
    }
}
