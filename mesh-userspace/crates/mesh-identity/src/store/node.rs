//! A node's own certificate, which it shows to the controller: asked for with its token, renewed like those of workloads.

use std::time::SystemTime;

use super::slot::{Slot, Trust};
use super::to_chain;
use crate::{IdentityError, NodeCertificate, NodeIdentity, TrustBundle, svid};

/// A node's own certificate. The same rules as [`super::Store`]'s remote way.
#[derive(Debug)]
pub struct NodeStore {
    node: NodeIdentity,
    slot: Slot<NodeIdentity>,
    trust: Trust,
}

impl NodeStore {
    /// A store that has none yet. `bundle` is what is trusted for now.
    pub fn new(node: NodeIdentity, bundle: TrustBundle) -> Self {
        Self {
            node,
            slot: Slot::default(),
            trust: Trust {
                bundle,
                signer: None,
            },
        }
    }

    /// The node.
    pub fn node(&self) -> &NodeIdentity {
        &self.node
    }

    /// The trusted roots.
    pub fn bundle(&self) -> &TrustBundle {
        &self.trust.bundle
    }

    /// Takes over the trusted roots, and the name of the one that signs. Where nobody says which one signs, the certificate
    /// is asked for anew when its root is gone; it is for the controller's eyes only, which trusts all of them.
    pub fn trust(&mut self, bundle: TrustBundle, signer: Option<&str>, now: SystemTime) {
        let signer = signer.map(str::to_owned);
        self.trust = Trust { bundle, signer };
        self.slot.follow(&self.trust, now, now);
    }

    /// When a request is due next; `None`: now.
    pub fn due_at(&self) -> Option<SystemTime> {
        self.slot.due()
    }

    /// Makes a key and a request for it (PKCS #10, DER) when one is due.
    pub fn request_due(&mut self, now: SystemTime) -> Option<Vec<u8>> {
        if !self.slot.is_due(now) {
            return None;
        }
        // A failure is kept as the reason, and tried again like a refusal.
        self.slot.ask(&self.node, now).ok()
    }

    /// Takes the chain that was signed, leaf first, DER.
    ///
    /// # Errors
    /// As [`super::Store::take`].
    pub fn take<C: Into<Vec<u8>>>(
        &mut self,
        chain: impl IntoIterator<Item = C>,
        now: SystemTime,
    ) -> Result<(), IdentityError> {
        self.slot
            .take(&self.node, to_chain(chain), &self.trust, now)
    }

    /// What was asked for is refused, or could not be asked.
    pub fn refused(&mut self, why: impl Into<String>, now: SystemTime) {
        self.slot.refused(why.into(), now);
    }

    /// The controller is there again; what failed is asked again at once.
    pub fn retry(&mut self) {
        self.slot.retry();
    }

    /// The certificate to show, once there is one. One that nobody would take (it has expired, or its root is trusted no
    /// more) is not shown: without one, a node may ask for another with its token.
    pub fn certificate(&self, now: SystemTime) -> Option<&NodeCertificate> {
        let now = svid::unix_time(now);
        self.slot.certificate().filter(|certificate| {
            svid::verify_node(&self.trust.bundle, certificate.chain(), now).is_ok()
        })
    }

    /// Why the last attempt failed.
    pub fn refusal(&self) -> Option<&str> {
        self.slot.refusal()
    }
}
