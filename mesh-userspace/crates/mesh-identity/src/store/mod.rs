//! The agent's certificates: one for each identity that runs on this node, renewed in time. It must not read a clock, a
//! directory or a network; the issuer and the moment are arguments.
//!
//! Two ways to certificates, with the same rules (renewal at half life with jitter, ever longer waits after failures, the
//! old certificate stays until the new one is there, all anew when another root signs):
//!
//! * **Local**, where the node shares the authority: [`Store::new`], then [`Store::refresh`] whenever [`Store::due`].
//! * **Remote**, where the controller signs and keys are made here: [`Store::remote`], then, whenever [`Store::due`],
//!   [`Store::requests_due`]; what comes back goes to [`Store::take`] or [`Store::refused`], other roots to
//!   [`Store::trust`]; after each, [`Store::changed`] gives what the worker is to have, if that is something else.
//!
//! Nothing is written to disk. A worker that is restarted gets everything from the agent again. An agent that is restarted
//! has no certificates until the controller has signed new ones, and the worker before it goes on with those that it was
//! handed, which are good for at least four tenths of their lifetime. So an agent must not take over from a worker while
//! [`Store::is_complete`] is not true and the worker before it still serves; if the node itself starts anew while the
//! controller is away, its workloads wait for the controller.

mod node;
mod serving;
mod slot;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use rustls_pki_types::CertificateDer;

pub use self::node::NodeStore;
pub use self::serving::Serving;
use self::slot::{Slot, Trust};
use crate::authority::{Authority, AuthorityError};
use crate::failure::with_causes;
use crate::{Certificate, IdentityError, TrustBundle};

/// When another root signs, a cluster of nodes asks for everything anew: within this, and not all at once.
const SPREAD: Duration = Duration::from_secs(10);

/// The most requests that [`Store::requests_due`] gives at once; the next call gives the others.
pub const MOST_AT_ONCE: usize = 200;

/// Certificates by identity, with the bundle they are verified against.
#[derive(Debug)]
pub struct Store {
    lifetime: Duration,
    wanted: BTreeMap<SpiffeId, Slot<SpiffeId>>,
    trust: Trust,
    generation: u64,
    /// Something changed since the last [`Store::refresh`] or [`Store::changed`].
    pending: bool,
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

/// A certificate that the controller is to sign. Its key stays in the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Due {
    /// Whose.
    pub identity: SpiffeId,
    /// The request (PKCS #10, DER).
    pub csr: Vec<u8>,
}

impl Store {
    /// A store without identities, for certificates of this lifetime, issued by an authority that is at hand.
    pub fn new(authority: &Authority, lifetime: Duration) -> Self {
        Self::with(trust_of(authority), lifetime)
    }

    /// A store without identities, for certificates that somebody else signs. `bundle` is what is trusted for now, the root
    /// that signs first; `lifetime` what the signer is expected to give.
    pub fn remote(bundle: TrustBundle, lifetime: Duration) -> Self {
        let signer = bundle.first().map(str::to_owned);
        Self::with(Trust { bundle, signer }, lifetime)
    }

    fn with(trust: Trust, lifetime: Duration) -> Self {
        Self {
            lifetime,
            wanted: BTreeMap::new(),
            trust,
            generation: 0,
            pending: true,
        }
    }

    /// Sets the identities that this node needs. New ones are due at once; the certificates of those that are no longer
    /// wanted are dropped now.
    pub fn want(&mut self, identities: impl IntoIterator<Item = SpiffeId>) {
        let mut before = std::mem::take(&mut self.wanted);
        for identity in identities {
            let slot = before.remove(&identity);
            self.wanted
                .entry(identity)
                .or_insert_with(|| slot.unwrap_or_default());
        }
        self.pending |= before.values().any(|slot| slot.certificate().is_some());
    }

    /// Changes the lifetime of certificates to come. Those that are held longer than the new one are renewed at once.
    pub fn set_lifetime(&mut self, lifetime: Duration) {
        if lifetime < self.lifetime {
            self.wanted.values_mut().for_each(Slot::hurry);
        }
        self.lifetime = lifetime;
    }

    /// When something is to be done next; `None` while nothing is wanted. It is a time of the wall clock, which may be set:
    /// look at least every few seconds whatever it says.
    pub fn due_at(&self) -> Option<SystemTime> {
        self.wanted
            .values()
            .map(|slot| slot.due().unwrap_or(SystemTime::UNIX_EPOCH))
            .min()
    }

    /// Whether something is to be done now. Refresh as well whenever [`Authority::reload`] found something.
    pub fn due(&self, now: SystemTime) -> bool {
        self.pending || self.wanted.values().any(|slot| slot.is_due(now))
    }

