//! Every rule of SPIFFE X.509-SVIDs, broken one at a time, in real handshakes, presented by a server and by a client.

mod support;

use mesh_core::identity::SpiffeId;
use mesh_identity::tls;
use rcgen::{
    CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    SanType,
};
use support::us::{Us, check_refusal};
use support::{Maker, handshake, id, uri};

#[test]
fn good_certificates_are_accepted() {
    let root = Maker::root();
    let us = Us::trusting(&root);
    us.accept("plain", &root.leaf(&id("peer"), |_| ()));
    us.accept(
        "no extended key usage",
        &root.leaf(&id("peer"), |p| p.extended_key_usages.clear()),
    );
    us.accept(
        "no basic constraints",
        &root.leaf(&id("peer"), |p| p.is_ca = IsCa::NoCa),
    );
    us.accept(
        "more purposes",
        &root.leaf(&id("peer"), |p| {
            p.extended_key_usages
                .push(ExtendedKeyUsagePurpose::EmailProtection);
        }),
    );
    us.accept(
        "a subject",
        &root.leaf(&id("peer"), |p| {
            p.distinguished_name.push(DnType::CommonName, "peer");
        }),
    );
    let one = root.intermediate(|_| ());
    us.accept("one intermediate", &one.leaf(&id("peer"), |_| ()));
    us.accept(
        "two intermediates",
        &one.intermediate(|_| ()).leaf(&id("peer"), |_| ()),
    );
    us.accept(
        "an intermediate without a name of its own",
        &root
            .intermediate(|p| p.subject_alt_names.clear())
            .leaf(&id("peer"), |_| ()),
    );
}

#[test]
fn names_that_are_no_identity_are_refused() {
    let root = Maker::root();
    let us = Us::trusting(&root);
    let form = "is not a workload identity";
    for name in [
        "spiffe://demo.warren",
        "spiffe://demo.warren/",
        "spiffe://demo.warren/ns/shop/sa/",
        "spiffe://demo.warren/ns//sa/peer",
        "spiffe://demo.warren/ns/shop/sa/peer/",
        "spiffe://demo.warren/ns/shop/sa/peer/x",
        "spiffe://demo.warren//ns/shop/sa/peer",
        "spiffe://demo.warren/ns/shop/sa/peer\0x",
        "spiffe://demo.warren/ns/shop/sa/peer\n",
        "spiffe://demo.warren/ns/shop/sa/peer ",
        " spiffe://demo.warren/ns/shop/sa/peer",
        "SPIFFE://demo.warren/ns/shop/sa/peer",
        "Spiffe://demo.warren/ns/shop/sa/peer",
        "spiffe://Demo.warren/ns/shop/sa/peer",
        "spiffe://demo.warren/NS/shop/sa/peer",
        "spiffe://demo.warren/ns/shop/SA/peer",
        "spiffe://demo.warren/ns/shop/sa/pe%65r",
        "spiffe://demo.warren/ns/shop%2Fsa/peer",
        "spiffe://demo%2ewarren/ns/shop/sa/peer",
        "spiffe://demo.warren/ns/shop/sa/..",
        "spiffe://demo.warren/ns/./sa/peer",
        "spiffe://demo.warren/ns/x/../shop/sa/peer",
        "spiffe://demo.warren/ns/shop/sa/peer?x=1",
        "spiffe://demo.warren/ns/shop/sa/peer#x",
        "spiffe://demo.warren?/ns/shop/sa/peer",
        "spiffe://user@demo.warren/ns/shop/sa/peer",
        "spiffe://demo.warren:443/ns/shop/sa/peer",
        "spiffe:///ns/shop/sa/peer",
        "spiffe:/demo.warren/ns/shop/sa/peer",
        "https://demo.warren/ns/shop/sa/peer",
        "demo.warren/ns/shop/sa/peer",
        "spiffe://demo.warren/ns/shop/sa/*",
        "spiffe://*.warren/ns/shop/sa/peer",
        "spiffe://demo.warren/ns/shop/sa/peer,spiffe://demo.warren/ns/shop/sa/other",
        "spiffe://demo.warren\\ns\\shop\\sa\\peer",
        "",
    ] {
        let peer = root.leaf(&id("peer"), |p| p.subject_alt_names = vec![uri(name)]);
        us.refuse(&format!("{name:?}"), &peer, form);
    }
}

