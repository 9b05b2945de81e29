//! Path validation up to a root of the bundle: webpki's, and what it leaves open.

use std::cell::RefCell;
use std::time::Duration;

use mesh_core::identity::TrustDomain;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter,
    RequiredEkuNotFoundContext, VerifiedPath,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::subject::Purposes;
use super::{SvidError, parse, unreadable};
use crate::TrustBundle;

/// Path validation up to a root of the bundle. `identity` is for the words of an error.
pub(super) fn verify(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    purposes: Purposes,
    identity: &str,
) -> Result<(), SvidError> {
    // Path building reports its own kind of error; what our own check of a path found is kept aside.
    let refused = RefCell::new(None);
    let check_path = |path: &VerifiedPath<'_>| {
        check_path(bundle, path, now, identity).map_err(|error| {
            refused.replace(Some(error));
            webpki::Error::UnknownIssuer
        })
    };
    EndEntityCert::try_from(leaf)
        .and_then(|leaf| {
            leaf.verify_for_usage(
                crate::tls::algorithms().all,
                bundle.anchors(),
                intermediates,
                now,
                purposes,
                None,
                Some(&check_path),
            )
            .map(|_| ())
        })
        .map_err(|error| {
            refused
                .take()
                .unwrap_or_else(|| in_words(bundle, identity, error))
        })
}

/// What path validation leaves open: the root's own limits, and that each intermediate may sign and stays within the trust
/// domain.
fn check_path(
    bundle: &TrustBundle,
    path: &VerifiedPath<'_>,
    now: UnixTime,
    identity: &str,
) -> Result<(), SvidError> {
    let refuse = |why| {
        Err(SvidError::Signer {
            identity: identity.to_owned(),
            why,
        })
    };
    let intermediates = path.intermediate_certificates().count();
    if let Err(why) = bundle.check_root(path.anchor(), intermediates, now) {
        return refuse(why);
    }
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        let certificate = parse(&der)?;
        if !may_sign(&certificate)? {
            return refuse("may not sign certificates (its key usage lacks keyCertSign)");
        }
        if !within_trust_domain(&certificate, bundle.trust_domain())? {
            return refuse("is of another trust domain");
        }
    }
    Ok(())
}

/// Key usage with keyCertSign.
pub(crate) fn may_sign(certificate: &X509Certificate<'_>) -> Result<bool, SvidError> {
    Ok(certificate
        .key_usage()
        .map_err(unreadable)?
        .is_some_and(|usage| usage.value.key_cert_sign()))
}

/// The path length constraint of a certificate authority.
pub(crate) fn path_length(certificate: &X509Certificate<'_>) -> Option<usize> {
    let constraints = certificate.basic_constraints().ok().flatten()?;
    usize::try_from(constraints.value.path_len_constraint?).ok()
}

/// A signing certificate may carry its trust domain as its own SPIFFE ID (X509-SVID §4.1); if it does, it binds.
pub(crate) fn within_trust_domain(
    certificate: &X509Certificate<'_>,
    trust_domain: &TrustDomain,
) -> Result<bool, SvidError> {
    let Some(names) = certificate.subject_alternative_name().map_err(unreadable)? else {
        return Ok(true);
    };
    Ok(names.value.general_names.iter().all(|name| match name {
        GeneralName::URI(uri) => {
            uri.strip_prefix("spiffe://")
                .and_then(|rest| rest.split('/').next())
                == Some(trust_domain.as_str())
        }
        _ => true,
    }))
}

fn in_words(bundle: &TrustBundle, identity: &str, error: webpki::Error) -> SvidError {
    let identity = identity.to_owned();
    match error {
        webpki::Error::UnknownIssuer => SvidError::UnknownRoot {
            identity,
            trust_domain: bundle.trust_domain().clone(),
            roots: bundle.roots().len(),
        },
        webpki::Error::CertExpired { time, not_after } => SvidError::Expired {
            identity,
            ago: between(not_after, time),
        },
        webpki::Error::CertNotValidYet { time, not_before } => SvidError::NotYetValid {
            identity,
            until: between(time, not_before),
        },
        source => SvidError::Chain { identity, source },
    }
}

fn between(earlier: UnixTime, later: UnixTime) -> Duration {
    Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs()))
}

/// Extended key usage along the path: absent, or what the leaf is for.
impl ExtendedKeyUsageValidator for Purposes {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // RFC 5280 §4.2.1.12: id-kp-serverAuth and id-kp-clientAuth, the content of the DER object identifier.
        let server = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 1]);
        let client = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 2]);
        let mut present = Vec::new();
        for purpose in purposes {
            present.push(purpose?);
        }
        if present.is_empty() {
            return Ok(());
        }
        match self.missing(present.contains(&client), present.contains(&server)) {
            None => Ok(()),
            Some(missing) => Err(webpki::Error::RequiredEkuNotFoundContext(
                RequiredEkuNotFoundContext {
                    required: missing,
                    present: present.iter().map(KeyPurposeId::to_decoded_oid).collect(),
                },
            )),
        }
    }
}
