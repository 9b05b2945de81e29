//! What the TLS configurations offer and refuse, besides certificates.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use mesh_core::outcome::Reason;
use mesh_identity::authority::Authority;
use mesh_identity::failure::explain;
use mesh_identity::{Certificate, IdentityError, TrustBundle, tls};
use rustls::{
    CipherSuite, ClientConfig, HandshakeKind, NamedGroup, ServerConfig, ServerConnection,
};
use support::{Ended, Maker, domain, handshake, id, nobody};

struct Mesh {
    _directory: tempfile::TempDir,
    authority: Authority,
}

impl Mesh {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
        Self {
            _directory: directory,
            authority,
        }
    }

    fn certificate(&self, name: &str) -> Certificate {
        self.authority
            .issue(&id(name), Duration::from_secs(60))
            .unwrap()
    }

    fn bundle(&self) -> TrustBundle {
        self.authority.bundle()
    }

    fn client(&self, own: &str, expected: &[&str]) -> Arc<ClientConfig> {
        let expected: Vec<_> = expected.iter().map(|name| id(name)).collect();
        tls::client_config(&self.certificate(own), &self.bundle(), &expected).unwrap()
    }

    fn server(&self, own: &[&str]) -> Arc<ServerConfig> {
        let own: Vec<_> = own.iter().map(|name| self.certificate(name)).collect();
        tls::server_config(&own, &self.bundle()).unwrap()
    }

    fn dial(&self, expected: &[&str], server: &[&str], name: &str) -> Ended {
        handshake(
            self.client("client", expected),
            self.server(server),
            tls::server_name(&id(name)),
        )
    }
}

#[test]
fn both_sides_know_each_other() {
    let ended = Mesh::new().dial(&["web"], &["web"], "web");
    assert!(
        ended.is_good(),
        "{:?} {:?}",
        ended.client_error,
        ended.server_error
    );
    let server = tls::peer_identity(ended.client.peer_certificates().unwrap()).unwrap();
    let client = tls::peer_identity(ended.server.peer_certificates().unwrap()).unwrap();
    assert_eq!((server, client), (id("web"), id("client")));
}

#[test]
fn any_expected_identity_will_do() {
    let mesh = Mesh::new();
    assert!(mesh.dial(&["web", "web-2"], &["web-2"], "web-2").is_good());
    assert!(!mesh.dial(&["web", "web-2"], &["web-3"], "web-3").is_good());
}

#[test]
fn a_client_that_expects_nobody_is_not_made() {
    let mesh = Mesh::new();
    let error = tls::client_config(&mesh.certificate("client"), &mesh.bundle(), &[]).unwrap_err();
    assert!(matches!(error, IdentityError::NobodyExpected));
}

#[test]
fn certificates_that_nobody_would_accept_are_not_used() {
    let (mesh, own) = (Mesh::new(), Mesh::new());
    let other = tempfile::tempdir().unwrap();
    let domain = mesh_core::identity::TrustDomain::new("other").unwrap();
    let other = Authority::open_or_create(other.path(), &domain).unwrap();
    let certificate = own.certificate("web");
    let error = tls::client_config(&certificate, &other.bundle(), &[id("web")]).unwrap_err();
    assert!(matches!(error, IdentityError::ForeignCertificate { .. }));
    let error = tls::server_config(&[], &mesh.bundle()).unwrap_err();
    assert!(matches!(error, IdentityError::NoCertificate));
    let twice = [mesh.certificate("web"), mesh.certificate("web")];
    let error = tls::server_config(&twice, &mesh.bundle()).unwrap_err();
    assert!(matches!(error, IdentityError::Duplicate { .. }));
}

#[test]
fn post_quantum_key_exchange_and_aes_128_are_chosen() {
    let ended = Mesh::new().dial(&["web"], &["web"], "web");
    for (suite, group) in [
        (
            ended.client.negotiated_cipher_suite(),
            ended.client.negotiated_key_exchange_group(),
        ),
        (
            ended.server.negotiated_cipher_suite(),
            ended.server.negotiated_key_exchange_group(),
        ),
    ] {
        assert_eq!(
            suite.unwrap().suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
        );
        assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
    }
    assert_eq!(ended.client.handshake_kind(), Some(HandshakeKind::Full));
}

#[test]
fn groups_and_suites_are_in_order() {
    let mesh = Mesh::new();
    let config = mesh.client("client", &["web"]);
    let provider = config.crypto_provider();
    let groups: Vec<_> = provider
        .kx_groups
        .iter()
        .map(|group| group.name())
        .collect();
    assert_eq!(
        groups,
        [
            NamedGroup::X25519MLKEM768,
            NamedGroup::X25519,
            NamedGroup::secp256r1
        ]
    );
    let suites: Vec<_> = provider
        .cipher_suites
        .iter()
        .map(|suite| suite.suite())
        .collect();
    assert_eq!(
        suites,
        [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        ]
    );
}

