//! A certificate of our own together with its private key. It must not know who issued it, nor what it is used for.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_core::identity::SpiffeId;
use mesh_core::rotation;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::node::NodeIdentity;
use crate::svid::{ServerIdentity, Subject};
use crate::{IdentityError, SvidError, handover, svid};

/// A certificate chain with its private key: a workload's, unless said otherwise. Cheap to clone. The key is wiped when
/// the last clone is dropped.
pub struct Certificate<S: Subject = SpiffeId>(Arc<Parts<S>>);

/// The certificate by which a node proves to the controller which node it is.
pub type NodeCertificate = Certificate<NodeIdentity>;

/// The certificate by which the controller serves nodes and the aggregated API.
pub type ServerCertificate = Certificate<ServerIdentity>;

struct Parts<S> {
    leaf: svid::Leaf<S>,
    issued_at: SystemTime,
    /// PKCS #8, for the handover only; handshakes use `certified`.
    key: Zeroizing<Vec<u8>>,
    certified: Arc<CertifiedKey>,
}

impl<S: Subject> Certificate<S> {
    /// Takes a chain, leaf first, and the leaf's key. `issued_at` is when it was made, which its validity, being
    /// back-dated, does not tell.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Zeroizing<Vec<u8>>,
        issued_at: SystemTime,
    ) -> Result<Self, IdentityError> {
        let leaf: svid::Leaf<S> = svid::inspect(chain.first().ok_or(SvidError::NoCertificate)?)?;
        let certified = certify(chain, &key).map_err(|source| IdentityError::Key {
            identity: leaf.subject.to_string(),
            source,
        })?;
        Ok(Self(Arc::new(Parts {
            leaf,
            issued_at,
            key,
            certified: Arc::new(certified),
        })))
    }

    /// Whose it is.
    pub fn identity(&self) -> &S {
        &self.0.leaf.subject
    }

    /// Valid from; earlier than it was issued, so that a peer whose clock is behind accepts it.
    pub fn not_before(&self) -> SystemTime {
        self.0.leaf.not_before
    }

    /// Valid until.
    pub fn not_after(&self) -> SystemTime {
        self.0.leaf.not_after
    }

    /// When it was issued: its lifetime, and so its renewal, counts from here.
    pub fn issued_at(&self) -> SystemTime {
        self.0.issued_at
    }

    /// Serial number, hexadecimal.
    pub fn serial(&self) -> &str {
        &self.0.leaf.serial
    }

    /// Name of the root or intermediate that signed it; [`crate::Root::name`] of a root.
    pub fn issuer(&self) -> &str {
        &self.0.leaf.issuer
    }

    /// When to renew it: at half of its life, moved by `jitter`, a random number, so that not all come at once.
    pub fn renew_at(&self, jitter: u64) -> SystemTime {
        rotation::renew_at(self.issued_at(), self.not_after(), jitter)
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.certified.cert
    }

    /// What a handshake presents and signs with.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.certified)
    }
}

/// The worker is handed workload certificates, and no other.
impl Certificate {
    /// The certificate with its key, for the worker. Wiped when dropped; do not copy it out.
    pub fn to_handover(&self) -> Zeroizing<Vec<u8>> {
        handover::write(self.chain(), &self.0.key, self.0.issued_at)
    }

    /// Reads what [`Certificate::to_handover`] wrote, and checks it like a peer's certificate, except for its time.
    ///
    /// # Errors
    /// [`IdentityError::Handover`], [`IdentityError::Certificate`] or [`IdentityError::Key`].
    pub fn from_handover(bytes: &[u8]) -> Result<Self, IdentityError> {
        let handover::Read {
            chain,
            key,
            issued_at,
        } = handover::read(bytes)?;
        Self::new(chain, key, issued_at)
    }
}

/// Two are equal when they are the same certificate.
impl<S: Subject> PartialEq for Certificate<S> {
    fn eq(&self, other: &Self) -> bool {
        self.chain() == other.chain()
    }
}

impl<S: Subject> Eq for Certificate<S> {}

impl<S: Subject> Clone for Certificate<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Subject> fmt::Debug for Certificate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("identity", &self.identity().to_string())
            .field("serial", &self.serial())
            .field("issuer", &self.issuer())
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}

/// Joins chain and key, and makes sure that they belong together. The key is borrowed throughout: no copy of it stays
/// behind in freed memory.
fn certify(chain: Vec<CertificateDer<'static>>, key: &[u8]) -> Result<CertifiedKey, rustls::Error> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let certified = CertifiedKey::new(chain, any_supported_type(&key)?);
    certified.keys_match()?;
    Ok(certified)
}
