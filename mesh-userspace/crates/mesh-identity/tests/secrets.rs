//! No private key in anything that is printed, and nothing that is read makes us fall over.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::fmt::Debug;
use std::fs;
use std::time::Duration;

use mesh_identity::authority::Authority;
use mesh_identity::registrar::Registrar;
use mesh_identity::request::Request;
use mesh_identity::store::Store;
use mesh_identity::{Certificate, IdentityError, TrustBundle, svid, tls};
use proptest::prelude::*;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use support::{Maker, domain, handshake, id};

const HOUR: Duration = Duration::from_secs(3600);

/// The private number of a P-256 key (RFC 5915: version 1, then an octet string of 32 bytes).
fn private_number(bytes: &[u8]) -> [u8; 32] {
    let mark = [2, 1, 1, 4, 32];
    let at = bytes
        .windows(5)
        .position(|w| w == mark)
        .expect("a P-256 key");
    bytes[at + 5..at + 37].try_into().unwrap()
}

/// A printed thing shows no six bytes in a row of a key: as hexadecimal digits, as a list of numbers, or as base64.
fn assert_shows_no_key(what: &str, text: &str, keys: &[[u8; 32]], pems: &[String]) {
    let squeezed: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let lower = squeezed.to_lowercase();
    for key in keys {
        for window in key.windows(6) {
            let join = |form: fn(&u8) -> String, between: &str| {
                window.iter().map(form).collect::<Vec<_>>().join(between)
            };
            for form in [
                join(|byte| format!("{byte:02x}"), ""),
                join(|byte| format!("{byte:02x}"), ","),
                join(|byte| format!("{byte:02x}"), ":"),
                join(|byte| format!("0x{byte:02x}"), ","),
                join(ToString::to_string, ","),
            ] {
                assert!(!lower.contains(&form), "{what} shows a key");
            }
        }
    }
    for line in pems.iter().flat_map(|pem| pem.lines().nth(1)) {
        assert!(!squeezed.contains(&line[..24]), "{what} shows a key");
    }
}

#[test]
fn the_scan_finds_keys() {
    let key: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).unwrap() + 7);
    for text in [
        format!("{key:?}"),
        format!("{key:#?}"),
        format!("{key:02x?}"),
        hex(&key),
    ] {
        let found = std::panic::catch_unwind(|| assert_shows_no_key("it", &text, &[key], &[]));
        assert!(found.is_err(), "{text}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[test]
fn nothing_that_is_printed_shows_a_key() {
    let directory = tempfile::tempdir().unwrap();
    let mut authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    authority.stage().unwrap();
    let mut store = Store::new(&authority, HOUR);
    store.want([id("a"), id("b")]);
    let changed = store.refresh(std::time::SystemTime::now(), &authority);
    let snapshot = store.snapshot();

    let pems: Vec<_> = ["signer.key", "next.key"]
        .map(|name| fs::read_to_string(directory.path().join(name)).unwrap())
        .into();
    let mut keys: Vec<_> = pems
        .iter()
        .map(|pem| {
            let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
            private_number(der.secret_pkcs8_der())
        })
        .collect();
    keys.extend(
        snapshot
            .certificates
            .iter()
            .map(|c| private_number(&c.to_handover())),
    );
    assert_eq!(keys.len(), 4);

    // A cluster's: what is stored elsewhere, keys that wait for their certificates, nodes' and the controller's.
    let material = Authority::material(&authority);
    let stored = Authority::from_material(&material, &domain()).unwrap();
    let mut remote = Store::remote(authority.bundle(), HOUR);
    remote.want([id("c")]);
    let due = remote.requests_due(std::time::SystemTime::now());
    let request = Request::new(id("d")).unwrap();
    let csr = request.csr().to_vec();
    let registrar = Registrar::new(stored.clone());
    let node = support::node_certificate(&authority, "n1");
    let serving = support::server_certificate(&authority, "controller");
    let front = support::Maker::root().bundle().to_pem();
    let distribution_client =
        tls::distribution_client(Some(&node), &snapshot.bundle, &id("controller")).unwrap();
    let distribution_server = tls::distribution_server(&serving, &snapshot.bundle).unwrap();
    let api = tls::api_server(&serving, front.as_bytes(), &[]).unwrap();

    let client = tls::client_config(&snapshot.certificates[0], &snapshot.bundle, &[id("b")]);
    let one = tls::server_config(&snapshot.certificates[..1], &snapshot.bundle);
    let several = tls::server_config(&snapshot.certificates, &snapshot.bundle);
    let (client, one, several) = (client.unwrap(), one.unwrap(), several.unwrap());
    let ended = handshake(client.clone(), several.clone(), tls::server_name(&id("b")));
    assert!(ended.is_good());
    let things: [(&str, &dyn Debug); 25] = [
        ("material", &material),
        ("stored authority", &stored),
        ("store that waits", &remote),
        ("what is due", &due),
        ("request", &request),
        ("csr", &csr),
        ("registrar", &registrar),
        ("node certificate", &node),
        ("serving certificate", &serving),
        ("distribution client", &distribution_client),
        ("distribution server", &distribution_server),
        ("api server", &api),
        ("authority", &authority),
        ("description", &authority.describe()),
        ("store", &store),
        ("changed", &changed),
        ("snapshot", &snapshot),
        ("certificate", &snapshot.certificates[0]),
        ("bundle", &snapshot.bundle),
        ("client configuration", &client),
        ("server configuration", &one),
        ("server configuration for several", &several),
        ("client connection", &ended.client),
        ("server connection", &ended.server),
        ("resolver", &several.cert_resolver),
    ];
    for (what, thing) in things {
        assert_shows_no_key(what, &format!("{thing:?}"), &keys, &pems);
        assert_shows_no_key(what, &format!("{thing:#?}"), &keys, &pems);
    }
}

#[test]
fn errors_about_keys_show_none() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let path = directory.path().join("signer.key");
    let pem = fs::read_to_string(&path).unwrap();
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut keys = vec![private_number(der.secret_pkcs8_der())];
    let show = |error: &dyn std::error::Error| {
        let mut text = format!("{error} {error:?}");
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!("{error} {error:?}"));
            cause = error.source();
        }
        text
    };
    let lines: Vec<_> = pem.lines().collect();
    for damaged in [
        pem.replace("PRIVATE", "PUBLIC"),
        pem.replace("-----END", "----END"),
        lines[1..].join("\n"),
        [lines[0], lines[1], "!", lines[2]].join("\n"),
        [lines[0], lines[1], lines[lines.len() - 1]].join("\n"),
    ] {
        fs::write(&path, &damaged).unwrap();
        let error = Authority::open_or_create(directory.path(), &domain()).unwrap_err();
        assert_shows_no_key(&damaged, &show(&error), &keys, std::slice::from_ref(&pem));
    }
    let (one, other) = (
        authority.issue(&id("a"), HOUR).unwrap().to_handover(),
        authority.issue(&id("a"), HOUR).unwrap().to_handover(),
    );
    keys = vec![private_number(&one), private_number(&other)];
    // The key of one with the certificate of the other, and a key cut short.
    let start = 22;
    let length = usize::from(one[20]) * 256 + usize::from(one[21]);
    let mut mixed = other.to_vec();
    mixed[start..start + length].copy_from_slice(&one[start..start + length]);
    let mut broken = one.to_vec();
    broken[start + 10] ^= 0xff;
    for bytes in [mixed, broken, one[..60].to_vec()] {
        let error = Certificate::from_handover(&bytes).unwrap_err();
        assert_shows_no_key("handover", &show(&error), &keys, &[]);
    }
}

