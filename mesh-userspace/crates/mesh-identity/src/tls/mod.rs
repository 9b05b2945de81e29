//! The only place that builds TLS configurations: TLS 1.3, certificates verified by [`crate::svid`].
//!
//! | who talks | configurations | verified |
//! |---|---|---|
//! | workers, for workloads | [`client_config`], [`server_config`] | workload certificates, both ways |
//! | nodes and the controller | [`distribution_client`], [`distribution_server`] | the controller always, a node once it has a certificate |
//! | replicas of the controller | [`replica_client`], [`controller_server`] | nodes as above, and replicas by their common identity |
//! | the Kubernetes API server and the controller | [`api_server`] | the API server, by the authority that it names itself |
//!
//! Not offered, on purpose: earlier versions; resumption, tickets and early data (a resumed session would skip the
//! verification that policy relies on, and early data can be replayed); key logging. It must not know connections.

mod api;
mod distribution;
mod present;
mod replicas;
mod verify;

use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest;
use mesh_core::identity::SpiffeId;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as aws};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, DnsName, ServerName};

pub use self::api::{ApiClientError, api_client, api_server};
pub use self::distribution::{ALPN_H2, distribution_client, distribution_server, node_of};
use self::present::{ByName, Own};
pub use self::replicas::{Caller, Presented, controller_server, presented, replica_client};
use self::verify::{Accept, ClientVerifier, ServerVerifier};
use crate::svid::Subject;
use crate::{Certificate, IdentityError, SvidError, TrustBundle, svid};

/// The protocol between Warren nodes, as ALPN names it. A connection on which it was not chosen must be closed.
pub const ALPN_WARREN_1: &[u8] = b"warren/1";

/// A configuration for dialling: presents `own`, and accepts exactly the identities in `expected`, before a single
/// application byte goes out. The server name that is dialled only chooses the certificate that the peer presents
/// ([`server_name`]); it is not what the peer is verified by.
///
/// # Errors
/// [`IdentityError::NobodyExpected`], [`IdentityError::ForeignCertificate`], [`IdentityError::Tls`].
pub fn client_config(
    own: &Certificate,
    bundle: &TrustBundle,
    expected: &[SpiffeId],
) -> Result<Arc<ClientConfig>, IdentityError> {
    if expected.is_empty() {
        return Err(IdentityError::NobodyExpected);
    }
    check_own(own, bundle)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::<SpiffeId>::new(
            bundle, expected,
        )))
        .with_client_cert_resolver(Arc::new(Own::new(own)));
    config.alpn_protocols = vec![ALPN_WARREN_1.to_vec()];
    start_anew_as_client(&mut config);
    // Tunnels take the traffic keys over after the handshake, and encrypt in place.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// A configuration for accepting: requires a certificate of the bundle's trust domain. With one certificate of its own it
/// presents that one to everybody; of several, the one that the client names ([`server_name`]), and none otherwise.
///
/// Whose certificate the client presented is [`peer_identity`]; whether it may do anything is for policy to say.
///
/// # Errors
/// [`IdentityError::NoCertificate`], [`IdentityError::Duplicate`], [`IdentityError::ForeignCertificate`],
/// [`IdentityError::Tls`].
pub fn server_config(
    own: &[Certificate],
    bundle: &TrustBundle,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let resolver: Arc<dyn ResolvesServerCert> = match own {
        [] => return Err(IdentityError::NoCertificate),
        [only] => {
            check_own(only, bundle)?;
            Arc::new(Own::new(only))
        }
        several => Arc::new(ByName::new(several, bundle)?),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(Arc::new(ClientVerifier::<SpiffeId>::new(
            bundle,
            Accept::CertificateOnly,
        )))
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN_WARREN_1.to_vec()];
    start_anew_as_server(&mut config);
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// The server name by which a client asks for the certificate of `id`: derived from the identity, but opaque, because it
/// travels in clear. Identities are longer than DNS labels may be, and have characters that those may not.
pub fn server_name(id: &SpiffeId) -> ServerName<'static> {
    // Hexadecimal digits and letters are always a DNS name; the fallback cannot be reached, and would match no server.
    DnsName::try_from(server_name_text(id)).map_or_else(
        |_| ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()),
        ServerName::DnsName,
    )
}

/// Which of a server's own identities it presented, given the server name that the client sent: the same rule as
/// [`server_config`] follows.
pub fn identity_of_server_name<'a>(
    own: impl IntoIterator<Item = &'a SpiffeId>,
    server_name: Option<&str>,
) -> Option<&'a SpiffeId> {
    let mut own = own.into_iter().peekable();
    let first = own.next()?;
    if own.peek().is_none() {
        return Some(first);
    }
    let server_name = server_name?;
    std::iter::once(first)
        .chain(own)
        .find(|id| server_name_text(id) == server_name)
}

/// Whose certificate the peer of a finished handshake presented. The handshake has verified it.
///
/// # Errors
/// [`SvidError::NoCertificate`]; anything else would have failed the handshake.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, SvidError> {
    svid::identity_in(chain.first().ok_or(SvidError::NoCertificate)?)
}

/// The cryptography that every configuration uses.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            // AES-128 first: with hardware support it is the fastest, and as strong as the P-256 certificates.
            cipher_suites: vec![
                aws::cipher_suite::TLS13_AES_128_GCM_SHA256,
                aws::cipher_suite::TLS13_AES_256_GCM_SHA384,
                aws::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            // The hybrid first: what is recorded today must not be readable by a quantum computer tomorrow.
            kx_groups: vec![
                aws::kx_group::X25519MLKEM768,
                aws::kx_group::X25519,
                aws::kx_group::SECP256R1,
            ],
            ..aws::default_provider()
        })
    });
    &PROVIDER
}

/// The signature algorithms that certificates and handshakes may use.
pub(crate) fn algorithms() -> &'static WebPkiSupportedAlgorithms {
    &provider().signature_verification_algorithms
}

fn server_name_text(id: &SpiffeId) -> String {
    let hash = digest::digest(&digest::SHA256, id.to_string().as_bytes());
    // 128 bits: enough that nobody makes two identities with one name. ".invalid" never resolves (RFC 2606).
    let bytes = hash.as_ref().get(..16).unwrap_or_default();
    format!("w{}.warren.invalid", svid::hex(bytes))
}

/// A certificate of another trust domain would be refused by every peer; better to say so here.
fn check_own<S: Subject>(own: &Certificate<S>, bundle: &TrustBundle) -> Result<(), IdentityError> {
    if own.identity().domain() == bundle.trust_domain() {
        return Ok(());
    }
    Err(IdentityError::ForeignCertificate {
        identity: own.identity().to_string(),
        trust_domain: bundle.trust_domain().to_string(),
    })
}

/// Every connection makes a handshake of its own; nothing of an earlier one is used.
fn start_anew_as_client(config: &mut ClientConfig) {
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
}

/// See [`start_anew_as_client`].
fn start_anew_as_server(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
}
