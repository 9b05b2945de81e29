//! Certificates that somebody else signs: what a signer takes from a request, and what a requester takes back.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::time::{Duration, SystemTime};

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_identity::authority::{Authority, AuthorityError};
use mesh_identity::request::{LARGEST, Request, RequestError};
use mesh_identity::{IdentityError, NodeIdentity, SvidError, svid};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, RsaKeySize, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use support::requests::{EC_KEY, ECDSA_SHA384, P256, Parts, der, public};
use support::{authority, domain, id, node, uri};
use x509_parser::prelude::{FromDer, X509Certificate};

const HOUR: Duration = Duration::from_secs(3600);

/// The request of an honest key for whatever `change` asks.
fn asking(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

fn refusal(csr: &[u8]) -> RequestError {
    match authority().sign_request(csr, &id("web"), HOUR, SystemTime::now()) {
        Err(AuthorityError::Request { source, identity }) => {
            assert_eq!(identity, id("web").to_string());
            source
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_becomes_a_certificate() {
    let authority = authority();
    let now = SystemTime::now();
    let request = Request::new(id("web")).unwrap();
    assert!(request.csr().len() < 400);
    let chain = authority
        .sign_request(request.csr(), &id("web"), HOUR, now)
        .unwrap();
    assert!(request.is_answered_by(&chain));
    let certificate = request.complete(chain, &authority.bundle(), now).unwrap();
    assert_eq!(certificate.identity(), &id("web"));
    assert_eq!(certificate.issuer(), authority.signer().name());
    assert_eq!(certificate.issued_at(), now);
    let verified = svid::verify(&authority.bundle(), certificate.chain(), UnixTime::now());
    assert_eq!(verified.unwrap(), id("web"));
    let end = certificate.not_after();
    assert!((now + HOUR).duration_since(end).unwrap() < Duration::from_secs(1));

    let request = Request::new(node("n1.example")).unwrap();
    let chain = authority
        .sign_node_request(request.csr(), request.identity(), HOUR, now)
        .unwrap();
    let certificate = request.complete(chain, &authority.bundle(), now).unwrap();
    assert_eq!(certificate.identity(), &node("n1.example"));
}

#[test]
fn nothing_but_the_key_is_taken_from_a_request() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    // Everything that would be worth having.
    let greedy = asking(&key, |params| {
        params.subject_alt_names = vec![
            uri("spiffe://demo.warren/ns/bank/sa/vault"),
            uri("spiffe://demo.warren/node/other"),
            SanType::DnsName("warren-controller.warren-system.svc".try_into().unwrap()),
        ];
        params
            .distinguished_name
            .push(DnType::CommonName, "front-proxy-client");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
        params.custom_extensions =
            vec![CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0])];
    });
    let honest = asking(&key, |_| ());
    let now = SystemTime::now();
    let sign = |csr: &[u8]| {
        authority
            .sign_request(csr, &id("web"), HOUR, now)
            .unwrap()
            .remove(0)
    };
    let (greedy, honest) = (sign(&greedy), sign(&honest));
    let read = |der: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        let extensions: Vec<_> = certificate
            .extensions()
            .iter()
            .map(|extension| (extension.oid.to_id_string(), extension.value.to_vec()))
            .collect();
        (certificate.subject().to_string(), extensions)
    };
    assert_eq!(read(&greedy), read(&honest));
    let (_, certificate) = X509Certificate::from_der(&greedy).unwrap();
    assert_eq!(
        certificate.public_key().raw,
        key.subject_public_key_info(),
        "the key is the requester's"
    );
    let identity = svid::verify(&authority.bundle(), &[greedy], UnixTime::now()).unwrap();
    assert_eq!(identity, id("web"));
}

