//! Every rule of SPIFFE X.509-SVIDs, broken one at a time, in real handshakes, presented by a server and by a client.

mod support;

use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_core::outcome::Reason;
use mesh_identity::authority::Authority;
use mesh_identity::failure::explain;
use mesh_identity::{Certificate, SvidError, TrustBundle, svid, tls};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::UnixTime;
use support::{MARKER, Made, Maker, domain, handshake, id, leaf_params, uri};

/// Our own side of a handshake, trusting `maker`'s root.
struct Us {
    certificate: Certificate,
    bundle: TrustBundle,
}

impl Us {
    /// A good certificate needs an authority; a bundle of both roots lets it talk to what `maker` made.
    fn trusting(maker: &Maker) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = Authority::open_or_create(directory.path(), &domain()).expect("authority");
        let certificate = authority
            .issue(&id("us"), Duration::from_secs(3600))
            .expect("issued");
        let roots = [authority.bundle().to_der(), maker.bundle().to_der()].concat();
        let bundle = TrustBundle::from_der(&domain(), roots).expect("a bundle");
        Self {
            certificate,
            bundle,
        }
    }

    /// The peer serves, then dials; it must be refused both times, with these words.
    fn refuse(&self, what: &str, peer: &Made, words: &str) {
        let config = tls::client_config(&self.certificate, &self.bundle, &[id("peer")]).unwrap();
        let ended = handshake(config, peer.server(), tls::server_name(&id("peer")));
        let error = ended
            .client_error
            .unwrap_or_else(|| panic!("{what}: our client accepted it"));
        check_refusal(&format!("{what}, serving"), &error, words);
        assert!(
            !ended.received.windows(4).any(|w| MARKER.starts_with(w)),
            "{what}: application bytes went out"
        );

        let config = tls::server_config(std::slice::from_ref(&self.certificate), &self.bundle);
        let ended = handshake(peer.client(), config.unwrap(), tls::server_name(&id("us")));
        let error = ended
            .server_error
            .unwrap_or_else(|| panic!("{what}: our server accepted it"));
        check_refusal(&format!("{what}, dialling"), &error, words);
        assert!(
            ended.received.is_empty(),
            "{what}: application bytes got in"
        );
    }

    fn accept(&self, what: &str, peer: &Made) {
        let config = tls::client_config(&self.certificate, &self.bundle, &[id("peer")]).unwrap();
        let ended = handshake(config, peer.server(), tls::server_name(&id("peer")));
        assert!(
            ended.is_good(),
            "{what}: {:?} {:?}",
            ended.client_error,
            ended.server_error
        );

        let config = tls::server_config(std::slice::from_ref(&self.certificate), &self.bundle);
        let ended = handshake(peer.client(), config.unwrap(), tls::server_name(&id("us")));
        assert!(
            ended.is_good(),
            "{what}: {:?} {:?}",
            ended.client_error,
            ended.server_error
        );
        let chain = ended.server.peer_certificates().expect("a peer");
        assert_eq!(tls::peer_identity(chain).expect("an identity"), id("peer"));
    }
}

fn check_refusal(what: &str, error: &rustls::Error, words: &str) {
    let failure = explain(error);
    assert_eq!(failure.reason, Reason::PeerIdentity, "{what}: {failure:?}");
    assert!(
        failure.detail.contains(words),
        "{what}: {:?} lacks {words:?}",
        failure.detail
    );
}

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
fn time_is_checked() {
    let root = Maker::root();
    let us = Us::trusting(&root);
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let peer = root.leaf(&id("peer"), |p| {
        p.not_before = (now - 2 * hour).into();
        p.not_after = (now - hour).into();
    });
    us.refuse("expired", &peer, "expired 360");
    let peer = root.leaf(&id("peer"), |p| {
        p.not_before = (now + hour).into();
        p.not_after = (now + 2 * hour).into();
    });
    us.refuse("not yet valid", &peer, "compare the nodes' clocks");
    let peer = root.leaf(&id("peer"), |p| {
        p.not_before = (now + hour).into();
        p.not_after = (now - hour).into();
    });
    us.refuse("ends before it begins", &peer, "");

    let old = Maker::root_with(|p| p.not_after = (now - Duration::from_secs(60)).into());
    Us::trusting(&old).refuse(
        "expired root",
        &old.leaf(&id("peer"), |_| ()),
        "a root outside of its own validity",
    );
    let stale = root.intermediate(|p| p.not_after = (now - Duration::from_secs(60)).into());
    us.refuse(
        "expired intermediate",
        &stale.leaf(&id("peer"), |_| ()),
        "expired",
    );
}

