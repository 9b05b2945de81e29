//! The one verifier of SPIFFE X.509-SVIDs (X509-SVID.md §2-§5), used by clients and servers alike.
//!
//! It answers whose certificate this is, provided that everything about it is right; who is *expected* is the caller's
//! question. It must not know connections, and never falls back to a weaker rule: what it cannot read, it refuses. What is
//! asked for is of one kind ([`Subject`]): a workload's certificate is refused where a node's is asked for, and the other
//! way round.

mod chain;
mod error;
mod subject;

use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;

pub(crate) use self::chain::{may_sign, path_length, within_trust_domain};
pub use self::error::SvidError;
pub(crate) use self::subject::uri;
pub use self::subject::{ServerIdentity, Subject};
use crate::TrustBundle;
use crate::node::NodeIdentity;

/// More intermediates than this are refused unread: our chains have none, SPIRE's have one or two, and building paths
/// through many is work that an attacker could order.
pub(crate) const MAX_INTERMEDIATES: usize = 4;

/// Verifies a workload's chain, leaf first, against a bundle at `now`, and says whose it is.
///
/// # Errors
/// The first rule that is broken.
pub fn verify(
    bundle: &TrustBundle,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<SpiffeId, SvidError> {
    verify_as(bundle, chain, now)
}

/// [`verify`] for a node's chain.
///
/// # Errors
/// The first rule that is broken.
pub fn verify_node(
    bundle: &TrustBundle,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<NodeIdentity, SvidError> {
    verify_as(bundle, chain, now)
}

/// [`verify`] for a chain of the kind that is asked for.
///
/// # Errors
/// The first rule that is broken.
pub(crate) fn verify_as<S: Subject>(
    bundle: &TrustBundle,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<S, SvidError> {
    let (leaf, intermediates) = chain.split_first().ok_or(SvidError::NoCertificate)?;
    verify_leaf(bundle, leaf, intermediates, now)
}

/// The same, as TLS libraries present it: the leaf apart from the rest.
pub(crate) fn verify_leaf<S: Subject>(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<S, SvidError> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(SvidError::ChainTooLong {
            count: intermediates.len(),
        });
    }
    let subject: S = subject_of(&parse(leaf)?)?;
    let identity = subject.to_string();
    if subject.domain() != bundle.trust_domain() {
        return Err(SvidError::TrustDomain {
            identity,
            trust_domain: bundle.trust_domain().clone(),
        });
    }
    chain::verify(bundle, leaf, intermediates, now, S::PURPOSES, &identity)?;
    Ok(subject)
}

/// Whose certificate this says it is. Checks every rule that concerns the leaf alone, but neither time nor signature.
///
/// # Errors
/// The first rule that is broken.
pub fn identity_in(leaf: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    subject_of(&parse(leaf)?)
}

/// [`identity_in`] for a node's certificate.
///
/// # Errors
/// The first rule that is broken.
pub fn node_in(leaf: &CertificateDer<'_>) -> Result<NodeIdentity, SvidError> {
    subject_of(&parse(leaf)?)
}

/// What a certificate of our own says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Leaf<S> {
    pub(crate) subject: S,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
    pub(crate) issuer: String,
}

/// Reads a certificate of our own, by the same rules as a peer's.
pub(crate) fn inspect<S: Subject>(leaf: &CertificateDer<'_>) -> Result<Leaf<S>, SvidError> {
    let certificate = parse(leaf)?;
    Ok(Leaf {
        subject: subject_of(&certificate)?,
        not_before: system_time(certificate.validity().not_before.timestamp()),
        not_after: system_time(certificate.validity().not_after.timestamp()),
        serial: hex(certificate.raw_serial()),
        issuer: certificate.issuer().to_string(),
    })
}

/// Parses one certificate and nothing after it.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, SvidError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(SvidError::Unreadable {
            why: "there are bytes after its end".to_owned(),
        }),
        Err(error) => Err(SvidError::Unreadable {
            why: error.to_string(),
        }),
    }
}

/// Unix seconds of a certificate as a moment; before 1970 is taken as 1970, which is past either way.
pub(crate) fn system_time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A moment as path validation takes it; before 1970 is taken as 1970.
pub(crate) fn unix_time(moment: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(
        moment
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO),
    )
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The rules of the leaf: the names of its kind, no power to sign certificates, and the usage of its kind.
fn subject_of<S: Subject>(certificate: &X509Certificate<'_>) -> Result<S, SvidError> {
    let subject = S::read(certificate)?;
    if certificate
        .basic_constraints()
        .map_err(unreadable)?
        .is_some_and(|constraints| constraints.value.ca)
    {
        return Err(SvidError::Authority {
            identity: subject.to_string(),
        });
    }
    if let Err(why) = check_usage::<S>(certificate)? {
        return Err(SvidError::KeyUsage {
            identity: subject.to_string(),
            why,
        });
    }
    Ok(subject)
}

/// Key usage: for signatures, and not for signing certificates or revocation lists. Extended key usage: that of its kind.
fn check_usage<S: Subject>(
    certificate: &X509Certificate<'_>,
) -> Result<Result<(), &'static str>, SvidError> {
    let Some(usage) = certificate.key_usage().map_err(unreadable)? else {
        return Ok(Err("says nothing about key usage"));
    };
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Ok(Err(
            "may sign certificates or revocation lists, which only an authority may",
        ));
    }
    if !usage.value.digital_signature() {
        return Ok(Err("may not be used for digital signatures"));
    }
    let purposes = certificate.extended_key_usage().map_err(unreadable)?;
    Ok(S::PURPOSES.check(purposes.map(|extension| extension.value)))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is used as a function value in map_err"
)]
pub(crate) fn unreadable(error: X509Error) -> SvidError {
    SvidError::Unreadable {
        why: error.to_string(),
    }
}
