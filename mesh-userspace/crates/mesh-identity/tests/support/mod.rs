//! What the tests of this crate share: a certificate maker that breaks the rules on request, and handshakes in memory.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses its own part of this module, and its helpers fail as the test does"
)]

pub mod cluster;
pub mod requests;
pub mod us;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_identity::authority::{Authority, Material};
use mesh_identity::request::Request;
use mesh_identity::{NodeCertificate, NodeIdentity, ServerCertificate, TrustBundle};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName as Hint, ServerConfig,
    ServerConnection, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

pub fn domain() -> TrustDomain {
    TrustDomain::new("demo.warren").expect("a trust domain")
}

pub fn id(name: &str) -> SpiffeId {
    SpiffeId::new(domain(), "shop", name).expect("an identity")
}

/// An authority in memory, with a root of its own.
pub fn authority() -> Authority {
    let material = Material::generate("a test", &domain()).expect("a root");
    Authority::from_material(&material, &domain()).expect("an authority")
}

pub fn node(name: &str) -> NodeIdentity {
    NodeIdentity::new(domain(), name).expect("a node")
}

/// A node's certificate by way of a request, as in a cluster.
pub fn node_certificate(authority: &Authority, name: &str) -> NodeCertificate {
    let request = Request::new(node(name)).expect("a request");
    let now = SystemTime::now();
    let chain = authority
        .sign_node_request(request.csr(), &node(name), Duration::from_secs(3600), now)
        .expect("signed");
    request
        .complete(chain, &authority.bundle(), now)
        .expect("a certificate")
}

/// The controller's certificate.
pub fn server_certificate(authority: &Authority, name: &str) -> ServerCertificate {
    let names = [CONTROLLER_NAME.to_owned()];
    let hour = Duration::from_secs(3600);
    authority
        .issue_server(&id(name), &names, hour, SystemTime::now())
        .expect("issued")
}

pub const CONTROLLER_NAME: &str = "warren-controller.warren-system.svc";

pub fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).expect("ASCII"))
}

/// A signing certificate with its key, outside of the authority under test.
pub struct Maker {
    pub chain: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
}

/// A chain and its key, good or bad.
pub struct Made {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Maker {
    pub fn root() -> Self {
        Self::root_with(|_| ())
    }

    pub fn root_with(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = signer_params("Test root", &domain());
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a root");
        Self {
            chain: vec![certificate.into()],
            issuer: Issuer::new(params, key),
        }
    }

    /// An intermediate below this one. Its chain ends with the certificate below the root.
    pub fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = signer_params("Test intermediate", &domain());
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let mut chain = vec![certificate.into()];
        chain.extend(self.chain.iter().cloned());
        Self {
            chain,
            issuer: Issuer::new(params, key),
        }
    }

    /// What this signs with, for certificates of any shape.
    pub fn sign(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        let signed = params.signed_by(key, &self.issuer);
        signed.expect("signed").into()
    }

    pub fn bundle(&self) -> TrustBundle {
        let root = self.chain.last().expect("a root").to_vec();
        TrustBundle::from_der(&domain(), [root]).expect("a bundle")
    }

    /// A good leaf for an identity, after `change` had its way with it.
    pub fn leaf(&self, identity: &SpiffeId, change: impl FnOnce(&mut CertificateParams)) -> Made {
        let mut params = leaf_params(identity);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let mut chain = vec![certificate.into()];
        // The root itself is not sent.
        chain.extend(self.chain[..self.chain.len() - 1].iter().cloned());
        Made { chain, key }
    }
}

