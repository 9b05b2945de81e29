//! Keys and certificates: who issues them, who holds them, how they are checked, and the TLS configurations made of
//! them.
//!
//! | step | module |
//! |---|---|
//! | a root of trust, kept in a directory or in a Secret, signs certificates | [`authority`] |
//! | a key is made where it is used, and a request for its certificate | [`request`] |
//! | the controller signs requests, for what a node may have and nothing else | [`registrar`] |
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
mod key;

pub mod authority;
pub mod failure;
pub mod node;
pub mod registrar;
pub mod request;
pub mod store;
pub mod svid;
pub mod tls;

pub use bundle::{Root, TrustBundle};
pub use certificate::{Certificate, NodeCertificate, ServerCertificate};
pub use node::NodeIdentity;
pub use svid::{ServerIdentity, SvidError};

/// Why a certificate, a bundle or a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A certificate that does not follow the rules for its kind, or does not verify.
    #[error("this is not a usable certificate")]
    Certificate(#[from] SvidError),
    /// A certificate that was signed for another key than the one that waits for it.
    #[error("the certificate of {identity} is for another key than the one that was made for it")]
    OtherKey {
        /// Whose certificate.
        identity: String,
    },
    /// A certificate that was signed for somebody else than the one that waits for it.
    #[error("a certificate of {got} came back, {wanted} was asked for")]
    OtherIdentity {
        /// Who was asked for.
        wanted: String,
        /// Whose it is.
        got: String,
    },
    /// A certificate that nobody waits for.
    #[error(
        "no certificate of {identity} is awaited: it is no longer wanted, or the answer was late"
    )]
    NotAwaited {
        /// Whose certificate.
        identity: String,
    },
    /// Making a key, or a request for its certificate, failed.
    #[error("cannot make a key and a certificate request for {identity}")]
    Request {
        /// Whose.
        identity: String,
        /// What the library says.
        #[source]
        source: rcgen::Error,
    },
    /// Certificates that cannot be read from a text.
    #[error("{what} cannot be read: {why}")]
    Pem {
        /// What was read.
        what: String,
        /// What is wrong with it.
        why: String,
    },
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