#[test]
fn chains_that_do_not_lead_to_a_root_are_refused() {
    let root = Maker::root();
    let us = Us::trusting(&root);
    let unknown = "is signed by none of the 2 trusted roots";
    us.refuse(
        "wrong root",
        &Maker::root().leaf(&id("peer"), |_| ()),
        unknown,
    );

    let key = KeyPair::generate().unwrap();
    let own = leaf_params(&id("peer")).self_signed(&key).unwrap();
    us.refuse("self-signed", &Made::new(vec![own.into()], key), unknown);

    // The name of a trusted root, but another key.
    let name = trusted_name(&root);
    let impostor = Maker::root_with(|p| p.distinguished_name = name);
    us.refuse(
        "impostor of a root",
        &impostor.leaf(&id("peer"), |_| ()),
        "",
    );

    let mut lost = root.intermediate(|_| ()).leaf(&id("peer"), |_| ());
    lost.chain.truncate(1);
    us.refuse("missing intermediate", &lost, unknown);

    let mut foreign = Maker::root().leaf(&id("peer"), |_| ());
    foreign.chain.push(root.chain[0].clone());
    us.refuse("a trusted root sent along", &foreign, unknown);

    let stolen = root.leaf(&id("peer"), |_| ());
    let thief = Made::new(stolen.chain, KeyPair::generate().unwrap());
    us.refuse("a certificate without its key", &thief, "");
}

/// The distinguished name of a maker's root.
fn trusted_name(root: &Maker) -> DistinguishedName {
    let bundle = root.bundle();
    let text = bundle.roots()[0]
        .name()
        .strip_prefix("CN=")
        .expect("a common name");
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

#[test]
fn intermediates_that_may_not_sign_are_refused() {
    let root = Maker::root();
    let us = Us::trusting(&root);
    let via =
        |change: fn(&mut CertificateParams)| root.intermediate(change).leaf(&id("peer"), |_| ());
    us.refuse("not a CA", &via(|p| p.is_ca = IsCa::ExplicitNoCa), "");
    us.refuse(
        "no keyCertSign",
        &via(|p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]),
        "lacks keyCertSign",
    );
    us.refuse(
        "no key usage",
        &via(|p| p.key_usages.clear()),
        "lacks keyCertSign",
    );
    us.refuse(
        "of another trust domain",
        &via(|p| p.subject_alt_names = vec![uri("spiffe://demo.warren.evil")]),
        "is of another trust domain",
    );
    us.refuse(
        "for e-mail",
        &via(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]),
        "does not verify",
    );
    us.refuse(
        "for servers only",
        &via(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        "does not verify",
    );
    let short = Maker::root_with(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0)));
    Us::trusting(&short).refuse(
        "below a root that allows no intermediate",
        &short.intermediate(|_| ()).leaf(&id("peer"), |_| ()),
        "a root that allows fewer certificates below it",
    );
    // A workload of the mesh signs for another one.
    let mut params = leaf_params(&id("mallory"));
    params.is_ca = IsCa::ExplicitNoCa;
    let mallory = root.intermediate(|p| *p = params);
    us.refuse(
        "signed by a workload",
        &mallory.leaf(&id("peer"), |_| ()),
        "",
    );
}

#[test]
fn long_chains_are_refused_unread() {
    let root = Maker::root();
    let mut made = root.leaf(&id("peer"), |_| ());
    let intermediate = root.intermediate(|_| ()).chain[0].clone();
    made.chain.extend(std::iter::repeat_n(intermediate, 1000));
    let begin = std::time::Instant::now();
    let error = svid::verify(&root.bundle(), &made.chain, UnixTime::now()).unwrap_err();
    assert!(
        matches!(error, SvidError::ChainTooLong { count: 1000 }),
        "{error}"
    );
    assert!(begin.elapsed() < Duration::from_millis(50));
    let error = svid::verify(&root.bundle(), &[], UnixTime::now()).unwrap_err();
    assert!(matches!(error, SvidError::NoCertificate), "{error}");
}

#[test]
fn roots_that_are_none_do_not_make_a_bundle() {
    let leaf = Maker::root().leaf(&id("peer"), |_| ()).chain[0].to_vec();
    let foreign = Maker::root_with(|p| p.subject_alt_names = vec![uri("spiffe://other")]);
    let no_sign = Maker::root_with(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]);
    for (root, words) in [
        (leaf, "CA:TRUE"),
        (foreign.chain[0].to_vec(), "another trust domain"),
        (no_sign.chain[0].to_vec(), "keyCertSign"),
        (b"garbage".to_vec(), "cannot be trusted"),
    ] {
        let error = TrustBundle::from_der(&domain(), [root])
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{error}");
    }
    let none: [Vec<u8>; 0] = [];
    let error = TrustBundle::from_der(&domain(), none)
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds no root"), "{error}");
    let root = Maker::root();
    let twice = [root.chain[0].to_vec(), root.chain[0].to_vec()];
    assert_eq!(
        TrustBundle::from_der(&domain(), twice)
            .unwrap()
            .roots()
            .len(),
        1
    );
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