#[test]
fn a_handover_arrives_whole() {
    let maker = Maker::root();
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let sent = authority.issue(&id("a"), HOUR).unwrap();
    let received = Certificate::from_handover(&sent.to_handover()).unwrap();
    assert_eq!(received, sent);
    assert_eq!(received.identity(), sent.identity());
    assert_eq!(received.issued_at(), sent.issued_at());
    assert_eq!(received.not_after(), sent.not_after());
    assert_eq!(received.serial(), sent.serial());
    assert_eq!(received.issuer(), sent.issuer());
    // It signs: a server of the received certificate is accepted.
    let roots = [authority.bundle().to_der(), maker.bundle().to_der()].concat();
    let bundle = TrustBundle::from_der(&domain(), roots).unwrap();
    let serve = tls::server_config(&[received], &bundle).unwrap();
    let client = maker.leaf(&id("client"), |_| ()).client();
    assert!(handshake(client, serve, tls::server_name(&id("a"))).is_good());
}

#[test]
fn malformed_handovers_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let good = authority.issue(&id("a"), HOUR).unwrap().to_handover();
    for length in 0..good.len() {
        let error = Certificate::from_handover(&good[..length]).unwrap_err();
        assert!(
            matches!(error, IdentityError::Handover { .. }),
            "{length}: {error}"
        );
    }
    let change = |at: usize, to: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = to;
        bytes
    };
    for (what, bytes) in [
        ("another magic", change(0, b'X')),
        ("another version", change(5, 2)),
        ("too many nanoseconds", change(14, 0xff)),
        ("a time without end", change(6, 0xff)),
        ("a long key", change(18, 0xff)),
        ("bytes after the end", [&good[..], b"x"].concat()),
    ] {
        let error = Certificate::from_handover(&bytes).unwrap_err();
        assert!(
            matches!(error, IdentityError::Handover { .. }),
            "{what}: {error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn random_bytes_are_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Certificate::from_handover(&bytes).is_err());
        prop_assert!(TrustBundle::from_der(&domain(), [bytes.clone()]).is_err());
        prop_assert!(svid::identity_in(&CertificateDer::from(bytes)).is_err());
    }

    #[test]
    fn names_are_parsed_or_refused(name in "(spiffe://)?[ -~]{0,40}(/ns/[ -~]{0,9}/sa/[ -~]{0,9})?") {
        let leaf = Maker::root().leaf(&id("a"), |p| p.subject_alt_names = vec![support::uri(&name)]);
        if let Ok(identity) = svid::identity_in(&leaf.chain[0]) {
            prop_assert_eq!(identity.to_string(), name);
        }
    }
}

#[test]
fn a_changed_certificate_never_verifies() {
    let maker = Maker::root();
    let bundle = maker.bundle();
    let good = maker.leaf(&id("a"), |_| ()).chain[0].to_vec();
    let now = UnixTime::now();
    assert!(svid::verify(&bundle, &[good.clone().into()], now).is_ok());
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            let verified = svid::verify(&bundle, &[changed.into()], now);
            assert!(verified.is_err(), "byte {at}, bit {bit}: {verified:?}");
        }
        assert!(svid::verify(&bundle, &[good[..at].to_vec().into()], now).is_err());
    }
}

#[test]
fn a_changed_handover_is_refused_or_the_same_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let certificate = authority.issue(&id("a"), HOUR).unwrap();
    let good = certificate.to_handover();
    for at in 0..good.len() {
        let mut changed = good.to_vec();
        changed[at] ^= 0x55;
        // Whatever is still taken was changed in what a peer verifies (signature, names), or in the time of issue.
        if let Ok(taken) = Certificate::from_handover(&changed) {
            let verified = svid::verify(&authority.bundle(), taken.chain(), UnixTime::now());
            assert!(verified.is_err() || taken == certificate, "byte {at}");
        }
    }
}
