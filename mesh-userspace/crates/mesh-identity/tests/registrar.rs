//! What the controller signs for a node, and what it refuses and counts.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_identity::NodeIdentity;
use mesh_identity::authority::{Authority, AuthorityError};
use mesh_identity::registrar::{Asked, LARGEST_BATCH, Reason, Refusal, Registrar};
use mesh_identity::request::{Request, RequestError};
use support::{authority, id, node};

const HOUR: Duration = Duration::from_secs(3600);

/// What runs where.
fn cluster() -> BTreeMap<String, BTreeSet<SpiffeId>> {
    BTreeMap::from([
        ("n1".to_owned(), BTreeSet::from([id("web"), id("api")])),
        ("n2".to_owned(), BTreeSet::from([id("vault")])),
    ])
}

fn may_have(node: &NodeIdentity, identity: &SpiffeId) -> bool {
    cluster()
        .get(node.name())
        .is_some_and(|identities| identities.contains(identity))
}

fn counts(registrar: &Registrar) -> BTreeMap<&'static str, u64> {
    registrar
        .refusals()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.label(), count))
        .collect()
}

#[test]
fn a_node_gets_what_runs_on_it_and_nothing_else() {
    let registrar = Registrar::new(authority());
    let now = SystemTime::now();
    let requests: Vec<_> = ["web", "vault", "api", "nobody"]
        .map(|name| Request::new(id(name)).unwrap())
        .into();
    let texts: Vec<_> = requests
        .iter()
        .map(|request| request.identity().to_string())
        .collect();
    let batch = requests
        .iter()
        .zip(&texts)
        .map(|(request, identity)| Asked {
            identity,
            csr: request.csr(),
        });
    let answers = registrar.sign_all(&node("n1"), batch, may_have, HOUR, now);
    assert_eq!(answers.len(), 4);
    for (request, answer) in requests.iter().zip(answers) {
        match answer {
            Ok(chain) => {
                assert!(may_have(&node("n1"), request.identity()));
                let bundle = registrar.authority().bundle();
                request.complete(chain, &bundle, now).unwrap();
            }
            Err(refusal) => {
                assert!(!may_have(&node("n1"), request.identity()));
                assert!(matches!(refusal, Refusal::NotOnNode { .. }));
                let words = refusal.in_words();
                assert!(
                    words.contains(&request.identity().to_string()) && words.contains("node n1"),
                    "{words}"
                );
            }
        }
    }
    assert_eq!(counts(&registrar), BTreeMap::from([("not-on-node", 2)]));
    assert_eq!(registrar.workloads_signed(), 2);
    assert_eq!(registrar.nodes_signed(), 0);
}

#[test]
fn a_stolen_certificate_gets_no_identity_of_another_node() {
    let registrar = Registrar::new(authority());
    let request = Request::new(id("vault")).unwrap();
    let mut spellings = vec![id("vault").to_string()];
    for trick in [
        "spiffe://demo.warren/ns/shop/sa/vault/",
        "spiffe://demo.warren/ns/shop/sa/web/../vault",
        "spiffe://demo.warren/ns/shop/sa/web\0vault",
        "spiffe://demo.warren/node/n2",
        "SPIFFE://demo.warren/ns/shop/sa/vault",
        "",
    ] {
        spellings.push(trick.to_owned());
    }
    for attempt in 0..1000 {
        let identity = &spellings[attempt % spellings.len()];
        let asked = Asked {
            identity,
            csr: request.csr(),
        };
        let signed = registrar.sign(&node("n1"), asked, may_have, HOUR, SystemTime::now());
        assert!(signed.is_err(), "{identity}");
    }
    assert_eq!(registrar.workloads_signed(), 0);
    assert_eq!(counts(&registrar).values().sum::<u64>(), 1000);
    assert_eq!(
        counts(&registrar).into_keys().collect::<Vec<_>>(),
        ["not-an-identity", "not-on-node"]
    );
}

