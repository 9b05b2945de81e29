//! The certificates of this node's identities, renewed in time: issued by an authority at hand ([`local`]), or signed by the
//! controller of a cluster ([`remote`]), which answers in its own time.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_identity::TrustBundle;
use mesh_identity::store::{self, Store};

use super::control::{Control, Signed};
use crate::api::objects::Certificate;

pub(crate) mod kept;
mod local;
mod remote;

pub(crate) use local::Local;
pub(crate) use remote::Remote;

/// What this node holds, and who gives it.
#[derive(Debug)]
pub(crate) enum Identities {
    Local(Box<Local>),
    Remote(Remote),
}

impl Identities {
    fn store(&self) -> &Store {
        match self {
            Self::Local(local) => &local.store,
            Self::Remote(remote) => &remote.store,
        }
    }

    fn store_mut(&mut self) -> &mut Store {
        match self {
            Self::Local(local) => &mut local.store,
            Self::Remote(remote) => &mut remote.store,
        }
    }

    /// Whether these settings are what it was opened with.
    pub(crate) fn is_of(&self, directory: &Path, trust_domain: &TrustDomain) -> bool {
        match self {
            Self::Local(local) => local.is_of(directory, trust_domain),
            Self::Remote(remote) => remote.snapshot().bundle.trust_domain() == trust_domain,
        }
    }

    /// Sets what the node needs.
    pub(crate) fn want(
        &mut self,
        identities: impl IntoIterator<Item = SpiffeId>,
        lifetime: Duration,
    ) {
        self.store_mut().set_lifetime(lifetime);
        match self {
            Self::Local(local) => local.store.want(identities),
            Self::Remote(remote) => remote.want(identities.into_iter().collect()),
        }
    }

    /// Looks for what is due; gives what the worker is to have, when that changed.
    pub(crate) fn refresh(
        &mut self,
        now: SystemTime,
        control: Option<&Control>,
    ) -> Option<store::Snapshot> {
        match self {
            Self::Local(local) => local.refresh(now),
            Self::Remote(remote) => remote.refresh(now, control),
        }
    }

    /// Asks the controller for what is due.
    pub(crate) fn ask(&mut self, control: &Control) {
        if let Self::Remote(remote) = self {
            remote.ask(control, SystemTime::now());
        }
    }

    /// What the controller answered.
    pub(crate) fn signed(&mut self, signed: Vec<Signed>) {
        if let Self::Remote(remote) = self {
            remote.signed(signed, SystemTime::now());
        }
    }

    /// Other roots are trusted.
    pub(crate) fn trust(&mut self, bundle: TrustBundle) {
        if let Self::Remote(remote) = self {
            tracing::info!(roots = bundle.roots().len(), "the trusted roots are known");
            remote.trust(bundle, SystemTime::now());
        }
    }

    /// The controller is there again.
    pub(crate) fn retry(&mut self) {
        if let Self::Remote(remote) = self {
            remote.store.retry();
        }
    }

    /// Whether there is a certificate of an identity that peers would take.
    pub(crate) fn holds(&self, identity: &SpiffeId) -> bool {
        let certificate = match self {
            Self::Local(local) => local.store.certificate(identity),
            Self::Remote(remote) => remote.certificate(identity),
        };
        certificate.is_some_and(|certificate| SystemTime::now() < certificate.not_after())
    }

    /// Whether there is one for each of these.
    pub(crate) fn hold_all(&self, identities: &BTreeSet<SpiffeId>) -> bool {
        identities.iter().all(|identity| self.holds(identity))
    }

    /// What the worker is to have.
    pub(crate) fn snapshot(&self) -> store::Snapshot {
        match self {
            Self::Local(local) => local.store.snapshot(),
            Self::Remote(remote) => remote.snapshot(),
        }
    }

    /// The certificates, for people. `users` names the workloads of an identity.
    pub(crate) fn list(&self, users: impl Fn(&SpiffeId) -> Vec<String>) -> Vec<Certificate> {
        let moment = |time: SystemTime| Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
        let store = self.store();
        let certificates = self.snapshot().certificates;
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
                    store
                        .renews_at(certificate.identity())
                        .unwrap_or_else(|| certificate.not_after()),
                ),
                workloads: users(certificate.identity()),
            })
            .collect()
    }
}
