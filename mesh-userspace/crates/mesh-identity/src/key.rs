//! A private key in memory: ECDSA P-256, wiped when it is dropped, never printed.

use std::fmt;

use rcgen::{KeyPair, PublicKeyData};
use zeroize::{Zeroize, Zeroizing};

/// A private key.
pub(crate) struct Key(pub(crate) KeyPair);

impl Key {
    /// Makes a new one.
    pub(crate) fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// The public half, as certificates carry it.
    pub(crate) fn public(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// PKCS #8.
    pub(crate) fn to_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}