#[test]
fn nothing_can_be_resumed() {
    let mesh = Mesh::new();
    let server = mesh.server(&["web"]);
    assert_eq!(
        (server.send_tls13_tickets, server.max_early_data_size),
        (0, 0)
    );
    assert!(!server.session_storage.can_cache());
    assert!(!server.ticketer.enabled());
    // A client that would resume, with a good certificate.
    let maker = Maker::root();
    let bundle = TrustBundle::from_der(
        &domain(),
        [mesh.bundle().to_der(), maker.bundle().to_der()].concat(),
    );
    let server = tls::server_config(&[mesh.certificate("web")], &bundle.unwrap()).unwrap();
    let client = maker.leaf(&id("client"), |_| ()).client();
    for _ in 0..3 {
        let ended = handshake(
            Arc::clone(&client),
            Arc::clone(&server),
            tls::server_name(&id("web")),
        );
        assert!(
            ended.is_good(),
            "{:?} {:?}",
            ended.client_error,
            ended.server_error
        );
        assert_eq!(ended.client.tls13_tickets_received(), 0);
        assert_eq!(ended.client.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let ended = handshake(
        nobody(),
        Mesh::new().server(&["web"]),
        tls::server_name(&id("web")),
    );
    let failure = explain(&ended.server_error.unwrap());
    assert_eq!(failure.reason, Reason::PeerIdentity);
    assert!(
        failure.detail.contains("no certificate was presented"),
        "{failure:?}"
    );
    assert!(ended.received.is_empty());
    let told = explain(&ended.client_error.unwrap());
    assert_eq!(told.reason, Reason::PeerIdentity);
    assert!(told.detail.contains("requires a certificate"), "{told:?}");
}

#[test]
fn the_refused_side_is_told() {
    let ended = Mesh::new().dial(&["web"], &["other"], "web");
    let told = explain(&ended.server_error.unwrap());
    assert_eq!(told.reason, Reason::PeerIdentity);
    assert!(told.detail.contains("refused our certificate"), "{told:?}");
}

#[test]
fn tls_1_2_is_refused() {
    // A ClientHello as of RFC 5246: version 1.2, one suite, signature algorithms, no supported_versions.
    let extensions: &[u8] = &[0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    message.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
    record.extend(message);

    let mut server = ServerConnection::new(Mesh::new().server(&["web"])).unwrap();
    server.read_tls(&mut record.as_slice()).unwrap();
    let failure = explain(&server.process_new_packets().unwrap_err());
    assert_eq!(failure.reason, Reason::PeerProtocol, "{failure:?}");
    let mut alert = Vec::new();
    server.write_tls(&mut alert).unwrap();
    // Record type alert, fatal, protocol_version (RFC 8446 §6.2).
    assert_eq!((alert[0], &alert[5..7]), (21, &[2, 70][..]), "{alert:?}");
}

#[test]
fn another_protocol_is_refused() {
    let mesh = Mesh::new();
    let mut client = ClientConfig::clone(&mesh.client("client", &["web"]));
    client.alpn_protocols = vec![b"h2".to_vec()];
    let ended = handshake(
        Arc::new(client),
        mesh.server(&["web"]),
        tls::server_name(&id("web")),
    );
    let server = explain(&ended.server_error.unwrap());
    assert_eq!(server.reason, Reason::PeerProtocol);
    assert!(server.detail.contains("warren/1"), "{server:?}");
    let client = explain(&ended.client_error.unwrap());
    assert_eq!(client.reason, Reason::PeerProtocol);
    assert!(client.detail.contains("warren/1"), "{client:?}");
}

#[test]
fn the_server_name_chooses_among_several() {
    let mesh = Mesh::new();
    for name in ["web", "api", "db"] {
        let ended = mesh.dial(&[name], &["web", "api", "db"], name);
        assert!(ended.is_good(), "{name}");
        let own = [id("web"), id("api"), id("db")];
        let chosen = tls::identity_of_server_name(&own, ended.server.server_name());
        assert_eq!(chosen, Some(&id(name)));
    }
    let ended = mesh.dial(&["mail"], &["web", "api"], "mail");
    assert!(ended.received.is_empty());
    let told = explain(&ended.client_error.unwrap());
    assert!(
        told.detail
            .contains("no certificate of the expected identity"),
        "{told:?}"
    );
    let own = [id("web"), id("api")];
    assert_eq!(
        tls::identity_of_server_name(&own, ended.server.server_name()),
        None
    );
    assert_eq!(tls::identity_of_server_name(&own, None), None);
}

#[test]
fn the_only_certificate_serves_every_name() {
    let mesh = Mesh::new();
    let ended = mesh.dial(&["web"], &["web"], "something-else");
    assert!(ended.is_good());
    let own = [id("web")];
    assert_eq!(
        tls::identity_of_server_name(&own, ended.server.server_name()),
        Some(&id("web"))
    );
    assert_eq!(tls::identity_of_server_name(&own, None), Some(&id("web")));
    assert_eq!(tls::identity_of_server_name(&[], None), None);
}

#[test]
fn server_names_are_opaque_names() {
    let long = mesh_core::identity::SpiffeId::new(domain(), &"n".repeat(900), "s").unwrap();
    for identity in [id("web"), long] {
        let name = tls::server_name(&identity).to_str().into_owned();
        assert!(
            name.ends_with(".warren.invalid") && name.len() == 48,
            "{name}"
        );
        assert!(!name.contains("web") && !name.contains("nn"), "{name}");
    }
}
