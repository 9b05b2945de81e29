//! The one verifier of SPIFFE X.509-SVIDs (X509-SVID.md §2-§5), used by clients and servers alike.
//!
//! It answers whose certificate this is, provided that everything about it is right; who is *expected* is the caller's
//! question. It must not know connections, and never falls back to a weaker rule: what it cannot read, it refuses.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use mesh_core::identity::{InvalidIdentity, SpiffeId, TrustDomain};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    RequiredEkuNotFoundContext, VerifiedPath,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::TrustBundle;

/// More intermediates than this are refused unread: our chains have none, SPIRE's have one or two, and building paths
/// through many is work that an attacker could order.
const MAX_INTERMEDIATES: usize = 4;

/// Why a certificate is not accepted as a workload's.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// Nothing was presented.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More certificates than any honest peer sends.
    #[error(
        "the chain has {count} intermediate certificates, at most {MAX_INTERMEDIATES} are taken"
    )]
    ChainTooLong {
        /// How many.
        count: usize,
    },
    /// Not an X.509 certificate, or one with an extension that cannot be read.
    #[error("the certificate cannot be read: {why}")]
    Unreadable {
        /// What is wrong with it.
        why: String,
    },
    /// No subject alternative name at all.
    #[error("the certificate names nobody: it has no URI subject alternative name")]
    Nameless,
    /// More than one subject alternative name.
    #[error(
        "the certificate has {count} subject alternative names; a workload's has exactly one, a URI"
    )]
    ManyNames {
        /// How many.
        count: usize,
    },
    /// The one subject alternative name is not a URI.
    #[error("the certificate's subject alternative name is {kind}, not a URI")]
    NotUri {
        /// What it is.
        kind: &'static str,
    },
    /// The URI is not a workload identity.
    #[error(transparent)]
    Identity(#[from] InvalidIdentity),
    /// The identity is of another trust domain.
    #[error("{identity} is not of trust domain {trust_domain}")]
    TrustDomain {
        /// Whose certificate it is.
        identity: SpiffeId,
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
    },
    /// A certificate that can sign others is not a workload's (X509-SVID §4.1).
    #[error("the certificate of {identity} is that of a certificate authority (CA:TRUE)")]
    Authority {
        /// Whose certificate it is.
        identity: SpiffeId,
    },
    /// Key usage breaks X509-SVID §4.3.
    #[error("the certificate of {identity} {why}")]
    KeyUsage {
        /// Whose certificate it is.
        identity: SpiffeId,
        /// What about it.
        why: &'static str,
    },
    /// Outside of its validity.
    #[error("the certificate of {identity} expired {} s ago", ago.as_secs())]
    Expired {
        /// Whose certificate it is.
        identity: SpiffeId,
        /// Since when, as of the check.
        ago: Duration,
    },
    /// Before its validity.
    #[error("the certificate of {identity} is valid only in {} s; compare the nodes' clocks", until.as_secs())]
    NotYetValid {
        /// Whose certificate it is.
        identity: SpiffeId,
        /// How long until then, as of the check.
        until: Duration,
    },
    /// It leads to no root of the bundle.
    #[error(
        "the certificate of {identity} is signed by none of the {roots} trusted roots of {trust_domain}"
    )]
    UnknownRoot {
        /// Whose certificate it claims to be.
        identity: SpiffeId,
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// How many roots the bundle has.
        roots: usize,
    },
    /// It leads to a root, but not through certificates that may sign.
    #[error("the certificate of {identity} is signed through a certificate that {why}")]
    Signer {
        /// Whose certificate it claims to be.
        identity: SpiffeId,
        /// What about the signer.
        why: &'static str,
    },
    /// Anything else that path validation (RFC 5280) refuses.
    #[error("the certificate of {identity} does not verify")]
    Chain {
        /// Whose certificate it claims to be.
        identity: SpiffeId,
        /// What path validation says.
        #[source]
        source: webpki::Error,
    },
    /// A good certificate, of somebody else.
    #[error("the peer is {got}, expected {}", list(expected))]
    Unexpected {
        /// Who it is.
        got: SpiffeId,
        /// Who was expected.
        expected: Vec<SpiffeId>,
    },
}

/// Verifies a chain, leaf first, against a bundle at `now`, and says whose it is.
///
/// # Errors
/// The first rule that is broken.
pub fn verify(
    bundle: &TrustBundle,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<SpiffeId, SvidError> {
    let (leaf, intermediates) = chain.split_first().ok_or(SvidError::NoCertificate)?;
    verify_leaf(bundle, leaf, intermediates, now)
}

/// The same, as TLS libraries present it: the leaf apart from the rest.
pub(crate) fn verify_leaf(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<SpiffeId, SvidError> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(SvidError::ChainTooLong {
            count: intermediates.len(),
        });
    }
    let identity = identity_of(&parse(leaf)?)?;
    if identity.trust_domain() != bundle.trust_domain() {
        return Err(SvidError::TrustDomain {
            identity,
            trust_domain: bundle.trust_domain().clone(),
        });
    }
    verify_chain(bundle, leaf, intermediates, now, &identity)?;
    Ok(identity)
}

/// Whose certificate this says it is. Checks every rule that concerns the leaf alone, but neither time nor signature.
///
/// # Errors
/// The first rule that is broken.
pub fn identity_in(leaf: &CertificateDer<'_>) -> Result<SpiffeId, SvidError> {
    identity_of(&parse(leaf)?)
}

