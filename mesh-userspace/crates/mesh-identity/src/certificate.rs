//! A workload's certificate together with its private key. It must not know who issued it, nor what it is used for.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use mesh_core::identity::SpiffeId;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::{IdentityError, SvidError, handover, svid};

/// A certificate chain with its private key. Cheap to clone. The key is wiped when the last clone is dropped.
#[derive(Clone)]
pub struct Certificate(Arc<Parts>);

struct Parts {
    leaf: svid::Leaf,
    issued_at: SystemTime,
    /// PKCS #8, for the handover only; handshakes use `certified`.
    key: Zeroizing<Vec<u8>>,
    certified: Arc<CertifiedKey>,
}

impl Certificate {
    /// Takes a chain, leaf first, and the leaf's key. `issued_at` is when it was made, which its validity, being
    /// back-dated, does not tell.
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: Zeroizing<Vec<u8>>,
        issued_at: SystemTime,
    ) -> Result<Self, IdentityError> {
        let leaf = svid::inspect(chain.first().ok_or(SvidError::NoCertificate)?)?;
        let certified = certify(chain, &key).map_err(|source| IdentityError::Key {
            identity: leaf.identity.to_string(),
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
    pub fn identity(&self) -> &SpiffeId {
        &self.0.leaf.identity
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

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.certified.cert
    }

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

    /// What a handshake presents and signs with.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.certified)
    }
}

/// Two are equal when they are the same certificate.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.chain() == other.chain()
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
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
