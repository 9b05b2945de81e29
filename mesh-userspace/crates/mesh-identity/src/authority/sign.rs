//! One root with its key: making it, and signing certificates with it. It must not know where it is kept.

use std::fmt;
use std::time::{Duration, SystemTime};

use mesh_core::identity::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::AuthorityError;
use crate::key::Key;
use crate::svid::{Subject, uri};
use crate::{Certificate, Root, svid};

/// Peers whose clocks are behind by up to this much accept a new certificate at once.
const BACK_DATED: Duration = Duration::from_mins(5);
const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// Certificates count whole seconds.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);

/// A root certificate with its private key.
pub(super) struct Signer {
    root: Root,
    key: Key,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("root", &self.root.name())
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Makes a new root.
    pub(super) fn generate(
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let failed = |source| AuthorityError::Sign {
            what: "a root certificate",
            source,
        };
        let key = Key::generate().map_err(failed)?;
        let certificate = root_params(trust_domain, now)
            .and_then(|params| params.self_signed(&key.0))
            .map_err(failed)?;
        Self::join(certificate.into(), key, trust_domain).map_err(|why| AuthorityError::Unusable {
            what: format!("the root of {trust_domain}"),
            why,
        })
    }

    /// Joins a root certificate and the key that it certifies; an error is words that quote neither.
    pub(super) fn join(
        certificate: CertificateDer<'static>,
        key: Key,
        trust_domain: &TrustDomain,
    ) -> Result<Self, String> {
        if !certifies(&certificate, &key)? {
            return Err("the certificate is not that of the private key beside it".to_owned());
        }
        Ok(Self {
            root: Root::read(certificate, trust_domain)?,
            key,
        })
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// The key as it is stored.
    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.0.serialize_pem())
    }

    /// Issues a certificate with a new key, as of `now`.
    pub(super) fn issue<S: Subject>(
        &self,
        subject: &S,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Certificate<S>, AuthorityError> {
        let key = Key::generate().map_err(|source| AuthorityError::Sign {
            what: "a private key",
            source,
        })?;
        let certificate = self.sign(subject, &key.0, lifetime, now)?;
        Certificate::new(vec![certificate], key.to_der(), now).map_err(|source| {
            AuthorityError::Unusable {
                what: subject.to_string(),
                why: source.to_string(),
            }
        })
    }

    /// Signs a certificate for a public key, as of `now`.
    pub(super) fn sign<S: Subject>(
        &self,
        subject: &S,
        key: &impl PublicKeyData,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        if lifetime < SHORTEST_LIFETIME {
            return Err(AuthorityError::Lifetime { lifetime });
        }
        if !(self.root.not_before()..self.root.not_after()).contains(&now) {
            return Err(AuthorityError::RootNotValid {
                root: self.root.name().to_owned(),
            });
        }
        Issuer::from_ca_cert_der(self.root.der(), &self.key.0)
            .and_then(|issuer| {
                leaf_params(subject, self.validity(lifetime, now))?.signed_by(key, &issuer)
            })
            .map(Into::into)
            .map_err(|source| AuthorityError::Sign {
                what: "a certificate",
                source,
            })
    }

    /// Never longer than the root's own: path validation does not compare the two.
    fn validity(&self, lifetime: Duration, now: SystemTime) -> (SystemTime, SystemTime) {
        let root = &self.root;
        let not_before = now.checked_sub(BACK_DATED).unwrap_or(now);
        let not_after = now
            .checked_add(lifetime)
            .unwrap_or_else(|| root.not_after());
        let (not_before, not_after) = (
            not_before.max(root.not_before()),
            not_after.min(root.not_after()),
        );
        (not_before, not_after)
    }
}

/// Whether a certificate's public key is that of `key`.
pub(super) fn certifies(certificate: &CertificateDer<'_>, key: &Key) -> Result<bool, String> {
    let certificate = svid::parse(certificate).map_err(|error| error.to_string())?;
    Ok(certificate.public_key().raw == key.public())
}

fn root_params(
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let serial = serial();
    let mut params = CertificateParams::default();
    params.not_before = now
        .checked_sub(BACK_DATED)
        .unwrap_or(SystemTime::UNIX_EPOCH)
        .into();
    params.not_after = (now + ROOT_LIFETIME).into();
    // Path validation finds issuers by name, and people tell roots apart by it: no two may share one.
    let name = svid::hex(serial.get(..8).unwrap_or_default());
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("Warren root {name}"));
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    // It signs workload certificates, and nothing in between.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params<S: Subject>(
    subject: &S,
    (not_before, not_after): (SystemTime, SystemTime),
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.serial_number = Some(SerialNumber::from_slice(&serial()));
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = subject.names()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = S::PURPOSES.to_extension();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 16 random bytes as a positive integer that needs no padding (RFC 5280 §4.1.2.2).
fn serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}
