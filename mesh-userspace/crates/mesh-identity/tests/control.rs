//! The control plane's TLS: nodes and the controller, the Kubernetes API server and the controller.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_identity::authority::Authority;
use mesh_identity::failure::explain;
use mesh_identity::{IdentityError, TrustBundle, tls};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, RsaKeySize,
};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use rustls_pki_types::ServerName;
use support::{
    CONTROLLER_NAME, Ended, Made, Maker, authority, domain, handshake, id, nobody_over, node,
    node_certificate, server_certificate,
};

fn controller() -> ServerName<'static> {
    CONTROLLER_NAME.try_into().unwrap()
}

/// A node dials the controller.
fn dial(authority: &Authority, own: Option<&str>) -> Ended {
    let bundle = authority.bundle();
    let own = own.map(|name| node_certificate(authority, name));
    handshake(
        tls::distribution_client(own.as_ref(), &bundle, &id("controller")).unwrap(),
        tls::distribution_server(&server_certificate(authority, "controller"), &bundle).unwrap(),
        controller(),
    )
}

#[test]
fn a_node_and_the_controller_know_each_other() {
    let authority = authority();
    let ended = dial(&authority, Some("n1"));
    assert!(ended.is_good_over(tls::ALPN_H2), "{}", ended.errors());
    assert_eq!(
        tls::node_of(ended.server.peer_certificates()),
        Some(node("n1"))
    );
    for group in [
        ended.client.negotiated_key_exchange_group(),
        ended.server.negotiated_key_exchange_group(),
    ] {
        assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
    }
    assert_eq!(ended.client.tls13_tickets_received(), 0);
}

#[test]
fn a_node_without_a_certificate_may_ask_for_one() {
    let ended = dial(&authority(), None);
    assert!(ended.is_good_over(tls::ALPN_H2), "{}", ended.errors());
    assert_eq!(tls::node_of(ended.server.peer_certificates()), None);
}

/// The controller, dialled by somebody who would take any server.
fn serve(maker: &Maker, client: Arc<ClientConfig>) -> Ended {
    let authority = authority();
    let roots = [authority.bundle().to_der(), maker.bundle().to_der()].concat();
    let bundle = TrustBundle::from_der(&domain(), roots).unwrap();
    let own = server_certificate(&authority, "controller");
    let config = tls::distribution_server(&own, &bundle).unwrap();
    handshake(client, config, controller())
}