#[test]
fn good_names_of_others_are_refused() {
    let root = Maker::root();
    let us = Us::trusting(&root);
    // As a server: not the one expected. As a client: whoever it is, it is verified; policy is exact, too.
    for name in [
        "spiffe://demo.warren/ns/shop/sa/peer-x",
        "spiffe://demo.warren/ns/shop/sa/pee",
        "spiffe://demo.warren/ns/shop/sa/Peer",
        "spiffe://demo.warren/ns/shop-x/sa/peer",
        "spiffe://demo.warren/ns/sho/sa/peer",
        "spiffe://demo.warren/ns/shop/sa/p.er",
    ] {
        let other = root.leaf(&id("peer"), |p| p.subject_alt_names = vec![uri(name)]);
        let config = tls::client_config(&us.certificate, &us.bundle, &[id("peer"), id("second")]);
        let ended = handshake(
            config.unwrap(),
            other.server(),
            tls::server_name(&id("peer")),
        );
        check_refusal(
            name,
            &ended.client_error.expect("refused"),
            &format!(
                "the peer is {name}, expected {} or {}",
                id("peer"),
                id("second")
            ),
        );
        assert!(ended.received.is_empty());
        // All that left after the ClientHello is an alert: nothing that the application said.
        assert!(ended.sent_after_hello < 64, "{}", ended.sent_after_hello);

        let config = tls::server_config(std::slice::from_ref(&us.certificate), &us.bundle).unwrap();
        let ended = handshake(other.client(), config, tls::server_name(&id("us")));
        let got = tls::peer_identity(ended.server.peer_certificates().unwrap()).unwrap();
        assert_eq!(got.to_string(), name);
        assert_ne!(got, id("peer"));
    }
    for domain in [
        "demo.warren.evil",
        "evil.demo.warren",
        "demo-warren",
        "demo.warre",
    ] {
        let name = format!("spiffe://{domain}/ns/shop/sa/peer");
        let other = root.leaf(&id("peer"), |p| p.subject_alt_names = vec![uri(&name)]);
        us.refuse(&name, &other, "is not of trust domain demo.warren");
    }
}

#[test]
fn names_beside_or_instead_of_the_uri_are_refused() {
    let root = Maker::root();
    let us = Us::trusting(&root);
    let dns = || SanType::DnsName("peer.shop".try_into().unwrap());
    let mine = || uri(&id("peer").to_string());
    for (names, words) in [
        (vec![], "names nobody"),
        (vec![dns()], "is a DNS name, not a URI"),
        (
            vec![SanType::IpAddress([127, 0, 0, 1].into())],
            "is an IP address, not a URI",
        ),
        (
            vec![SanType::Rfc822Name("a@b.example".try_into().unwrap())],
            "is an e-mail address, not a URI",
        ),
        (
            vec![SanType::OtherName((
                vec![1, 2, 3],
                id("peer").to_string().into(),
            ))],
            "is of a custom type, not a URI",
        ),
        (vec![mine(), dns()], "has 2 subject alternative names"),
        (vec![dns(), mine()], "has 2 subject alternative names"),
        (vec![mine(), mine()], "has 2 subject alternative names"),
        (
            vec![mine(), uri(&id("second").to_string())],
            "has 2 subject alternative names",
        ),
        (
            vec![mine(), SanType::IpAddress([127, 0, 0, 1].into())],
            "has 2 subject alternative names",
        ),
        (vec![mine(); 5], "has 5 subject alternative names"),
    ] {
        let peer = root.leaf(&id("peer"), |p| {
            p.distinguished_name
                .push(DnType::CommonName, id("peer").to_string());
            p.subject_alt_names = names.clone();
        });
        us.refuse(&format!("{names:?}"), &peer, words);
    }
}