    /// Local: issues what is missing, due for renewal, or signed by a root that no longer signs; takes over the bundle.
    pub fn refresh(&mut self, now: SystemTime, authority: &Authority) -> Changed {
        let mut changed = Changed {
            any: self.pending,
            ..Changed::default()
        };
        let trust = trust_of(authority);
        changed.bundle = !trust.bundle.has_roots_of(&self.trust.bundle);
        self.trust = trust;
        for (identity, slot) in &mut self.wanted {
            slot.follow(&self.trust, now, now);
            if !slot.is_due(now) {
                continue;
            }
            match authority.issue_at(identity, self.lifetime, now) {
                Ok(certificate) => {
                    slot.take_issued(certificate, &self.trust, now);
                    changed.issued.push(identity.clone());
                }
                Err(error) => {
                    slot.postpone(with_causes(&error), now);
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

    /// Remote: takes over the trusted roots, and the name of the one that signs ([`crate::Root::name`]): the first one, where
    /// nobody says it. Certificates of another one are asked for anew, within seconds but not all at once; at once when
    /// their own root is gone.
    pub fn trust(&mut self, bundle: TrustBundle, signer: Option<&str>, now: SystemTime) {
        let signer = signer.or_else(|| bundle.first()).map(str::to_owned);
        if bundle == self.trust.bundle && signer == self.trust.signer {
            return;
        }
        self.pending |= !bundle.has_roots_of(&self.trust.bundle);
        self.trust = Trust { bundle, signer };
        for slot in self.wanted.values_mut() {
            let by = now + SPREAD.mul_f64(rand::random());
            slot.follow(&self.trust, now, by);
        }
    }

    /// Remote: makes keys and requests for what is missing or due, at most [`MOST_AT_ONCE`]. Each is to be answered by
    /// [`Store::take`] or [`Store::refused`], soon; one that is not is made anew after half a minute.
    pub fn requests_due(&mut self, now: SystemTime) -> Vec<Due> {
        self.wanted
            .iter_mut()
            .filter(|(_, slot)| slot.is_due(now))
            .take(MOST_AT_ONCE)
            .filter_map(|(identity, slot)| {
                // A failure to make a key is kept as the reason, and tried again like a refusal.
                let csr = slot.ask(identity, now).ok()?;
                let identity = identity.clone();
                Some(Due { identity, csr })
            })
            .collect()
    }

    /// Remote: takes a chain that was signed, leaf first, DER, and joins it with its key. What is not exactly what was
    /// asked for is refused, and asked again after a wait; what there was before stays.
    ///
    /// # Errors
    /// [`IdentityError::NotAwaited`], [`IdentityError::OtherKey`], [`IdentityError::OtherIdentity`] or
    /// [`IdentityError::Certificate`].
    pub fn take<C: Into<Vec<u8>>>(
        &mut self,
        identity: &SpiffeId,
        chain: impl IntoIterator<Item = C>,
        now: SystemTime,
    ) -> Result<(), IdentityError> {
        let slot = self
            .wanted
            .get_mut(identity)
            .ok_or_else(|| IdentityError::NotAwaited {
                identity: identity.to_string(),
            })?;
        slot.take(identity, to_chain(chain), &self.trust, now)?;
        self.pending = true;
        Ok(())
    }

    /// Remote: what was asked for is refused, or could not be asked. It is asked again after a wait, ever longer. What was
    /// not asked for, or has been answered, cannot be refused.
    pub fn refused(&mut self, identity: &SpiffeId, why: impl Into<String>, now: SystemTime) {
        if let Some(slot) = self.wanted.get_mut(identity) {
            slot.refused(why.into(), now);
        }
    }

    /// Remote: the controller is there again; what failed is asked again at once.
    pub fn retry(&mut self) {
        self.wanted.values_mut().for_each(Slot::retry);
    }

    /// Remote: what the worker is to have, when that changed since the last call.
    pub fn changed(&mut self) -> Option<Snapshot> {
        if !self.pending {
            return None;
        }
        self.pending = false;
        self.generation += 1;
        Some(self.snapshot())
    }

    /// What the worker is to have.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            generation: self.generation,
            certificates: self
                .wanted
                .values()
                .filter_map(|slot| slot.certificate().cloned())
                .collect(),
            bundle: self.trust.bundle.clone(),
        }
    }

    /// Whether every wanted identity has a certificate that is valid at `now`.
    pub fn is_complete(&self, now: SystemTime) -> bool {
        self.wanted.values().all(|slot| {
            slot.certificate()
                .is_some_and(|certificate| now < certificate.not_after())
        })
    }

    /// The certificate of an identity, once there is one.
    pub fn certificate(&self, identity: &SpiffeId) -> Option<&Certificate> {
        self.wanted.get(identity)?.certificate()
    }

    /// When the certificate of an identity will be renewed.
    pub fn renews_at(&self, identity: &SpiffeId) -> Option<SystemTime> {
        self.wanted.get(identity)?.due()
    }

    /// Identities whose last attempt failed, with why. They are tried again by themselves.
    pub fn refusals(&self) -> impl Iterator<Item = (&SpiffeId, &str)> {
        self.wanted
            .iter()
            .filter_map(|(identity, slot)| Some((identity, slot.refusal()?)))
    }
}

fn trust_of(authority: &Authority) -> Trust {
    Trust {
        bundle: authority.bundle(),
        signer: Some(authority.signer().name().to_owned()),
    }
}

fn to_chain<C: Into<Vec<u8>>>(chain: impl IntoIterator<Item = C>) -> Vec<CertificateDer<'static>> {
    chain
        .into_iter()
        .map(|certificate| CertificateDer::from(certificate.into()))
        .collect()
}