#[test]
fn what_is_presented_to_the_controller_must_be_a_nodes() {
    let maker = Maker::root();
    let presented = |made: &Made| {
        let ended = serve(&maker, made.client_over(b"h2"));
        if ended.server_error.is_some() {
            assert!(ended.received.is_empty(), "application bytes got in");
        }
        ended
            .server_error
            .map(|error| explain(&error).detail)
            .unwrap_or_default()
    };
    let good = maker.leaf(&id("any"), |params| {
        params.subject_alt_names = vec![support::uri(&node("n1").to_string())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(presented(&good), "");
    let refusal = presented(&maker.leaf(&id("web"), |_| ()));
    assert!(refusal.contains("is not a node identity"), "{refusal}");
    let expired = maker.leaf(&id("any"), |params| {
        params.subject_alt_names = vec![support::uri(&node("n1").to_string())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = (SystemTime::now() - Duration::from_secs(10)).into();
    });
    let refusal = presented(&expired);
    assert!(refusal.contains("expired"), "{refusal}");
    let other = Maker::root();
    let unknown = other.leaf(&id("any"), |params| {
        params.subject_alt_names = vec![support::uri(&node("n1").to_string())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let refusal = presented(&unknown);
    assert!(refusal.contains("none of the 2 trusted roots"), "{refusal}");
    // A node's certificate without its key.
    let stolen = Made::new(good.chain, KeyPair::generate().unwrap());
    assert_ne!(presented(&stolen), "");
    assert!(serve(&maker, nobody_over(b"h2")).is_good_over(b"h2"));
    let ended = serve(&maker, nobody_over(b"warren/1"));
    assert!(ended.server_error.is_some() && ended.received.is_empty());
}

#[test]
fn certificates_of_another_mesh_are_not_used() {
    let (own, other) = (authority(), Maker::root());
    let foreign = mesh_core::identity::TrustDomain::new("other").unwrap();
    let root = Maker::root_with(|params| params.subject_alt_names.clear());
    let foreign = TrustBundle::from_der(&foreign, [root.chain[0].to_vec()]).unwrap();
    let server = server_certificate(&own, "controller");
    let error = tls::distribution_server(&server, &foreign).unwrap_err();
    assert!(matches!(error, IdentityError::ForeignCertificate { .. }));
    let node = node_certificate(&own, "n1");
    let error = tls::distribution_client(Some(&node), &foreign, &id("controller")).unwrap_err();
    assert!(matches!(error, IdentityError::ForeignCertificate { .. }));
    // Of the same name, but another root: refused in the handshake.
    let ended = handshake(
        tls::distribution_client(Some(&node), &other.bundle(), &id("controller")).unwrap(),
        tls::distribution_server(&server, &own.bundle()).unwrap(),
        controller(),
    );
    assert!(ended.client_error.is_some() && ended.received.is_empty());
}

/// An authority like the one that `kubeadm` makes for the API server's requests in the name of others.
struct FrontProxy {
    root: Maker,
}

impl FrontProxy {
    fn new() -> Self {
        let root = Maker::root_with(|params| {
            params.subject_alt_names.clear();
            params.distinguished_name = DistinguishedName::new();
            params
                .distinguished_name
                .push(DnType::CommonName, "front-proxy-ca");
        });
        Self { root }
    }

    fn pem(&self) -> Vec<u8> {
        TrustBundle::from_der(&domain(), [self.root.chain[0].to_vec()])
            .unwrap()
            .to_pem()
            .into_bytes()
    }

    /// A certificate with these common names, after `change`.
    fn client(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Made {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (position, name) in names.iter().enumerate() {
            // rcgen keeps one value for each type: the second is an organisation with the type of a common name.
            let kind = match position {
                0 => DnType::CommonName,
                _ => DnType::CustomDnType(vec![2, 5, 4, 3]),
            };
            params.distinguished_name.push(kind, *name);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        // What kubeadm uses.
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        Made::new(vec![self.root.sign(&params, &key)], key)
    }
}

/// The aggregated API, dialled by a client; the refusal's words, or who the client is.
fn ask(ca: &[u8], allowed: &[&str], client: Arc<ClientConfig>) -> Result<String, String> {
    let allowed: Vec<_> = allowed.iter().map(|name| (*name).to_owned()).collect();
    let own = server_certificate(&authority(), "controller");
    let server = tls::api_server(&own, ca, &allowed).unwrap();
    let ended = handshake(client, server, controller());
    if let Some(error) = &ended.server_error {
        assert!(ended.received.is_empty(), "application bytes got in");
        return Err(explain(error).detail);
    }
    assert!(ended.is_good_over(b"http/1.1"), "{}", ended.errors());
    tls::api_client(ended.server.peer_certificates().unwrap()).map_err(|error| error.to_string())
}

#[test]
fn the_api_server_is_known_by_its_certificate() {
    let front = FrontProxy::new();
    let client = front.client(&["front-proxy-client"], |_| ());
    for allowed in [
        &["front-proxy-client"][..],
        &["other", "front-proxy-client"],
        &[],
    ] {
        let who = ask(&front.pem(), allowed, client.client_over(b"http/1.1"));
        assert_eq!(who.as_deref(), Ok("front-proxy-client"), "{allowed:?}");
    }
    // Two authorities in the bundle, as during a rotation.
    let both = [FrontProxy::new().pem(), front.pem()].concat();
    let who = ask(&both, &[], client.client_over(b"http/1.1"));
    assert_eq!(who.as_deref(), Ok("front-proxy-client"));
}

#[test]
fn nobody_else_speaks_for_others() {
    let front = FrontProxy::new();
    let allowed = &["front-proxy-client"];
    let refused =
        |client: Arc<ClientConfig>| ask(&front.pem(), allowed, client).expect_err("it was let in");
    let words = refused(nobody_over(b"http/1.1"));
    assert!(words.contains("no certificate was presented"), "{words}");

    let other = front.client(&["kubernetes-admin"], |_| ());
    let words = refused(other.client_over(b"http/1.1"));
    assert!(
        words.contains("\"kubernetes-admin\"") && words.contains("front-proxy-client"),
        "{words}"
    );
    let nameless = front.client(&[], |_| ());
    let words = refused(nameless.client_over(b"http/1.1"));
    assert!(words.contains("no common name"), "{words}");
    let two = front.client(&["front-proxy-client", "kubernetes-admin"], |_| ());
    let words = refused(two.client_over(b"http/1.1"));
    assert!(words.contains("more than one"), "{words}");

    let elsewhere = FrontProxy::new().client(&["front-proxy-client"], |_| ());
    let words = refused(elsewhere.client_over(b"http/1.1"));
    assert!(words.contains("invalid peer certificate"), "{words}");
    let expired = front.client(&["front-proxy-client"], |params| {
        params.not_after = (SystemTime::now() - Duration::from_secs(10)).into();
    });
    let words = refused(expired.client_over(b"http/1.1"));
    assert!(words.contains("expired"), "{words}");
    let serving = front.client(&["front-proxy-client"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let words = refused(serving.client_over(b"http/1.1"));
    assert!(words.contains("invalid peer certificate"), "{words}");

    // Warren's own certificates, of workloads and nodes, are nobody's here, whatever names are allowed.
    let maker = Maker::root();
    let own = ask(
        &front.pem(),
        &[],
        maker
            .leaf(&id("controller"), |_| ())
            .client_over(b"http/1.1"),
    );
    assert!(own.is_err());
}

#[test]
fn an_api_without_an_authority_for_its_clients_is_not_served() {
    let own = server_certificate(&authority(), "controller");
    for pem in [
        &b""[..],
        b"garbage",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = tls::api_server(&own, pem, &[]).unwrap_err();
        assert!(
            matches!(error, IdentityError::Pem { .. })
                && error.to_string().contains("requestheader-client-ca-file"),
            "{error}"
        );
    }
}

#[test]
fn others_verify_the_controller_by_its_dns_name() {
    let authority = authority();
    let front = FrontProxy::new();
    let own = server_certificate(&authority, "controller");
    let server = tls::api_server(&own, &front.pem(), &[]).unwrap();
    let dial = |name: &'static str| {
        let mut roots = RootCertStore::empty();
        for root in authority.bundle().roots() {
            roots.add(root.der().clone()).unwrap();
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let made = front.client(&["front-proxy-client"], |_| ());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_webpki_verifier(verifier.build().unwrap())
            .with_client_cert_resolver(made.resolver());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        handshake(
            Arc::new(config),
            Arc::clone(&server),
            name.try_into().unwrap(),
        )
    };
    let ended = dial(CONTROLLER_NAME);
    assert!(ended.is_good_over(b"http/1.1"), "{}", ended.errors());
    assert!(dial("warren-controller.evil.svc").client_error.is_some());
}