#[test]
fn malformed_extensions_are_refused() {
    const SAN: &[u64] = &[2, 5, 29, 17];
    let root = Maker::root();
    let us = Us::trusting(&root);
    let name = id("peer").to_string();
    let second = root.leaf(&id("peer"), |p| {
        p.custom_extensions = vec![CustomExtension::from_oid_content(SAN, san(name.as_bytes()))];
    });
    us.refuse("two SAN extensions", &second, "");
    let not_ascii = root.leaf(&id("peer"), |p| {
        p.subject_alt_names.clear();
        let mut bytes = name.clone().into_bytes();
        bytes.push(0xff);
        p.custom_extensions = vec![CustomExtension::from_oid_content(SAN, san(&bytes))];
    });
    us.refuse("a URI that is not ASCII", &not_ascii, "");
    let truncated = root.leaf(&id("peer"), |p| {
        p.subject_alt_names.clear();
        let mut der = san(name.as_bytes());
        der.truncate(der.len() - 3);
        p.custom_extensions = vec![CustomExtension::from_oid_content(SAN, der)];
    });
    us.refuse("a SAN that ends early", &truncated, "");
    let critical = root.leaf(&id("peer"), |p| {
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 9999, 1], vec![5, 0]);
        extension.set_criticality(true);
        p.custom_extensions = vec![extension];
    });
    us.refuse(
        "an unknown critical extension",
        &critical,
        "does not verify",
    );
    let mut trailing = root.leaf(&id("peer"), |_| ());
    trailing.chain[0] = [trailing.chain[0].as_ref(), &[0]].concat().into();
    us.refuse(
        "a byte after the certificate",
        &trailing,
        "bytes after its end",
    );
    let mut empty = root.leaf(&id("peer"), |_| ());
    empty.chain[0] = vec![0x30, 0].into();
    us.refuse("an empty certificate", &empty, "cannot be read");
}

/// SubjectAltName with one URI (RFC 5280 §4.2.1.6), short lengths only.
fn san(uri: &[u8]) -> Vec<u8> {
    let length = u8::try_from(uri.len()).expect("short");
    [&[0x30, length + 2, 0x86, length], uri].concat()
}

#[test]
fn powers_that_a_workload_must_not_have_are_refused() {
    use ExtendedKeyUsagePurpose as Purpose;
    use KeyUsagePurpose as Usage;
    let root = Maker::root();
    let us = Us::trusting(&root);
    let ca = |p: &mut CertificateParams| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    us.refuse(
        "CA:TRUE",
        &root.leaf(&id("peer"), ca),
        "certificate authority (CA:TRUE)",
    );
    let signs = "may sign certificates or revocation lists";
    let none = "says nothing about key usage";
    let no_signature = "may not be used for digital signatures";
    for (usages, words) in [
        (vec![], none),
        (vec![Usage::KeyCertSign], signs),
        (vec![Usage::DigitalSignature, Usage::KeyCertSign], signs),
        (vec![Usage::DigitalSignature, Usage::CrlSign], signs),
        (vec![Usage::KeyEncipherment], no_signature),
        (vec![Usage::KeyAgreement], no_signature),
    ] {
        let peer = root.leaf(&id("peer"), |p| p.key_usages = usages.clone());
        us.refuse(&format!("{usages:?}"), &peer, words);
    }
    for purposes in [
        vec![Purpose::ServerAuth],
        vec![Purpose::ClientAuth],
        vec![Purpose::EmailProtection],
        vec![Purpose::Any],
        vec![Purpose::ServerAuth, Purpose::EmailProtection],
    ] {
        let peer = root.leaf(&id("peer"), |p| p.extended_key_usages = purposes.clone());
        us.refuse(
            &format!("{purposes:?}"),
            &peer,
            "lacks clientAuth or serverAuth",
        );
    }
}

#[test]
fn identities_are_compared_exactly() {
    let parse = |text: &str| text.parse::<SpiffeId>();
    assert_ne!(
        parse("spiffe://td/ns/prod/sa/x"),
        parse("spiffe://td/ns/prod-x/sa/x")
    );
    assert_ne!(
        parse("spiffe://td/ns/a/sa/x"),
        parse("spiffe://td.evil/ns/a/sa/x")
    );
    assert_ne!(
        tls::server_name(&parse("spiffe://td/ns/a/sa/B").unwrap()),
        tls::server_name(&parse("spiffe://td/ns/a/sa/b").unwrap()),
    );
}
