//! Certificates whose time or whose chain is wrong, in real handshakes, presented by a server and by a client.

mod support;

use std::time::{Duration, SystemTime};

use mesh_identity::{SvidError, TrustBundle, svid};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use support::us::Us;
use support::{Made, Maker, domain, id, leaf_params, uri};

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
    // Nothing in it is a certificate: whoever read any of it would find that first.
    let chain = vec![CertificateDer::from(vec![0; 8]); 1001];
    let error = svid::verify(&root.bundle(), &chain, UnixTime::now()).unwrap_err();
    assert!(
        matches!(error, SvidError::ChainTooLong { count: 1000 }),
        "{error}"
    );
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
