//! Keys and certificates: who issues them, who holds them, how they are checked, and the TLS configurations made of
//! them.
//!
//! | step | module |
//! |---|---|
//! | a root of trust lives in a directory and signs workload certificates | [`authority`] |
//! | the agent holds one certificate per wanted identity and renews it in time | [`store`] |
//! | the agent hands certificates with their keys to the worker | [`Certificate::to_handover`] |
//! | the worker makes TLS configurations of them | [`tls`] |
//! | either side of a handshake checks the other's certificate | [`svid`] |
//! | a failed handshake is put into words | [`failure`] |
//!
//! Rules: [`svid`] is the only verifier and [`tls`] the only place that builds TLS configurations, so that there is one
//! place to look at and no second, weaker one. A private key is never printed, never serialised other than for the
//! handover, and is wiped from memory when it is dropped. Nothing here knows connections, policies or the kernel.
//!
//! Signing in a handshake goes through [`rustls::sign::SigningKey`] alone; a process of its own that keeps the keys would
//! take its place there.

mod bundle;
mod certificate;
mod handover;

pub mod authority;
pub mod failure;
pub mod store;
pub mod svid;
pub mod tls;

pub use bundle::{Root, TrustBundle};
pub use certificate::Certificate;
pub use svid::SvidError;

/// Why a certificate, a bundle or a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A certificate that does not follow the rules for workload certificates.
    #[error("this is not a usable workload certificate")]
    Certificate(#[from] SvidError),
    /// The private key cannot be used.
    #[error(
        "the private key of {identity} cannot be used, or is not the one that its certificate certifies"
    )]
    Key {
        /// Whose key.
        identity: String,
        /// What the TLS library says; it never quotes key bytes.
        #[source]
        source: rustls::Error,
    },
    /// The bundle is empty: nothing could ever be verified against it.
    #[error("the trust bundle of {trust_domain} holds no root certificate")]
    NoRoots {
        /// Its trust domain.
        trust_domain: String,
    },
    /// A certificate that cannot serve as a root.
    #[error("root certificate {position} of trust domain {trust_domain} cannot be trusted: {why}")]
    Root {
        /// Trust domain of the bundle.
        trust_domain: String,
        /// Position in the bundle, from 1.
        position: usize,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes that [`Certificate::to_handover`] did not write.
    #[error(
        "a handed-over certificate is malformed: {why}; both processes should be of one release"
    )]
    Handover {
        /// What is wrong.
        why: &'static str,
    },
    /// A server configuration without a certificate.
    #[error("a TLS server needs at least one certificate of its own")]
    NoCertificate,
    /// Two certificates for one name: which one is served would be chance.
    #[error("two certificates of {identity} in one server configuration")]
    Duplicate {
        /// The identity.
        identity: String,
    },
    /// A client configuration that would accept nobody, or (worse) would be taken to accept anybody.
    #[error("a TLS client needs at least one expected peer identity")]
    NobodyExpected,
    /// A certificate of another trust domain than the bundle's.
    #[error("the certificate of {identity} is not of trust domain {trust_domain}")]
    ForeignCertificate {
        /// The identity.
        identity: String,
        /// The bundle's trust domain.
        trust_domain: String,
    },
    /// The TLS library refused the configuration.
    #[error("the TLS configuration cannot be built")]
    Tls(#[source] rustls::Error),
}
