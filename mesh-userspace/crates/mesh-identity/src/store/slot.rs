//! One certificate that is wanted: when it is due, what was asked for it, and what came back. It must not know who issues.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use crate::failure::with_causes;
use crate::request::Request;
use crate::svid::Subject;
use crate::{Certificate, IdentityError, TrustBundle};

/// The wait after an issue that failed, at first; doubled with each failure in a row.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// A request without an answer is lost after this. Signing takes less than a millisecond, and connections that break
/// refuse what was asked over them.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// One certificate that is wanted.
#[derive(Debug)]
pub(super) struct Slot<S: Subject> {
    certificate: Option<Certificate<S>>,
    /// When to renew, or to try again, or when what was asked for is lost; `None`: at once.
    due: Option<SystemTime>,
    /// Failures in a row.
    failures: u32,
    /// A request that is under way.
    asked: Option<Request<S>>,
    /// Why the last attempt failed.
    refusal: Option<String>,
}

/// What certificates are verified against, and which root signs now.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub(super) bundle: TrustBundle,
    /// Name of the root that signs; `None` while nobody has said.
    pub(super) signer: Option<String>,
}

impl<S: Subject> Default for Slot<S> {
    fn default() -> Self {
        Self {
            certificate: None,
            due: None,
            failures: 0,
            asked: None,
            refusal: None,
        }
    }
}

impl Trust {
    /// Whether a certificate is the signing root's; if that is not known, whether its root is still there.
    fn is_current(&self, issuer: &str) -> bool {
        match &self.signer {
            Some(signer) => signer == issuer,
            None => self.has_root(issuer),
        }
    }

    fn has_root(&self, name: &str) -> bool {
        self.bundle.roots().iter().any(|root| root.name() == name)
    }
}

impl<S: Subject> Slot<S> {
    pub(super) fn certificate(&self) -> Option<&Certificate<S>> {
        self.certificate.as_ref()
    }

    /// `None`: at once.
    pub(super) fn due(&self) -> Option<SystemTime> {
        self.due
    }

    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Whether a certificate is to be issued, or asked for, now.
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        let Some(due) = self.due else {
            return true;
        };
        if self.failures > 0 || self.asked.is_some() {
            // A wait that is longer than any is one that the clock was set back in.
            return due <= now || due > now + LONGEST_RETRY;
        }
        // Not valid at all, on either side: the clock was set.
        let outside = self.certificate.as_ref().is_some_and(|certificate| {
            !(certificate.not_before()..certificate.not_after()).contains(&now)
        });
        outside || due <= now
    }

    /// Has it issued anew at once.
    pub(super) fn hurry(&mut self) {
        self.due = None;
    }

    /// After failures: tries again at once, since whoever refused has changed.
    pub(super) fn retry(&mut self) {
        if self.failures > 0 {
            self.due = None;
        }
    }

    /// Another root signs: the certificate is issued anew, at the latest at `by`; at once when its own root is trusted no
    /// more. What waits after a failure, or for an answer, gets the new root's signature when its turn comes.
    pub(super) fn follow(&mut self, trust: &Trust, now: SystemTime, by: SystemTime) {
        let Some(issuer) = self.certificate.as_ref().map(Certificate::issuer) else {
            return;
        };
        if trust.is_current(issuer) || self.failures > 0 || self.asked.is_some() {
            return;
        }
        let by = if trust.has_root(issuer) { by } else { now };
        self.due = self.due.map(|due| due.min(by));
    }

    /// Makes a key and a request for it. What was asked before is forgotten: its answer is lost, or was awaited too long.
    pub(super) fn ask(&mut self, subject: &S, now: SystemTime) -> Result<Vec<u8>, IdentityError> {
        self.asked = None;
        match Request::new(subject.clone()) {
            Ok(request) => {
                let csr = request.csr().to_vec();
                self.asked = Some(request);
                self.due = Some(now + ANSWER_WITHIN);
                Ok(csr)
            }
            Err(error) => {
                self.postpone(with_causes(&error), now);
                Err(error)
            }
        }
    }

    /// Takes the answer. On an error what was there stays, and it is asked again after a wait.
    pub(super) fn take(
        &mut self,
        subject: &S,
        chain: Vec<CertificateDer<'static>>,
        trust: &Trust,
        now: SystemTime,
    ) -> Result<(), IdentityError> {
        let Some(asked) = &self.asked else {
            return Err(IdentityError::NotAwaited {
                identity: subject.to_string(),
            });
        };
        match asked.complete(chain, &trust.bundle, now) {
            Ok(certificate) => {
                self.take_issued(certificate, trust, now);
                Ok(())
            }
            // The answer to an earlier request: the one to this may still come.
            Err(error @ IdentityError::OtherKey { .. }) => Err(error),
            Err(error) => {
                self.postpone(with_causes(&error), now);
                Err(error)
            }
        }
    }

    /// Takes a new certificate instead of what there was.
    pub(super) fn take_issued(
        &mut self,
        certificate: Certificate<S>,
        trust: &Trust,
        now: SystemTime,
    ) {
        let is_current = trust.is_current(certificate.issuer());
        let issuer = certificate.issuer().to_owned();
        self.due = Some(certificate.renew_at(rand::random()));
        self.certificate = Some(certificate);
        self.asked = None;
        // An issuer below a root is not known by name; it was verified to lead to one.
        if is_current || trust.signer.is_none() {
            self.failures = 0;
            self.refusal = None;
        } else {
            // Whoever signed has not heard of the new root yet. It serves until the next try.
            self.postpone(
                format!("it was signed by {issuer}, which is not the root that signs now"),
                now,
            );
        }
    }

    /// The request that is under way is refused.
    pub(super) fn refused(&mut self, why: String, now: SystemTime) {
        if self.asked.is_some() {
            self.postpone(why, now);
        }
    }

    /// It could not be issued: another try after a wait.
    pub(super) fn postpone(&mut self, why: String, now: SystemTime) {
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_RETRY);
        self.due = Some(now + wait);
        self.failures = self.failures.saturating_add(1);
        self.asked = None;
        self.refusal = Some(why);
    }
}
