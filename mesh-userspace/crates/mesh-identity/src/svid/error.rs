//! Why a certificate is refused, in words that name whose it is.

use std::time::Duration;

use mesh_core::identity::{InvalidIdentity, SpiffeId, TrustDomain};

use super::MAX_INTERMEDIATES;
use crate::node::InvalidNode;

/// Why a certificate is not accepted.
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
        "the certificate has {count} subject alternative names; {whose} has exactly one, a URI"
    )]
    ManyNames {
        /// How many.
        count: usize,
        /// Whose certificate was expected.
        whose: &'static str,
    },
    /// The subject alternative name is not a URI.
    #[error("the certificate's subject alternative name is {kind}, not a URI")]
    NotUri {
        /// What it is.
        kind: &'static str,
    },
    /// The URI is not a workload identity.
    #[error(transparent)]
    Identity(#[from] InvalidIdentity),
    /// The URI is not a node identity.
    #[error(transparent)]
    Node(#[from] InvalidNode),
    /// The identity is of another trust domain.
    #[error("{identity} is not of trust domain {trust_domain}")]
    TrustDomain {
        /// Whose certificate it is.
        identity: String,
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
    },
    /// A certificate that can sign others is nobody's but an authority's (X509-SVID §4.1).
    #[error("the certificate of {identity} is that of a certificate authority (CA:TRUE)")]
    Authority {
        /// Whose certificate it is.
        identity: String,
    },
    /// Key usage breaks X509-SVID §4.3, or is not that of this kind of certificate.
    #[error("the certificate of {identity} {why}")]
    KeyUsage {
        /// Whose certificate it is.
        identity: String,
        /// What about it.
        why: &'static str,
    },
    /// Outside of its validity.
    #[error("the certificate of {identity} expired {} s ago", ago.as_secs())]
    Expired {
        /// Whose certificate it is.
        identity: String,
        /// Since when, as of the check.
        ago: Duration,
    },
    /// Before its validity.
    #[error("the certificate of {identity} is valid only in {} s; compare the nodes' clocks", until.as_secs())]
    NotYetValid {
        /// Whose certificate it is.
        identity: String,
        /// How long until then, as of the check.
        until: Duration,
    },
    /// It leads to no root of the bundle.
    #[error(
        "the certificate of {identity} is signed by none of the {roots} trusted roots of {trust_domain}"
    )]
    UnknownRoot {
        /// Whose certificate it claims to be.
        identity: String,
        /// The trust domain of the bundle.
        trust_domain: TrustDomain,
        /// How many roots the bundle has.
        roots: usize,
    },
    /// It leads to a root, but not through certificates that may sign.
    #[error("the certificate of {identity} is signed through a certificate that {why}")]
    Signer {
        /// Whose certificate it claims to be.
        identity: String,
        /// What about the signer.
        why: &'static str,
    },
    /// Anything else that path validation (RFC 5280) refuses.
    #[error("the certificate of {identity} does not verify")]
    Chain {
        /// Whose certificate it claims to be.
        identity: String,
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

fn list(identities: &[SpiffeId]) -> String {
    let texts: Vec<_> = identities.iter().map(ToString::to_string).collect();
    texts.join(" or ")
}
