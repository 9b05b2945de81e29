//! A certificate of one kind never passes for another's: workload, node, server of the control plane.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_identity::authority::AuthorityError;
use mesh_identity::{SvidError, svid, tls};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};
use support::us::{Us, check_refusal};
use support::{
    CONTROLLER_NAME, Made, Maker, authority, handshake, id, node, node_certificate,
    server_certificate, uri,
};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn each_verifier_takes_its_own_kind_only() {
    let authority = authority();
    let bundle = authority.bundle();
    let now = UnixTime::now();
    let workload = authority.issue(&id("web"), HOUR).unwrap();
    let node = node_certificate(&authority, "n1");
    let server = server_certificate(&authority, "controller");

    assert_eq!(
        svid::verify(&bundle, workload.chain(), now).unwrap(),
        id("web")
    );
    assert_eq!(
        svid::verify_node(&bundle, node.chain(), now).unwrap(),
        support::node("n1")
    );
    let error = svid::verify(&bundle, node.chain(), now).unwrap_err();
    assert!(
        error.to_string().contains("is not a workload identity"),
        "{error}"
    );
    let error = svid::verify_node(&bundle, workload.chain(), now).unwrap_err();
    assert!(
        error.to_string().contains("is not a node identity"),
        "{error}"
    );
    for error in [
        svid::verify(&bundle, server.chain(), now).unwrap_err(),
        svid::verify_node(&bundle, server.chain(), now).unwrap_err(),
    ] {
        assert!(matches!(error, SvidError::ManyNames { .. }), "{error}");
    }
    assert!(svid::identity_in(&node.chain()[0]).is_err());
    assert!(svid::node_in(&workload.chain()[0]).is_err());
    assert!(tls::peer_identity(node.chain()).is_err());
    assert_eq!(tls::node_of(Some(workload.chain())), None);
    assert_eq!(tls::node_of(Some(node.chain())), Some(support::node("n1")));
    assert_eq!((tls::node_of(None), tls::node_of(Some(&[]))), (None, None));
}

/// Workers, in real handshakes.
#[test]
fn workers_refuse_certificates_of_nodes_and_servers() {
    let root = Maker::root();
    let us = Us::trusting(&root);
    let peer = root.leaf(&id("peer"), |params| {
        params.subject_alt_names = vec![uri(&node("n1").to_string())];
    });
    us.refuse("a node's names", &peer, "is not a workload identity");
    for purposes in [
        vec![ExtendedKeyUsagePurpose::ClientAuth],
        vec![ExtendedKeyUsagePurpose::ServerAuth],
    ] {
        let peer = root.leaf(&id("peer"), |params| params.extended_key_usages = purposes);
        us.refuse("one side only", &peer, "both sides of TLS");
    }
    let peer = root.leaf(&id("peer"), |params| {
        params
            .subject_alt_names
            .push(SanType::DnsName(CONTROLLER_NAME.try_into().unwrap()));
    });
    us.refuse("DNS names", &peer, "2 subject alternative names");
}

