//! The root certificates that a trust domain is verified against: one as a rule, several during a rotation.
//!
//! Public material only; it must not know keys.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use mesh_core::identity::TrustDomain;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};

use crate::{IdentityError, svid};

/// A trust domain with its roots. Cheap to clone; two are equal when domain and roots are, in the same order. In an
/// authority's bundle the root that signs comes first.
#[derive(Clone)]
pub struct TrustBundle(Arc<Parts>);

struct Parts {
    trust_domain: TrustDomain,
    roots: Vec<Root>,
    /// Prepared for path validation, one per root, in the same order.
    anchors: Vec<TrustAnchor<'static>>,
}

/// One trusted root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Root {
    der: CertificateDer<'static>,
    name: String,
    fingerprint: String,
    not_before: SystemTime,
    not_after: SystemTime,
    /// How many intermediates may stand between it and a workload's certificate.
    path_length: Option<usize>,
}

impl Root {
    /// Reads a certificate that is to be trusted; an error is words without the certificate's place.
    pub(crate) fn read(
        der: CertificateDer<'static>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, String> {
        let certificate = svid::parse(&der).map_err(|error| error.to_string())?;
        if !certificate.is_ca() {
            return Err(
                "it is not the certificate of a certificate authority (CA:TRUE)".to_owned(),
            );
        }
        if !svid::may_sign(&certificate).map_err(|error| error.to_string())? {
            return Err("its key usage lacks keyCertSign".to_owned());
        }
        if !svid::within_trust_domain(&certificate, trust_domain)
            .map_err(|error| error.to_string())?
        {
            return Err("it belongs to another trust domain".to_owned());
        }
        Ok(Self {
            name: certificate.subject().to_string(),
            fingerprint: svid::hex(digest::digest(&digest::SHA256, &der).as_ref()),
            not_before: svid::system_time(certificate.validity().not_before.timestamp()),
            not_after: svid::system_time(certificate.validity().not_after.timestamp()),
            path_length: svid::path_length(&certificate),
            der,
        })
    }

    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its subject, as [`crate::Certificate::issuer`] of the certificates that it signed.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the certificate, hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Valid from.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Valid until.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl TrustBundle {
    /// Takes root certificates, DER. Repeated ones count once.
    ///
    /// # Errors
    /// [`IdentityError::NoRoots`], or [`IdentityError::Root`] for a certificate that is not a certificate authority's or
    /// names another trust domain.
    pub fn from_der<R>(
        trust_domain: &TrustDomain,
        roots: impl IntoIterator<Item = R>,
    ) -> Result<Self, IdentityError>
    where
        R: Into<Vec<u8>>,
    {
        let mut parts = Parts {
            trust_domain: trust_domain.clone(),
            roots: Vec::new(),
            anchors: Vec::new(),
        };
        for (index, der) in roots.into_iter().enumerate() {
            let der = CertificateDer::from(der.into());
            if parts.roots.iter().any(|root| root.der == der) {
                continue;
            }
            let refuse = |why| IdentityError::Root {
                trust_domain: trust_domain.to_string(),
                position: index + 1,
                why,
            };
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|error| refuse(error.to_string()))?
                .to_owned();
            parts.anchors.push(anchor);
            parts
                .roots
                .push(Root::read(der, trust_domain).map_err(refuse)?);
        }
        if parts.roots.is_empty() {
            return Err(IdentityError::NoRoots {
                trust_domain: trust_domain.to_string(),
            });
        }
        Ok(Self(Arc::new(parts)))
    }

    /// Takes root certificates, PEM, one after the other; anything else between them is left out.
    ///
    /// # Errors
    /// [`IdentityError::Pem`], or as [`TrustBundle::from_der`].
    pub fn from_pem(trust_domain: &TrustDomain, pem: &[u8]) -> Result<Self, IdentityError> {
        let roots = certificates(pem).map_err(|why| IdentityError::Pem {
            what: format!("the trust bundle of {trust_domain}"),
            why,
        })?;
        Self::from_der(trust_domain, roots.iter().map(|root| root.to_vec()))
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The roots, in the order given.
    pub fn roots(&self) -> &[Root] {
        &self.0.roots
    }

    /// The roots as [`TrustBundle::from_der`] takes them.
    pub fn to_der(&self) -> Vec<Vec<u8>> {
        self.0.roots.iter().map(|root| root.der.to_vec()).collect()
    }

    /// The roots as [`TrustBundle::from_pem`] takes them.
    pub fn to_pem(&self) -> String {
        self.0.roots.iter().map(|root| pem(&root.der)).collect()
    }

    /// Whether it trusts the same roots as another, in whatever order.
    pub(crate) fn has_roots_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.roots(), other.roots());
        ours.len() == theirs.len() && ours.iter().all(|root| theirs.contains(root))
    }

    /// The name of the first root.
    pub(crate) fn first(&self) -> Option<&str> {
        self.roots().first().map(Root::name)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.0.anchors
    }

    /// What path validation does not ask of a trust anchor: whether the root behind it is within its validity, and lets
    /// as many intermediates stand below it. An error is the rest of a sentence about the root.
    pub(crate) fn check_root(
        &self,
        anchor: &TrustAnchor<'_>,
        intermediates: usize,
        now: UnixTime,
    ) -> Result<(), &'static str> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        // Several when a root was renewed with its key; one that allows the path is enough.
        let roots = || {
            self.0
                .anchors
                .iter()
                .zip(&self.0.roots)
                .filter(|(candidate, _)| *candidate == anchor)
                .map(|(_, root)| root)
        };
        if !roots().any(|root| (root.not_before..=root.not_after).contains(&now)) {
            return Err("is a root outside of its own validity");
        }
        if !roots().any(|root| root.path_length.is_none_or(|most| intermediates <= most)) {
            return Err("is a root that allows fewer certificates below it");
        }
        Ok(())
    }
}

impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.0.trust_domain == other.0.trust_domain && self.0.roots == other.0.roots
    }
}

impl Eq for TrustBundle {}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.roots.iter().map(Root::name).collect();
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.0.trust_domain.as_str())
            .field("roots", &names)
            .finish()
    }
}

/// Every certificate of a PEM text; at least one. An error is words without the place.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("it is not PEM ({error})"))?;
    if all.is_empty() {
        return Err("it holds no certificate (PEM)".to_owned());
    }
    Ok(all)
}

/// One certificate as PEM.
pub(crate) fn pem(der: &CertificateDer<'_>) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der.to_vec()),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}