#[test]
fn a_node_is_who_its_token_says() {
    let registrar = Registrar::new(authority());
    let now = SystemTime::now();
    let request = Request::new(node("n1")).unwrap();
    let enrol =
        |bound: &str, asked: &str, csr: &[u8]| registrar.enrol(bound, asked, csr, HOUR, now);
    let chain = enrol("n1", "n1", request.csr()).unwrap();
    let bundle = registrar.authority().bundle();
    let certificate = request.complete(chain, &bundle, now).unwrap();
    assert_eq!(certificate.identity(), &node("n1"));

    let refusal = enrol("n1", "n2", request.csr()).unwrap_err();
    assert!(matches!(refusal, Refusal::OtherNode { .. }));
    assert!(refusal.in_words().contains("bound to the node n1"));
    let refusal = enrol("N 1", "N 1", request.csr()).unwrap_err();
    assert!(matches!(refusal, Refusal::NotANode(_)));
    let refusal = enrol("n1", "n1", b"garbage").unwrap_err();
    assert!(
        matches!(
            &refusal,
            Refusal::Request {
                source: RequestError::Unreadable { .. },
                ..
            }
        ),
        "{refusal}"
    );
    assert!(refusal.in_words().contains("cannot be read"), "{refusal}");
    // Decided elsewhere, counted here.
    let why = "it has expired".to_owned();
    registrar.refuse(Refusal::Token { why }, "n1");
    assert_eq!(
        counts(&registrar),
        BTreeMap::from([
            ("not-a-node", 1),
            ("other-node", 1),
            ("request", 1),
            ("token", 1)
        ])
    );
    assert_eq!(registrar.nodes_signed(), 1);
}

#[test]
fn what_is_not_the_nodes_fault_is_said_to_be() {
    let registrar = Registrar::new(authority());
    let request = Request::new(id("web")).unwrap();
    let web = id("web").to_string();
    let asked = Asked {
        identity: &web,
        csr: request.csr(),
    };
    let after = registrar.authority().signer().not_after();
    let refusal = registrar
        .sign(&node("n1"), asked, may_have, HOUR, after)
        .unwrap_err();
    assert!(
        matches!(
            &refusal,
            Refusal::CannotSign {
                source: AuthorityError::RootNotValid { .. },
                ..
            }
        ),
        "{refusal}"
    );
    assert!(refusal.in_words().contains("rotate the root"));
    // Of another trust domain, and a closure that is too generous: the authority itself refuses.
    let foreign = "spiffe://other/ns/shop/sa/web";
    let asked = Asked {
        identity: foreign,
        csr: request.csr(),
    };
    let refusal = registrar
        .sign(&node("n1"), asked, |_, _| true, HOUR, SystemTime::now())
        .unwrap_err();
    assert!(refusal.in_words().contains("not of trust domain"));
    assert_eq!(counts(&registrar), BTreeMap::from([("cannot-sign", 2)]));
}

#[test]
fn batches_are_bounded() {
    let registrar = Registrar::new(authority());
    let asked = Asked {
        identity: "",
        csr: &[],
    };
    let batch = std::iter::repeat_n(asked, LARGEST_BATCH + 3);
    let answers = registrar.sign_all(&node("n1"), batch, may_have, HOUR, SystemTime::now());
    assert_eq!(answers.len(), LARGEST_BATCH + 3);
    let expected = u64::try_from(LARGEST_BATCH).unwrap();
    assert_eq!(
        counts(&registrar),
        BTreeMap::from([("not-an-identity", expected), ("too-many", 3)])
    );
}

#[test]
fn every_reason_has_its_own_word_and_counter() {
    let registrar = Registrar::new(authority());
    let words: BTreeSet<_> = Reason::ALL.map(Reason::label).into();
    assert_eq!(words.len(), Reason::ALL.len());
    assert_eq!(registrar.refusals().count(), Reason::ALL.len());
    registrar.refuse(Refusal::TooMany, "n1");
    let counted: Vec<_> = registrar
        .refusals()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(counted, [(Reason::TooMany, 1)]);
}

#[test]
fn a_rotation_happens_under_way() {
    let registrar = Arc::new(Registrar::new(authority()));
    let mut operator = Authority::clone(&registrar.authority());
    let now = SystemTime::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let registrar = Arc::clone(&registrar);
            scope.spawn(move || {
                let request = Request::new(id("web")).unwrap();
                let web = id("web").to_string();
                for _ in 0..100 {
                    let asked = Asked {
                        identity: &web,
                        csr: request.csr(),
                    };
                    registrar
                        .sign(&node("n1"), asked, may_have, HOUR, now)
                        .unwrap();
                }
            });
        }
        for step in [Authority::stage, Authority::activate, Authority::finish] {
            step(&mut operator).unwrap();
            registrar.replace(&operator.material()).unwrap();
        }
    });
    assert_eq!(registrar.authority().signer(), operator.signer());
    assert_eq!(registrar.workloads_signed(), 200);
    assert!(counts(&registrar).is_empty());
}