#[test]
fn only_p256_keys_are_certified() {
    for (algorithm, words) in [
        (&rcgen::PKCS_ECDSA_P384_SHA384, "curve"),
        (&rcgen::PKCS_ECDSA_P521_SHA512, "curve"),
        (&rcgen::PKCS_ED25519, "a key of the type"),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let error = refusal(&asking(&key, |_| ()));
        assert!(matches!(error, RequestError::KeyType { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    let error = refusal(&asking(&key, |_| ()));
    assert!(matches!(error, RequestError::KeyType { .. }), "{error}");

    // P-256, but not as it should be written.
    let key = KeyPair::generate().unwrap();
    let point = key.der_bytes();
    let compressed = [&[2 + (point[64] & 1)], &point[1..33]].concat();
    for (what, public) in [
        ("compressed", public(&[EC_KEY, P256], &compressed)),
        ("without a curve", public(&[EC_KEY], point)),
        ("with a null curve", public(&[EC_KEY, &[5, 0]], point)),
        ("short", public(&[EC_KEY, P256], &point[..64])),
        ("empty", public(&[EC_KEY, P256], &[])),
        ("long", public(&[EC_KEY, P256], &[point, &[0]].concat())),
    ] {
        let csr = Parts {
            public,
            ..Parts::good(&key)
        }
        .csr();
        let error = refusal(&csr);
        assert!(
            matches!(error, RequestError::KeyType { .. }),
            "{what}: {error}"
        );
    }
    // The maker of requests itself makes good ones.
    let good = Parts::good(&key).csr();
    authority()
        .sign_request(&good, &id("web"), HOUR, SystemTime::now())
        .unwrap();
}

#[test]
fn whoever_asks_must_have_the_private_key() {
    let (own, victim) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    // Somebody else's public key, signed with one's own.
    let stolen = Parts {
        public: victim.subject_public_key_info(),
        ..Parts::good(&own)
    };
    assert_eq!(refusal(&stolen.csr()), RequestError::Signature);
    // A good signature that says it is another algorithm's than ours.
    let other_hash = Parts {
        algorithm: ECDSA_SHA384.to_vec(),
        ..Parts::good(&own)
    };
    assert_eq!(refusal(&other_hash.csr()), RequestError::Signature);
    // A point that is not on the curve.
    let mut point = own.der_bytes().to_vec();
    point[64] ^= 1;
    let off_curve = Parts {
        public: public(&[EC_KEY, P256], &point),
        ..Parts::good(&own)
    };
    assert_eq!(refusal(&off_curve.csr()), RequestError::Signature);
    // No signature at all.
    let unsigned = Parts::good(&own).with_signature(&[]);
    assert_eq!(refusal(&unsigned), RequestError::Signature);
    let zeros =
        Parts::good(&own).with_signature(&der(0x30, &[der(2, &[0]), der(2, &[0])].concat()));
    assert_eq!(refusal(&zeros), RequestError::Signature);
}

#[test]
fn what_is_not_a_request_is_refused() {
    let good = Request::new(id("web")).unwrap().csr().to_vec();
    for (what, csr) in [
        ("nothing", vec![]),
        ("text", b"-----BEGIN CERTIFICATE REQUEST-----".to_vec()),
        ("bytes after its end", [&good[..], &[0]].concat()),
        ("half", good[..good.len() / 2].to_vec()),
    ] {
        let error = refusal(&csr);
        assert!(
            matches!(error, RequestError::Unreadable { .. }),
            "{what}: {error}"
        );
    }
    // A certificate is not a request.
    let certificate = authority().issue(&id("web"), HOUR).unwrap();
    let error = refusal(&certificate.chain()[0]);
    assert!(matches!(error, RequestError::Unreadable { .. }), "{error}");
}

#[test]
fn large_requests_are_refused_unread() {
    let key = KeyPair::generate().unwrap();
    let sized = |content: usize| {
        asking(&key, |params| {
            params.custom_extensions = vec![CustomExtension::from_oid_content(
                &[1, 2, 3, 4],
                vec![0; content],
            )];
        })
    };
    // A signature takes two bytes more or less.
    let content = LARGEST - sized(2000).len() + 2000;
    let largest = (0..1000)
        .map(|_| sized(content))
        .find(|csr| csr.len() == LARGEST)
        .unwrap();
    let sign = |csr: &[u8]| authority().sign_request(csr, &id("web"), HOUR, SystemTime::now());
    sign(&largest).unwrap();
    for content in [LARGEST, 60_000] {
        let csr = sized(content);
        let size = csr.len();
        assert_eq!(refusal(&csr), RequestError::TooLarge { size });
    }
    // The longest identity that there can be fits.
    let rest = 2048 - "spiffe://demo.warren/ns/shop/sa/".len();
    let longest = SpiffeId::new(domain(), "shop", &"s".repeat(rest)).unwrap();
    assert_eq!(longest.to_string().len(), 2048);
    let request = Request::new(longest.clone()).unwrap();
    authority()
        .sign_request(request.csr(), &longest, HOUR, SystemTime::now())
        .unwrap();
}

#[test]
fn the_other_rules_of_issuing_hold() {
    let authority = authority();
    let csr = Request::new(id("web")).unwrap().csr().to_vec();
    let now = SystemTime::now();
    let foreign = TrustDomain::new("demo.warren.evil").unwrap();
    let workload = SpiffeId::new(foreign.clone(), "shop", "web").unwrap();
    let error = authority
        .sign_request(&csr, &workload, HOUR, now)
        .unwrap_err();
    assert!(matches!(error, AuthorityError::ForeignIdentity { .. }));
    let foreign = NodeIdentity::new(foreign, "n1").unwrap();
    let error = authority
        .sign_node_request(&csr, &foreign, HOUR, now)
        .unwrap_err();
    assert!(matches!(error, AuthorityError::ForeignIdentity { .. }));
    let error = authority
        .sign_request(&csr, &id("web"), Duration::from_millis(999), now)
        .unwrap_err();
    assert!(matches!(error, AuthorityError::Lifetime { .. }));
    let root = authority.signer();
    let error = authority
        .sign_request(&csr, &id("web"), HOUR, root.not_after() + HOUR)
        .unwrap_err();
    assert!(matches!(error, AuthorityError::RootNotValid { .. }));
    let late = root.not_after() - Duration::from_secs(10);
    let chain = authority
        .sign_request(&csr, &id("web"), HOUR, late)
        .unwrap();
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    assert_eq!(
        leaf.validity().not_after.timestamp(),
        i64::try_from(
            root.not_after()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs()
        )
        .unwrap(),
        "it outlives its root"
    );
}

#[test]
fn only_what_was_asked_for_is_taken_back() {
    let (own, other) = (authority(), authority());
    let now = SystemTime::now();
    let request = Request::new(id("web")).unwrap();
    let complete = |chain: Vec<CertificateDer<'static>>, now| {
        request.complete(chain, &own.bundle(), now).unwrap_err()
    };
    let sign = |authority: &Authority, csr: &[u8], identity: &SpiffeId| {
        authority.sign_request(csr, identity, HOUR, now).unwrap()
    };

    let error = complete(vec![], now);
    assert!(matches!(
        error,
        IdentityError::Certificate(SvidError::NoCertificate)
    ));
    let error = complete(vec![b"garbage".to_vec().into()], now);
    assert!(matches!(
        error,
        IdentityError::Certificate(SvidError::Unreadable { .. })
    ));
    let error = complete(sign(&own, request.csr(), &id("api")), now);
    assert!(
        matches!(error, IdentityError::OtherIdentity { .. }),
        "{error}"
    );
    let late = Request::new(id("web")).unwrap();
    let error = complete(sign(&own, late.csr(), &id("web")), now);
    assert!(matches!(error, IdentityError::OtherKey { .. }), "{error}");
    let error = complete(sign(&other, request.csr(), &id("web")), now);
    assert!(matches!(
        error,
        IdentityError::Certificate(SvidError::UnknownRoot { .. })
    ));
    let good = sign(&own, request.csr(), &id("web"));
    for (when, expired) in [(now + 2 * HOUR, true), (now - HOUR, false)] {
        let error = complete(good.clone(), when);
        assert_eq!(
            matches!(error, IdentityError::Certificate(SvidError::Expired { .. })),
            expired
        );
        assert_eq!(
            matches!(
                error,
                IdentityError::Certificate(
                    SvidError::NotYetValid { .. } | SvidError::Signer { .. }
                )
            ),
            !expired,
            "{error:?}"
        );
    }
    // A node's certificate is not a workload's, though signed for the same key.
    let chain = own
        .sign_node_request(request.csr(), &node("web"), HOUR, now)
        .unwrap();
    let error = complete(chain, now);
    assert!(matches!(
        error,
        IdentityError::Certificate(SvidError::Identity(_))
    ));
    request.complete(good, &own.bundle(), now).unwrap();
}

#[test]
fn every_changed_bit_is_refused() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let good = Parts::good(&key).csr();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut changed = good.clone();
            changed[at] ^= 1 << bit;
            let signed = authority.sign_request(&changed, &id("web"), HOUR, SystemTime::now());
            // Some encodings of the same thing are read as the same thing; another key never comes of it.
            if let Ok(chain) = signed {
                let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
                assert_eq!(
                    leaf.public_key().raw,
                    key.subject_public_key_info(),
                    "byte {at}, bit {bit}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn random_bytes_are_no_request(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let signed = authority().sign_request(&bytes, &id("web"), HOUR, SystemTime::now());
        let refused = matches!(signed, Err(AuthorityError::Request { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn node_names_are_parsed_or_refused(name in "[a-zA-Z0-9._/-]{0,12}", prefix in "(spiffe://demo.warren/node/)?") {
        let text = format!("{prefix}{name}");
        match text.parse::<NodeIdentity>() {
            Ok(node) => {
                prop_assert_eq!(node.to_string(), text);
                prop_assert!(NodeIdentity::new(domain(), node.name()).is_ok());
            }
            Err(error) => prop_assert!(error.to_string().contains("is not a node identity")),
        }
    }
}

#[test]
fn node_names_follow_rfc_1123() {
    for good in ["a", "n1", "ip-10-0-0-1.eu.internal", &"a".repeat(253), "1"] {
        let node = NodeIdentity::new(domain(), good).unwrap();
        assert_eq!(node.to_string().parse::<NodeIdentity>(), Ok(node));
    }
    for bad in [
        "",
        "A",
        "a_b",
        "a/b",
        "-a",
        "a-",
        ".a",
        "a.",
        "a..b",
        "a.-b",
        "ä",
        "a b",
        "a%2fb",
        &"a".repeat(254),
    ] {
        let error = NodeIdentity::new(domain(), bad).unwrap_err();
        assert!(error.to_string().contains("node"), "{bad}: {error}");
        let text = format!("spiffe://demo.warren/node/{bad}");
        assert!(text.parse::<NodeIdentity>().is_err(), "{bad}");
    }
    for text in [
        "spiffe://demo.warren/ns/shop/sa/web",
        "spiffe://demo.warren/node/n1/",
        "spiffe://demo.warren/node/n1/x",
        "spiffe://demo.warren//node/n1",
        "spiffe://DEMO/node/n1",
        "SPIFFE://demo.warren/node/n1",
        "spiffe:///node/n1",
        "https://demo.warren/node/n1",
    ] {
        assert!(text.parse::<NodeIdentity>().is_err(), "{text}");
    }
}
