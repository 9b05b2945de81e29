//! Certificate requests as an attacker would write them, byte by byte.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rcgen::{KeyPair, PublicKeyData};

/// One DER element.
pub fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut element = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..=127) => element.push(short),
        _ => {
            element.push(0x82);
            element.extend(u16::try_from(length).expect("short").to_be_bytes());
        }
    }
    element.extend(content);
    element
}

/// What a request is made of.
pub struct Parts {
    /// The public key, as SubjectPublicKeyInfo.
    pub public: Vec<u8>,
    /// The signature algorithm's object identifier, DER.
    pub algorithm: Vec<u8>,
    /// Signs.
    pub key: EcdsaKeyPair,
}

/// ecdsa-with-SHA256 (1.2.840.10045.4.3.2).
pub const ECDSA_SHA256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// ecdsa-with-SHA384.
pub const ECDSA_SHA384: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
/// id-ecPublicKey (1.2.840.10045.2.1).
pub const EC_KEY: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
/// prime256v1 (1.2.840.10045.3.1.7).
pub const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];

impl Parts {
    pub fn good(key: &KeyPair) -> Self {
        Self {
            public: key.subject_public_key_info(),
            algorithm: ECDSA_SHA256.to_vec(),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.serialized_der())
                .expect("a key"),
        }
    }

    /// The request.
    pub fn csr(&self) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), &self.info());
        self.with_signature(signature.expect("signed").as_ref())
    }

    /// The request with a signature that somebody made up.
    pub fn with_signature(&self, signature: &[u8]) -> Vec<u8> {
        let bits = [&[0], signature].concat();
        der(
            0x30,
            &[self.info(), der(0x30, &self.algorithm), der(3, &bits)].concat(),
        )
    }

    fn info(&self) -> Vec<u8> {
        der(
            0x30,
            &[
                der(2, &[0]),
                der(0x30, &[]),
                self.public.clone(),
                der(0xa0, &[]),
            ]
            .concat(),
        )
    }
}

/// A SubjectPublicKeyInfo.
pub fn public(algorithm: &[&[u8]], point: &[u8]) -> Vec<u8> {
    let bits = [&[0], point].concat();
    der(
        0x30,
        &[der(0x30, &algorithm.concat()), der(3, &bits)].concat(),
    )
}
