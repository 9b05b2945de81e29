//! The only place that builds TLS configurations: TLS 1.3, certificates on both sides, verified by [`crate::svid`].
//!
//! Not offered, on purpose: earlier versions; resumption, tickets and early data (a resumed session would skip the
//! verification that policy relies on, and early data can be replayed); key logging. It must not know connections.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest;
use mesh_core::identity::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as aws, verify_tls13_signature,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, DnsName, ServerName, UnixTime};

use crate::{Certificate, IdentityError, SvidError, TrustBundle, failure, svid};

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
        .with_custom_certificate_verifier(Arc::new(PeerIsExpected {
            bundle: bundle.clone(),
            expected: expected.to_vec(),
        }))
        .with_client_cert_resolver(Arc::new(Own {
            only: own.certified(),
        }));
    config.alpn_protocols = vec![ALPN_WARREN_1.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
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
            Arc::new(Own {
                only: only.certified(),
            })
        }
        several => Arc::new(ByName::new(several, bundle)?),
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::Tls)?
        .with_client_cert_verifier(Arc::new(PeerIsOfBundle {
            bundle: bundle.clone(),
        }))
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN_WARREN_1.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_tls13_tickets = 0;
    config.max_early_data_size = 0;
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
fn check_own(own: &Certificate, bundle: &TrustBundle) -> Result<(), IdentityError> {
    if own.identity().trust_domain() == bundle.trust_domain() {
        return Ok(());
    }
    Err(IdentityError::ForeignCertificate {
        identity: own.identity().to_string(),
        trust_domain: bundle.trust_domain().to_string(),
    })
}

/// Client side: the server's certificate is good and of an expected identity.
#[derive(Debug)]
struct PeerIsExpected {
    bundle: TrustBundle,
    expected: Vec<SpiffeId>,
}

/// Server side: the client's certificate is good.
#[derive(Debug)]
struct PeerIsOfBundle {
    bundle: TrustBundle,
}

impl ServerCertVerifier for PeerIsExpected {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let got = svid::verify_leaf(&self.bundle, end_entity, intermediates, now)
            .map_err(failure::refusal)?;
        if !self.expected.contains(&got) {
            return Err(failure::refusal(SvidError::Unexpected {
                got,
                expected: self.expected.clone(),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for PeerIsOfBundle {
    /// No hints: every client of the mesh has one certificate only, and the names of our roots are nobody's business.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        svid::verify_leaf(&self.bundle, end_entity, intermediates, now)
            .map_err(failure::refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// TLS 1.2 is not compiled in; should it ever be, its signatures are refused here.
fn tls12() -> rustls::Error {
    PeerIncompatible::Tls12NotOfferedOrEnabled.into()
}

/// The only certificate there is, for whoever asks.
struct Own {
    only: Arc<CertifiedKey>,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Own")
    }
}

impl ResolvesClientCert for Own {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.only))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.only))
    }
}

/// One certificate per server name.
struct ByName {
    certificates: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    fn new(own: &[Certificate], bundle: &TrustBundle) -> Result<Self, IdentityError> {
        let mut certificates = HashMap::with_capacity(own.len());
        for certificate in own {
            check_own(certificate, bundle)?;
            let name = server_name_text(certificate.identity());
            if certificates.insert(name, certificate.certified()).is_some() {
                return Err(IdentityError::Duplicate {
                    identity: certificate.identity().to_string(),
                });
            }
        }
        Ok(Self { certificates })
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByName({})", self.certificates.len())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificates.get(hello.server_name()?).cloned()
    }
}