/// What a workload's own certificate says about itself.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) identity: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) serial: String,
    pub(crate) issuer: String,
}

/// Reads a workload's own certificate, by the same rules as a peer's.
pub(crate) fn inspect(leaf: &CertificateDer<'_>) -> Result<Leaf, SvidError> {
    let certificate = parse(leaf)?;
    Ok(Leaf {
        identity: identity_of(&certificate)?,
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

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The rules of the leaf: one URI that is a workload identity, and no power to sign certificates.
fn identity_of(certificate: &X509Certificate<'_>) -> Result<SpiffeId, SvidError> {
    let identity: SpiffeId = only_uri(certificate)?.parse()?;
    if certificate
        .basic_constraints()
        .map_err(unreadable)?
        .is_some_and(|constraints| constraints.value.ca)
    {
        return Err(SvidError::Authority { identity });
    }
    if let Err(why) = check_usage(certificate)? {
        return Err(SvidError::KeyUsage { identity, why });
    }
    Ok(identity)
}

/// Exactly one subject alternative name, of any kind, and it is a URI. SPIFFE allows other kinds beside it; they mean
/// nothing to us, and somebody else might take them for an identity.
fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, SvidError> {
    let Some(names) = certificate.subject_alternative_name().map_err(unreadable)? else {
        return Err(SvidError::Nameless);
    };
    match names.value.general_names.as_slice() {
        [] => Err(SvidError::Nameless),
        [GeneralName::URI(uri)] => Ok(uri),
        [other] => Err(SvidError::NotUri { kind: kind(other) }),
        many => Err(SvidError::ManyNames { count: many.len() }),
    }
}

fn kind(name: &GeneralName<'_>) -> &'static str {
    match name {
        GeneralName::OtherName(..) => "of a custom type",
        GeneralName::RFC822Name(_) => "an e-mail address",
        GeneralName::DNSName(_) => "a DNS name",
        GeneralName::X400Address(_) => "an X.400 address",
        GeneralName::DirectoryName(_) => "a directory name",
        GeneralName::EDIPartyName(_) => "an EDI party name",
        GeneralName::URI(_) => "a URI",
        GeneralName::IPAddress(_) => "an IP address",
        GeneralName::RegisteredID(_) => "a registered id",
        GeneralName::Invalid(..) => "malformed",
    }
}

/// Key usage: for signatures, and not for signing certificates or revocation lists. Extended key usage, where it is
/// given: for both sides of TLS, because a workload is both.
fn check_usage(certificate: &X509Certificate<'_>) -> Result<Result<(), &'static str>, SvidError> {
    let Some(usage) = certificate.key_usage().map_err(unreadable)? else {
        return Ok(Err("says nothing about key usage"));
    };
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Ok(Err(
            "may sign certificates or revocation lists, which a workload must not",
        ));
    }
    if !usage.value.digital_signature() {
        return Ok(Err("may not be used for digital signatures"));
    }
    match certificate.extended_key_usage().map_err(unreadable)? {
        Some(usage) if !(usage.value.client_auth && usage.value.server_auth) => Ok(Err(
            "may not be used for both sides of TLS (its extended key usage lacks clientAuth or serverAuth)",
        )),
        _ => Ok(Ok(())),
    }
}

/// Path validation up to a root of the bundle.
fn verify_chain(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    identity: &SpiffeId,
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
                BothSides,
                None,
                Some(&check_path),
            )
            .map(|_| ())
        })
        .map_err(|error| {
            refused
                .take()
                .unwrap_or_else(|| chain_error(bundle, identity, error))
        })
}

/// What path validation leaves open: the root's own limits, and that each intermediate may sign and stays within the trust
/// domain.
fn check_path(
    bundle: &TrustBundle,
    path: &VerifiedPath<'_>,
    now: UnixTime,
    identity: &SpiffeId,
) -> Result<(), SvidError> {
    let refuse = |why| {
        Err(SvidError::Signer {
            identity: identity.clone(),
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

fn chain_error(bundle: &TrustBundle, identity: &SpiffeId, error: webpki::Error) -> SvidError {
    let identity = identity.clone();
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

#[expect(
    clippy::needless_pass_by_value,
    reason = "it is used as a function value in map_err"
)]
fn unreadable(error: X509Error) -> SvidError {
    SvidError::Unreadable {
        why: error.to_string(),
    }
}

fn list(identities: &[SpiffeId]) -> String {
    let texts: Vec<_> = identities.iter().map(ToString::to_string).collect();
    texts.join(" or ")
}

/// Extended key usage along the path: absent, or both sides of TLS. One path is built for both.
struct BothSides;

impl ExtendedKeyUsageValidator for BothSides {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // RFC 5280 §4.2.1.12: id-kp-serverAuth and id-kp-clientAuth, the content of the DER object identifier.
        let server = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 1]);
        let client = KeyPurposeId::new(&[43, 6, 1, 5, 5, 7, 3, 2]);
        let mut present = Vec::new();
        for purpose in purposes {
            present.push(purpose?);
        }
        let missing = if present.is_empty() || present.contains(&server) {
            if present.is_empty() || present.contains(&client) {
                return Ok(());
            }
            KeyUsage::client_auth()
        } else {
            KeyUsage::server_auth()
        };
        Err(webpki::Error::RequiredEkuNotFoundContext(
            RequiredEkuNotFoundContext {
                required: missing,
                present: present.iter().map(KeyPurposeId::to_decoded_oid).collect(),
            },
        ))
    }
}