/// A leaf whose names and purposes are a node's, after `change`.
fn node_leaf(maker: &Maker, change: impl FnOnce(&mut CertificateParams)) -> Made {
    maker.leaf(&id("any"), |params| {
        params.subject_alt_names = vec![uri(&node("n1").to_string())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(params);
    })
}

/// A leaf whose names and purposes are the controller's, after `change`.
fn server_leaf(maker: &Maker, change: impl FnOnce(&mut CertificateParams)) -> Made {
    maker.leaf(&id("controller"), |params| {
        params
            .subject_alt_names
            .push(SanType::DnsName(CONTROLLER_NAME.try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(params);
    })
}

#[test]
fn the_rules_for_nodes_are_as_strict_as_those_for_workloads() {
    let maker = Maker::root();
    let check = |made: &Made, words: &str| {
        let verified = svid::verify_node(&maker.bundle(), &made.chain, UnixTime::now());
        let error = verified.unwrap_err();
        assert!(error.to_string().contains(words), "{error} lacks {words:?}");
    };
    let good = node_leaf(&maker, |_| ());
    svid::verify_node(&maker.bundle(), &good.chain, UnixTime::now()).unwrap();
    let below = maker.intermediate(|_| ());
    svid::verify_node(
        &maker.bundle(),
        &node_leaf(&below, |_| ()).chain,
        UnixTime::now(),
    )
    .unwrap();

    let made = node_leaf(&maker, |p| p.extended_key_usages.clear());
    check(&made, "not just clientAuth");
    let made = node_leaf(&maker, |p| {
        p.extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    });
    check(&made, "not just clientAuth");
    let made = node_leaf(&maker, |p| p.key_usages.clear());
    check(&made, "says nothing about key usage");
    let made = node_leaf(&maker, |p| {
        p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    check(&made, "certificate authority");
    let made = node_leaf(&maker, |p| {
        p.subject_alt_names
            .push(uri("spiffe://demo.warren/node/n2"))
    });
    check(&made, "a node's has exactly one");
    let made = node_leaf(&maker, |p| {
        p.subject_alt_names = vec![uri("spiffe://other/node/n1")]
    });
    check(&made, "not of trust domain");
    let made = node_leaf(&maker, |p| {
        p.not_after = (SystemTime::now() - Duration::from_secs(10)).into();
    });
    check(&made, "expired");
    check(
        &node_leaf(&Maker::root(), |_| ()),
        "none of the 1 trusted roots",
    );
    let restricted = maker.intermediate(|p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    check(&node_leaf(&restricted, |_| ()), "does not verify");
}

/// A node that dials what says it is the controller; the refusal's words, or nothing.
fn dial(maker: &Maker, server: &Made) -> Option<String> {
    let config = tls::distribution_client(None, &maker.bundle(), &id("controller")).unwrap();
    let ended = handshake(
        config,
        server.server_over(b"h2"),
        CONTROLLER_NAME.try_into().unwrap(),
    );
    let error = ended.client_error.as_ref()?;
    assert!(ended.received.is_empty(), "application bytes went out");
    check_refusal("the controller", error, "");
    Some(mesh_identity::failure::explain(error).detail)
}

#[test]
fn nodes_take_the_controllers_certificate_only() {
    let maker = Maker::root();
    let good = server_leaf(&maker, |_| ());
    assert_eq!(dial(&maker, &good), None);
    let no_dns = server_leaf(&maker, |p| p.subject_alt_names.truncate(1));
    assert_eq!(dial(&maker, &no_dns), None);

    let check = |made: &Made, words: &str| {
        let refusal = dial(&maker, made).expect("refused");
        assert!(refusal.contains(words), "{refusal} lacks {words:?}");
    };
    // A workload of the very same identity: whoever runs the controller's pod is not the controller.
    check(
        &maker.leaf(&id("controller"), |_| ()),
        "not just serverAuth",
    );
    let made = server_leaf(&maker, |p| p.extended_key_usages.clear());
    check(&made, "not just serverAuth");
    let made = server_leaf(&maker, |p| {
        p.subject_alt_names[0] = uri(&id("other").to_string());
    });
    check(&made, "expected spiffe://demo.warren/ns/shop/sa/controller");
    let made = server_leaf(&maker, |p| {
        p.subject_alt_names.push(uri(&id("other").to_string()));
    });
    check(&made, "2 subject alternative names");
    let made = server_leaf(&maker, |p| {
        p.subject_alt_names[0] = uri(&node("n1").to_string());
    });
    check(&made, "is not a workload identity");
    let made = server_leaf(&maker, |p| drop(p.subject_alt_names.remove(0)));
    check(&made, "names nobody");
    let made = server_leaf(&maker, |p| {
        p.subject_alt_names
            .push(SanType::IpAddress([10, 0, 0, 1].into()));
    });
    check(&made, "an IP address");
    check(
        &server_leaf(&Maker::root(), |_| ()),
        "none of the 1 trusted roots",
    );
    check(&node_leaf(&maker, |_| ()), "is not a workload identity");
}

#[test]
fn server_certificates_are_made_for_dns_names_only() {
    let authority = authority();
    let server = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        authority.issue_server(&id("controller"), &names, HOUR, SystemTime::now())
    };
    let certificate = server(&[CONTROLLER_NAME, "localhost"]).unwrap();
    let identity = certificate.identity();
    assert_eq!(identity.identity(), &id("controller"));
    assert_eq!(identity.dns_names(), [CONTROLLER_NAME, "localhost"]);
    assert_eq!(identity.to_string(), id("controller").to_string());
    for name in ["", "a b", "spiffe://x", "ä", "a/b"] {
        let error = server(&[name]).unwrap_err();
        assert!(matches!(error, AuthorityError::DnsName { .. }), "{error}");
    }
    let foreign: SpiffeId = "spiffe://other/ns/warren-system/sa/x".parse().unwrap();
    let error = authority
        .issue_server(&foreign, &[], HOUR, SystemTime::now())
        .unwrap_err();
    assert!(matches!(error, AuthorityError::ForeignIdentity { .. }));
}

#[test]
fn garbage_is_nobodys() {
    let garbage = CertificateDer::from(b"garbage".to_vec());
    assert!(svid::node_in(&garbage).is_err());
    assert_eq!(tls::node_of(Some(&[garbage])), None);
}
