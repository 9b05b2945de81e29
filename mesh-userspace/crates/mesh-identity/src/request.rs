//! Certificates that somebody else signs: the key is made here and stays here; what goes out is a request for its public
//! half (PKCS #10), what comes back is a chain.
//!
//! A request says whose certificate is wanted, but only for people who look at it: the signer decides that by itself, and
//! takes nothing from a request but the public key and the proof that whoever sent it has the private one.

use std::fmt;
use std::time::SystemTime;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use mesh_core::identity::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData, SignatureAlgorithm};
use rustls_pki_types::CertificateDer;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::AlgorithmIdentifier;

use crate::key::Key;
use crate::svid::{self, Subject};
use crate::{Certificate, IdentityError, SvidError, TrustBundle};

/// Ours take about 400 bytes; with an identity of the greatest length 2.5 KiB.
pub const LARGEST: usize = 4 * 1024;

/// A key that waits for its certificate. The key is wiped when this is dropped.
pub struct Request<S: Subject = SpiffeId> {
    subject: S,
    key: Key,
    csr: Vec<u8>,
}

/// Why a request is not signed. It is the sender's fault.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Larger than any honest one.
    #[error("the certificate request has {size} bytes, at most {LARGEST} are taken")]
    TooLarge {
        /// Its size.
        size: usize,
    },
    /// Not a certificate request.
    #[error("the certificate request cannot be read (PKCS #10, DER): {why}")]
    Unreadable {
        /// What is wrong with it.
        why: String,
    },
    /// A key of another kind than ours.
    #[error("the certificate request is for {found}; only ECDSA P-256 keys are certified")]
    KeyType {
        /// What it is for.
        found: String,
    },
    /// Nobody has shown that they have the private key.
    #[error("the certificate request is not signed by the key that it is for")]
    Signature,
}

impl<S: Subject> Request<S> {
    /// Makes a key and a request for it.
    ///
    /// # Errors
    /// [`IdentityError::Request`] when the library fails.
    pub fn new(subject: S) -> Result<Self, IdentityError> {
        let made = Key::generate().and_then(|key| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.subject_alt_names = subject.names()?;
            let csr = params.serialize_request(&key.0)?;
            Ok((key, csr.der().to_vec()))
        });
        let (key, csr) = made.map_err(|source| IdentityError::Request {
            identity: subject.to_string(),
            source,
        })?;
        Ok(Self { subject, key, csr })
    }

    /// Whose certificate is wanted.
    pub fn identity(&self) -> &S {
        &self.subject
    }

    /// The request, DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Whether a chain, leaf first, is for this key. A late answer to an earlier request is not.
    pub fn is_answered_by(&self, chain: &[CertificateDer<'_>]) -> bool {
        chain.first().is_some_and(|leaf| {
            svid::parse(leaf).is_ok_and(|leaf| leaf.public_key().raw == self.key.public())
        })
    }

    /// Joins the key with the chain that was signed for it, leaf first: for this key and this identity, leading to a root
    /// of the bundle, and valid at `now`.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] with the rule that is broken, [`IdentityError::OtherKey`] or
    /// [`IdentityError::OtherIdentity`].
    pub fn complete(
        &self,
        chain: Vec<CertificateDer<'static>>,
        bundle: &TrustBundle,
        now: SystemTime,
    ) -> Result<Certificate<S>, IdentityError> {
        if chain.is_empty() {
            return Err(SvidError::NoCertificate.into());
        }
        let got: S = svid::verify_as(bundle, &chain, svid::unix_time(now))?;
        if got != self.subject {
            return Err(IdentityError::OtherIdentity {
                wanted: self.subject.to_string(),
                got: got.to_string(),
            });
        }
        if !self.is_answered_by(&chain) {
            return Err(IdentityError::OtherKey {
                identity: self.subject.to_string(),
            });
        }
        Certificate::new(chain, self.key.to_der(), now)
    }
}

impl<S: Subject> fmt::Debug for Request<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("identity", &self.subject.to_string())
            .finish_non_exhaustive()
    }
}

/// A public key that somebody has proven to have the private half of: all that is taken from a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ProvenKey {
    /// The point on the curve, uncompressed (SEC 1 §2.3.3).
    point: Vec<u8>,
}

impl ProvenKey {
    /// Reads a request and verifies its signature.
    pub(crate) fn read(csr: &[u8]) -> Result<Self, RequestError> {
        if csr.len() > LARGEST {
            return Err(RequestError::TooLarge { size: csr.len() });
        }
        let unreadable = |why: String| RequestError::Unreadable { why };
        let (rest, request) = X509CertificationRequest::from_der(csr)
            .map_err(|error| unreadable(error.to_string()))?;
        if !rest.is_empty() {
            return Err(unreadable("there are bytes after its end".to_owned()));
        }
        let public = &request.certification_request_info.subject_pki;
        let point = public.subject_public_key.data.as_ref();
        check_key_type(&public.algorithm, point)?;
        if request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 {
            return Err(RequestError::Signature);
        }
        // It also makes sure that the point is on the curve.
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .verify(
                request.certification_request_info.raw,
                &request.signature_value.data,
            )
            .map_err(|_unspecified| RequestError::Signature)?;
        Ok(Self {
            point: point.to_vec(),
        })
    }
}

impl PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

fn check_key_type(algorithm: &AlgorithmIdentifier<'_>, point: &[u8]) -> Result<(), RequestError> {
    let other = |found: String| Err(RequestError::KeyType { found });
    if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        return other(format!("a key of the type {}", algorithm.algorithm));
    }
    let curve = algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok());
    match curve {
        Some(curve) if curve == OID_EC_P256 => {}
        Some(curve) => return other(format!("an elliptic curve key of the curve {curve}")),
        None => return other("an elliptic curve key without a named curve".to_owned()),
    }
    if point.len() != 65 || point.first() != Some(&4) {
        return other("a P-256 key that is not an uncompressed point".to_owned());
    }
    Ok(())
}