pub fn leaf_params(identity: &SpiffeId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
    params.subject_alt_names = vec![uri(&identity.to_string())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

fn signer_params(name: &str, domain: &TrustDomain) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(
        DnType::CommonName,
        format!("{name} {}", rand::random::<u64>()),
    );
    params.not_before = (SystemTime::now() - Duration::from_secs(3600)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(36_000)).into();
    params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

impl Made {
    pub fn new(chain: Vec<CertificateDer<'static>>, key: KeyPair) -> Self {
        Self { chain, key }
    }

    pub fn resolver(&self) -> Arc<SingleCertAndKey> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialized_der()));
        let key = any_supported_type(&key).expect("a key");
        Arc::new(CertifiedKey::new(self.chain.clone(), key).into())
    }

    /// A server that presents this, and takes any client: what an attacker would run.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server_over(b"warren/1")
    }

    /// [`Made::server`], speaking another protocol.
    pub fn server_over(&self, protocol: &[u8]) -> Arc<ServerConfig> {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("TLS 1.3")
                .with_client_cert_verifier(Arc::new(Anybody))
                .with_cert_resolver(self.resolver());
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }

    /// A client that presents this, and takes any server.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.client_over(b"warren/1")
    }

    /// [`Made::client`], speaking another protocol.
    pub fn client_over(&self, protocol: &[u8]) -> Arc<ClientConfig> {
        let mut config = anybody().with_client_cert_resolver(self.resolver());
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    }
}

/// A client without a certificate, that takes any server and would resume sessions.
pub fn nobody() -> Arc<ClientConfig> {
    nobody_over(b"warren/1")
}

/// [`nobody`], speaking another protocol.
pub fn nobody_over(protocol: &[u8]) -> Arc<ClientConfig> {
    let mut config = anybody().with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

fn anybody() -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
}

/// How a handshake ended on either side, and what arrived of what the client wants to say.
pub struct Ended {
    pub client: ClientConnection,
    pub server: ServerConnection,
    pub client_error: Option<rustls::Error>,
    pub server_error: Option<rustls::Error>,
    pub received: Vec<u8>,
    /// Bytes that the client sent after its first flight.
    pub sent_after_hello: usize,
}

impl Ended {
    pub fn is_good(&self) -> bool {
        self.is_good_over(b"warren/1")
    }

    pub fn is_good_over(&self, protocol: &[u8]) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && self.received == MARKER
            && self.client.alpn_protocol() == Some(protocol)
    }

    /// What went wrong, for an assertion.
    pub fn errors(&self) -> String {
        format!(
            "client {:?}, server {:?}",
            self.client_error, self.server_error
        )
    }
}

pub const MARKER: &[u8] = b"an application byte or two";

/// A handshake in memory; the client says [`MARKER`] as soon as it may.
pub fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
) -> Ended {
    let mut ended = Ended {
        client: ClientConnection::new(client, name).expect("a client"),
        server: ServerConnection::new(server).expect("a server"),
        client_error: None,
        server_error: None,
        received: Vec::new(),
        sent_after_hello: 0,
    };
    ended.client.writer().write_all(MARKER).expect("buffered");
    for flight in 0..10 {
        let mut wire = Vec::new();
        while ended.client.wants_write() {
            ended.client.write_tls(&mut wire).expect("to memory");
        }
        if flight > 0 {
            ended.sent_after_hello += wire.len();
        }
        feed(&wire, |rest| {
            ended.server.read_tls(rest).expect("from memory");
            match ended.server.process_new_packets() {
                Ok(state) => {
                    let mut plain = vec![0; state.plaintext_bytes_to_read()];
                    ended.server.reader().read_exact(&mut plain).expect("plain");
                    ended.received.extend(plain);
                }
                Err(error) => {
                    ended.server_error.get_or_insert(error);
                }
            }
        });
        let mut wire = Vec::new();
        while ended.server.wants_write() {
            ended.server.write_tls(&mut wire).expect("to memory");
        }
        feed(&wire, |rest| {
            ended.client.read_tls(rest).expect("from memory");
            if let Err(error) = ended.client.process_new_packets() {
                ended.client_error.get_or_insert(error);
            }
        });
    }
    ended
}

fn feed(wire: &[u8], mut step: impl FnMut(&mut &[u8])) {
    let mut rest = wire;
    while !rest.is_empty() {
        let before = rest.len();
        step(&mut rest);
        if rest.len() == before {
            break;
        }
    }
}

/// Verifies nothing.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[Hint] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
