//! The agent's certificates: one for each identity that runs on this node, renewed in time. It must not read a clock or a
//! directory; the authority and the moment are arguments.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_core::rotation;

use crate::authority::{Authority, AuthorityError};
use crate::{Certificate, TrustBundle};

/// The wait after an issue that failed, at first; doubled with each failure in a row.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(1);

/// Certificates by identity, with the bundle they are verified against.
#[derive(Debug)]
pub struct Store {
    lifetime: Duration,
    wanted: BTreeMap<SpiffeId, Held>,
    bundle: TrustBundle,
    generation: u64,
    /// Something changed since the last [`Store::refresh`].
    pending: bool,
}

/// One wanted identity.
#[derive(Debug, Default)]
struct Held {
    certificate: Option<Certificate>,
    /// When to renew, or to try again; `None`: at once.
    due: Option<SystemTime>,
    /// Failures in a row.
    failures: u32,
}

/// What the worker is to have. Whole each time: what is missing is gone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with every change.
    pub generation: u64,
    /// One per identity, in the order of identities.
    pub certificates: Vec<Certificate>,
    /// The trusted roots.
    pub bundle: TrustBundle,
}

/// What [`Store::refresh`] did.
#[derive(Debug, Default)]
pub struct Changed {
    /// [`Store::snapshot`] differs from before.
    pub any: bool,
    /// Other roots are trusted.
    pub bundle: bool,
    /// Identities with a new certificate.
    pub issued: Vec<SpiffeId>,
    /// Identities for which none could be issued. They keep the one they have, and are tried again.
    pub failed: Vec<(SpiffeId, AuthorityError)>,
}

impl Store {
    /// A store without identities, for certificates of this lifetime.
    pub fn new(authority: &Authority, lifetime: Duration) -> Self {
        Self {
            lifetime,
            wanted: BTreeMap::new(),
            bundle: authority.bundle(),
            generation: 0,
            pending: true,
        }
    }

    /// Sets the identities that this node needs. New ones get their certificates at the next [`Store::refresh`]; the
    /// certificates of those that are no longer wanted are dropped now.
    pub fn want(&mut self, identities: impl IntoIterator<Item = SpiffeId>) {
        let mut before = std::mem::take(&mut self.wanted);
        for identity in identities {
            let held = before.remove(&identity);
            self.wanted
                .entry(identity)
                .or_insert_with(|| held.unwrap_or_default());
        }
        self.pending |= before.values().any(|held| held.certificate.is_some());
    }

    /// Changes the lifetime of certificates to come. Those that are held longer than the new one are renewed at once.
    pub fn set_lifetime(&mut self, lifetime: Duration) {
        if lifetime < self.lifetime {
            for held in self.wanted.values_mut() {
                held.due = None;
            }
        }
        self.lifetime = lifetime;
    }

    /// When [`Store::refresh`] has something to do next; `None` while nothing is wanted. It is a time of the wall clock,
    /// which may be set: look at least every few seconds whatever it says.
    pub fn due_at(&self) -> Option<SystemTime> {
        self.wanted
            .values()
            .map(|held| held.due.unwrap_or(SystemTime::UNIX_EPOCH))
            .min()
    }

    /// Whether something is to be done now. Refresh as well whenever [`Authority::reload`] found something.
    pub fn due(&self, now: SystemTime) -> bool {
        self.pending || self.wanted.values().any(|held| held.is_due(now))
    }

    /// Issues what is missing, due for renewal, or signed by a root that no longer signs; takes over the bundle.
    pub fn refresh(&mut self, now: SystemTime, authority: &Authority) -> Changed {
        let mut changed = Changed {
            any: self.pending,
            ..Changed::default()
        };
        let bundle = authority.bundle();
        if bundle != self.bundle {
            self.bundle = bundle;
            changed.bundle = true;
        }
        for (identity, held) in &mut self.wanted {
            if !held.is_due(now) && held.is_signed_by(authority.signer().name()) {
                continue;
            }
            match authority.issue_at(identity, self.lifetime, now) {
                Ok(certificate) => {
                    held.replace(certificate);
                    changed.issued.push(identity.clone());
                }
                Err(error) => {
                    held.postpone(now);
                    changed.failed.push((identity.clone(), error));
                }
            }
        }
        changed.any |= changed.bundle || !changed.issued.is_empty();
        if changed.any {
            self.generation += 1;
        }
        self.pending = false;
        changed
    }

    /// What the worker is to have.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            generation: self.generation,
            certificates: self
                .wanted
                .values()
                .filter_map(|held| held.certificate.clone())
                .collect(),
            bundle: self.bundle.clone(),
        }
    }

    /// The certificate of an identity, once there is one.
    pub fn certificate(&self, identity: &SpiffeId) -> Option<&Certificate> {
        self.wanted.get(identity)?.certificate.as_ref()
    }

    /// When the certificate of an identity will be renewed.
    pub fn renews_at(&self, identity: &SpiffeId) -> Option<SystemTime> {
        self.wanted.get(identity)?.due
    }
}

impl Held {
    fn is_due(&self, now: SystemTime) -> bool {
        let Some(due) = self.due else {
            return true;
        };
        // Not valid at all, on either side: the clock was set. Waiting would not help, unless issuing just failed.
        let outside = self.failures == 0
            && self.certificate.as_ref().is_some_and(|certificate| {
                !(certificate.not_before()..certificate.not_after()).contains(&now)
            });
        outside || due <= now
    }

    /// After a failure the root is asked again when the wait is over, not at every look.
    fn is_signed_by(&self, signer: &str) -> bool {
        self.failures > 0
            || self
                .certificate
                .as_ref()
                .is_some_and(|certificate| certificate.issuer() == signer)
    }

    fn replace(&mut self, certificate: Certificate) {
        self.due = Some(rotation::renew_at(
            certificate.issued_at(),
            certificate.not_after(),
            rand::random(),
        ));
        self.certificate = Some(certificate);
        self.failures = 0;
    }

    fn postpone(&mut self, now: SystemTime) {
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_RETRY);
        self.due = Some(now + wait);
        self.failures = self.failures.saturating_add(1);
    }
}
