//! The controller's serving certificate, issued by its own authority and renewed like those of workloads.

use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;

use super::slot::Slot;
use super::trust_of;
use crate::ServerCertificate;
use crate::authority::{Authority, AuthorityError};
use crate::failure::with_causes;
use crate::svid::ServerIdentity;

/// The controller's serving certificate.
#[derive(Debug)]
pub struct Serving {
    identity: SpiffeId,
    dns_names: Vec<String>,
    lifetime: Duration,
    slot: Slot<ServerIdentity>,
}

impl Serving {
    /// For a server of this identity and these DNS names.
    pub fn new(identity: SpiffeId, dns_names: Vec<String>, lifetime: Duration) -> Self {
        Self {
            identity,
            dns_names,
            lifetime,
            slot: Slot::default(),
        }
    }

    /// Issues it when it is missing, due for renewal, or signed by a root that no longer signs. Says whether it did: then
    /// the TLS configurations are to be made anew. Look every few seconds.
    ///
    /// # Errors
    /// As [`Authority::issue_server`]; the certificate that there was stays, and it is tried again after a wait.
    pub fn refresh(
        &mut self,
        now: SystemTime,
        authority: &Authority,
    ) -> Result<bool, AuthorityError> {
        let trust = trust_of(authority);
        self.slot.follow(&trust, now, now);
        if !self.slot.is_due(now) {
            return Ok(false);
        }
        let issued = authority.issue_server(&self.identity, &self.dns_names, self.lifetime, now);
        match issued {
            Ok(certificate) => {
                self.slot.take_issued(certificate, &trust, now);
                Ok(true)
            }
            Err(error) => {
                self.slot.postpone(with_causes(&error), now);
                Err(error)
            }
        }
    }

    /// The certificate, once there is one.
    pub fn certificate(&self) -> Option<&ServerCertificate> {
        self.slot.certificate()
    }
}
