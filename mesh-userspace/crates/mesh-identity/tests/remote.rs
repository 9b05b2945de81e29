//! A store whose certificates somebody else signs, through simulated days: renewals, refusals, lost answers, rotations,
//! clocks that are set.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_identity::authority::Authority;
use mesh_identity::store::{Due, MOST_AT_ONCE, NodeStore, Serving, Store};
use mesh_identity::{IdentityError, SvidError, TrustBundle, svid, tls};
use proptest::prelude::*;
use rustls_pki_types::UnixTime;
use support::{CONTROLLER_NAME, authority, domain, handshake, id, node};

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// A node and the controller that signs for it.
struct Cluster {
    authority: Authority,
    store: Store,
    now: SystemTime,
}

impl Cluster {
    fn new(names: &[&str]) -> Self {
        let authority = authority();
        let mut store = Store::remote(authority.bundle(), HOUR);
        store.want(names.iter().map(|name| id(name)));
        let mut cluster = Self {
            authority,
            store,
            now: SystemTime::now(),
        };
        cluster.tell();
        cluster
    }

    /// The controller tells which roots are trusted, as a text, the one that signs first.
    fn tell(&mut self) {
        let pem = self.authority.bundle().to_pem();
        let bundle = TrustBundle::from_pem(&domain(), pem.as_bytes()).unwrap();
        self.store.trust(bundle, None, self.now);
    }

    fn sign(&self, due: &Due) -> Vec<Vec<u8>> {
        self.authority
            .sign_request(&due.csr, &due.identity, HOUR, self.now)
            .unwrap()
            .into_iter()
            .map(|certificate| certificate.to_vec())
            .collect()
    }

    /// Asks for what is due, and takes all answers. Says whose certificates are new.
    fn catch_up(&mut self) -> Vec<SpiffeId> {
        let due = self.store.requests_due(self.now);
        for due in &due {
            let chain = self.sign(due);
            self.store.take(&due.identity, chain, self.now).unwrap();
        }
        due.into_iter().map(|due| due.identity).collect()
    }

    fn serial(&self, name: &str) -> String {
        self.store
            .certificate(&id(name))
            .unwrap()
            .serial()
            .to_owned()
    }

    fn wait(&self, name: &str) -> u64 {
        let due = self.store.renews_at(&id(name)).unwrap();
        due.duration_since(self.now).unwrap().as_secs()
    }
}

#[test]
fn what_is_wanted_is_asked_for_and_handed_on() {
    let mut cluster = Cluster::new(&["a", "b"]);
    let first = cluster.store.changed().unwrap();
    assert!(first.certificates.is_empty() && !cluster.store.is_complete(cluster.now));
    assert!(cluster.store.changed().is_none());

    let due = cluster.store.requests_due(cluster.now);
    let identities: Vec<_> = due.iter().map(|due| &due.identity).collect();
    assert_eq!(identities, [&id("a"), &id("b")]);
    assert!(!cluster.store.due(cluster.now), "they are asked for");
    assert!(cluster.store.requests_due(cluster.now).is_empty());
    assert!(cluster.store.changed().is_none());

    let chain = cluster.sign(&due[0]);
    cluster
        .store
        .take(&due[0].identity, chain, cluster.now)
        .unwrap();
    let second = cluster.store.changed().unwrap();
    assert!(second.generation > first.generation);
    assert_eq!(second.certificates.len(), 1);
    assert_eq!(second.certificates[0].identity(), &id("a"));
    assert!(!cluster.store.is_complete(cluster.now));
    let chain = cluster.sign(&due[1]);
    cluster
        .store
        .take(&due[1].identity, chain, cluster.now)
        .unwrap();
    assert!(cluster.store.is_complete(cluster.now));
    assert!(!cluster.store.is_complete(cluster.now + HOUR));

    // The certificates work, with the keys that were made here.
    let snapshot = cluster.store.changed().unwrap();
    let client = tls::client_config(&snapshot.certificates[0], &snapshot.bundle, &[id("b")]);
    let server = tls::server_config(&snapshot.certificates[1..], &snapshot.bundle);
    let ended = handshake(client.unwrap(), server.unwrap(), tls::server_name(&id("b")));
    assert!(ended.is_good(), "{}", ended.errors());

    cluster.store.want([id("b")]);
    let snapshot = cluster.store.changed().unwrap();
    assert_eq!(snapshot.certificates.len(), 1);
    assert!(cluster.store.certificate(&id("a")).is_none());
}

#[test]
fn certificates_are_renewed_around_half_life_with_new_keys() {
    let mut cluster = Cluster::new(&[]);
    let names: Vec<_> = (0..40).map(|n| format!("w{n}")).collect();
    cluster.store.want(names.iter().map(|name| id(name)));
    cluster.catch_up();
    let times: BTreeSet<_> = names.iter().map(|name| cluster.wait(name)).collect();
    let (first, last) = (*times.first().unwrap(), *times.last().unwrap());
    assert!(first >= 1439 && last <= 2160, "{first} {last}");
    assert!(last - first > 180, "not spread: {first} {last}");

    let keys = |cluster: &Cluster| -> BTreeSet<Vec<u8>> {
        names
            .iter()
            .map(|name| {
                let certificate = cluster.store.certificate(&id(name)).unwrap();
                let leaf = &certificate.chain()[0];
                let (_, leaf) =
                    <x509_parser::prelude::X509Certificate<'_> as x509_parser::prelude::FromDer<
                        _,
                    >>::from_der(leaf)
                    .unwrap();
                leaf.public_key().raw.to_vec()
            })
            .collect()
    };
    let before = keys(&cluster);
    let begin = cluster.now;
    let mut renewed = 0;
    for minute in 0..24 * 60 {
        cluster.now = begin + 60 * SECOND * minute;
        renewed += cluster.catch_up().len();
        assert!(cluster.store.is_complete(cluster.now + 20 * 60 * SECOND));
    }
    // Every half hour, on average.
    assert!((40 * 43..40 * 53).contains(&renewed), "{renewed}");
    assert!(keys(&cluster).is_disjoint(&before), "a key was used again");
}

#[test]
fn the_old_certificate_stays_until_the_new_one_is_there() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.catch_up();
    let serial = cluster.serial("a");
    cluster.now += HOUR / 10 * 7;
    let due = cluster.store.requests_due(cluster.now);
    assert_eq!(due.len(), 1);
    assert_eq!(cluster.serial("a"), serial, "while it is asked for");
    cluster
        .store
        .refused(&id("a"), "the controller is away", cluster.now);
    assert_eq!(cluster.serial("a"), serial, "after a refusal");
    let refusals: Vec<_> = cluster.store.refusals().collect();
    assert_eq!(refusals, [(&id("a"), "the controller is away")]);
    // Even after its time: the worker shows it, and its peers say why they refuse it.
    cluster.now += HOUR;
    assert_eq!(cluster.store.snapshot().certificates.len(), 1);
    assert_eq!(cluster.catch_up(), [id("a")]);
    assert_ne!(cluster.serial("a"), serial);
    assert_eq!(cluster.store.refusals().count(), 0);
}

#[test]
fn refusals_are_waited_out_ever_longer() {
    let mut cluster = Cluster::new(&["a"]);
    let mut waits = Vec::new();
    for _ in 0..9 {
        assert_eq!(cluster.store.requests_due(cluster.now).len(), 1);
        cluster.store.refused(&id("a"), "no", cluster.now);
        assert!(cluster.store.requests_due(cluster.now).is_empty());
        waits.push(cluster.wait("a"));
        cluster.now = cluster.store.due_at().unwrap();
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    cluster.now -= 30 * SECOND;
    assert!(cluster.store.requests_due(cluster.now).is_empty());
    cluster.store.retry();
    assert_eq!(cluster.catch_up(), [id("a")], "the controller is back");
    cluster.store.retry();
    assert!(!cluster.store.due(cluster.now) || cluster.store.changed().is_some());
    assert!(cluster.store.requests_due(cluster.now).is_empty());
}

#[test]
fn a_lost_answer_is_asked_for_again_and_comes_too_late() {
    let mut cluster = Cluster::new(&["a"]);
    let lost = cluster.store.requests_due(cluster.now).remove(0);
    let late = cluster.sign(&lost);
    cluster.now += 29 * SECOND;
    assert!(cluster.store.requests_due(cluster.now).is_empty());
    cluster.now += SECOND;
    let again = cluster.store.requests_due(cluster.now).remove(0);
    assert_ne!(again.csr, lost.csr);
    let error = cluster.store.take(&id("a"), late, cluster.now).unwrap_err();
    assert!(matches!(error, IdentityError::OtherKey { .. }), "{error}");
    // That did not spoil the request that is under way.
    let chain = cluster.sign(&again);
    cluster
        .store
        .take(&id("a"), chain.clone(), cluster.now)
        .unwrap();
    let error = cluster
        .store
        .take(&id("a"), chain, cluster.now)
        .unwrap_err();
    assert!(matches!(error, IdentityError::NotAwaited { .. }), "{error}");
}

#[test]
fn answers_for_what_is_no_longer_wanted_are_dropped() {
    let mut cluster = Cluster::new(&["a", "b"]);
    let due = cluster.store.requests_due(cluster.now);
    cluster.store.want([id("b")]);
    let chain = cluster.sign(&due[0]);
    let error = cluster
        .store
        .take(&id("a"), chain, cluster.now)
        .unwrap_err();
    assert!(matches!(error, IdentityError::NotAwaited { .. }));
    cluster.store.refused(&id("a"), "gone", cluster.now);
    assert_eq!(cluster.store.refusals().count(), 0);
    // Wanted again: with a key of its own, not the one that was dropped.
    cluster.store.want([id("a"), id("b")]);
    let again = cluster.store.requests_due(cluster.now);
    assert_eq!(again.len(), 1);
    assert_ne!(again[0].csr, due[0].csr);
}

#[test]
fn what_was_not_asked_for_is_not_taken() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.catch_up();
    let serial = cluster.serial("a");
    let strangers = authority();
    for wrong in 0..4 {
        cluster.now = cluster.store.due_at().unwrap();
        let due = cluster.store.requests_due(cluster.now).remove(0);
        let other = Due {
            identity: id("b"),
            csr: due.csr.clone(),
        };
        let chain = match wrong {
            0 => cluster.sign(&other),
            1 => strangers
                .sign_request(&due.csr, &due.identity, HOUR, cluster.now)
                .unwrap()
                .into_iter()
                .map(|certificate| certificate.to_vec())
                .collect(),
            2 => vec![b"garbage".to_vec()],
            _ => vec![],
        };
        let error = cluster
            .store
            .take(&id("a"), chain, cluster.now)
            .unwrap_err();
        assert!(
            matches!(
                (wrong, &error),
                (0, IdentityError::OtherIdentity { .. })
                    | (1, IdentityError::Certificate(SvidError::UnknownRoot { .. }))
                    | (2, IdentityError::Certificate(SvidError::Unreadable { .. }))
                    | (3, IdentityError::Certificate(SvidError::NoCertificate))
            ),
            "{wrong}: {error}"
        );
        assert_eq!(cluster.serial("a"), serial);
        assert_eq!(cluster.wait("a"), 1 << wrong, "a wait after a bad answer");
        assert_eq!(cluster.store.refusals().count(), 1);
    }
    cluster.now = cluster.store.due_at().unwrap();
    assert_eq!(cluster.catch_up(), [id("a")]);
    assert_ne!(cluster.serial("a"), serial);
}

#[test]
fn a_rotation_renews_everything_and_nobody_notices() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.catch_up();
    for round in 0..3 {
        for step in [Authority::stage, Authority::activate, Authority::finish] {
            let before = cluster.store.snapshot();
            step(&mut cluster.authority).unwrap();
            cluster.tell();
            cluster.now += 10 * SECOND;
            cluster.catch_up();
            let after = cluster.store.snapshot();
            for (client, server) in [(&before, &after), (&after, &before), (&after, &after)] {
                let dial = tls::client_config(&client.certificates[0], &client.bundle, &[id("b")]);
                let serve = tls::server_config(&server.certificates[1..], &server.bundle);
                let name = tls::server_name(&id("b"));
                let ended = handshake(dial.unwrap(), serve.unwrap(), name);
                assert!(ended.is_good(), "round {round}: {}", ended.errors());
            }
        }
        for certificate in cluster.store.snapshot().certificates {
            assert_eq!(certificate.issuer(), cluster.authority.signer().name());
        }
        assert_eq!(cluster.store.snapshot().bundle.roots().len(), 1);
    }
}

#[test]
fn when_another_root_signs_not_all_come_at_once() {
    let mut cluster = Cluster::new(&[]);
    let names: Vec<_> = (0..100).map(|n| format!("w{n}")).collect();
    cluster.store.want(names.iter().map(|name| id(name)));
    cluster.catch_up();
    cluster.authority.stage().unwrap();
    cluster.tell();
    assert!(cluster.catch_up().is_empty(), "staging renews nothing");
    cluster.authority.activate().unwrap();
    cluster.tell();
    let begin = cluster.now;
    let mut per_second = Vec::new();
    for second in 0..=10 {
        cluster.now = begin + second * SECOND;
        // Said again, as after a reconnection: no reason to hurry.
        cluster.tell();
        per_second.push(cluster.catch_up().len());
    }
    assert_eq!(per_second.iter().sum::<usize>(), 100, "{per_second:?}");
    assert!(per_second.iter().all(|n| *n < 30), "{per_second:?}");
}

#[test]
fn when_a_root_is_gone_its_certificates_are_asked_for_at_once() {
    for says_who_signs in [true, false] {
        let mut cluster = Cluster::new(&["a", "b"]);
        cluster.catch_up();
        // The Secret was replaced: another root from one moment to the next.
        cluster.authority = authority();
        let signer = cluster.authority.signer().name().to_owned();
        let signer = says_who_signs.then_some(signer.as_str());
        cluster
            .store
            .trust(cluster.authority.bundle(), signer, cluster.now);
        assert!(cluster.store.changed().is_some(), "other roots are trusted");
        assert_eq!(cluster.catch_up(), [id("a"), id("b")], "{says_who_signs}");
        for certificate in cluster.store.snapshot().certificates {
            svid::verify(
                &cluster.authority.bundle(),
                certificate.chain(),
                UnixTime::now(),
            )
            .unwrap();
        }
        assert!(cluster.catch_up().is_empty());
    }
}

#[test]
fn a_replica_that_signs_with_the_old_root_is_not_asked_in_a_loop() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.catch_up();
    cluster.authority.stage().unwrap();
    cluster.tell();
    let behind = cluster.authority.clone();
    cluster.authority.activate().unwrap();
    cluster.tell();
    let ahead = std::mem::replace(&mut cluster.authority, behind);
    cluster.now += 10 * SECOND;
    let mut asked = 0;
    for _ in 0..60 {
        asked += cluster.catch_up().len();
        cluster.now += SECOND;
    }
    assert_eq!(asked, 6, "after 1, 2, 4, 8, 16 s");
    let refusals: Vec<_> = cluster.store.refusals().map(|(_, why)| why).collect();
    assert!(refusals[0].contains("not the root that signs now"));
    cluster.authority = ahead;
    cluster.now += 60 * SECOND;
    assert_eq!(cluster.catch_up(), [id("a")]);
    assert_eq!(cluster.store.refusals().count(), 0);
    assert!(cluster.wait("a") > 1000);
}

#[test]
fn clocks_that_are_set_do_not_stop_renewals() {
    // Back, while an answer is awaited, and after a refusal.
    for refused in [false, true] {
        let mut cluster = Cluster::new(&["a"]);
        cluster.store.requests_due(cluster.now);
        if refused {
            cluster.store.refused(&id("a"), "no", cluster.now);
        }
        cluster.now -= 24 * HOUR;
        assert_eq!(cluster.store.requests_due(cluster.now).len(), 1);
    }
    // Forward, beyond what a certificate is good for.
    let mut cluster = Cluster::new(&["a"]);
    cluster.catch_up();
    cluster.now += 24 * HOUR;
    assert_eq!(cluster.catch_up(), [id("a")]);
    // And back again: it is not valid yet.
    cluster.now -= 24 * HOUR;
    assert_eq!(cluster.catch_up(), [id("a")]);
    assert!(cluster.catch_up().is_empty());
}

#[test]
fn whoever_is_told_who_signs_follows_that() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.catch_up();
    cluster.authority.stage().unwrap();
    let (bundle, old) = (
        cluster.authority.bundle(),
        cluster.authority.signer().clone(),
    );
    let next = bundle.roots()[1].clone();
    assert_eq!(bundle.roots(), [old.clone(), next.clone()]);
    cluster
        .store
        .trust(bundle.clone(), Some(old.name()), cluster.now);
    assert!(cluster.catch_up().is_empty());
    assert!(cluster.store.changed().is_some(), "another root is trusted");
    cluster.store.trust(bundle, Some(next.name()), cluster.now);
    assert!(
        cluster.store.changed().is_none(),
        "the same roots are trusted"
    );
    cluster.authority.activate().unwrap();
    assert_eq!(cluster.authority.bundle().roots(), [next, old]);
    cluster.now += 10 * SECOND;
    assert_eq!(cluster.catch_up(), [id("a")]);
    // In the other order, these are the same roots.
    cluster.store.changed().unwrap();
    cluster.tell();
    assert!(cluster.store.changed().is_none());
    assert!(cluster.catch_up().is_empty());
}

#[test]
fn a_refusal_of_what_was_answered_changes_nothing() {
    let mut cluster = Cluster::new(&["a"]);
    let due = cluster.store.requests_due(cluster.now).remove(0);
    let error = cluster
        .store
        .take(&id("a"), [b"garbage".to_vec()], cluster.now)
        .unwrap_err();
    // Whoever asked tells both.
    cluster
        .store
        .refused(&id("a"), error.to_string(), cluster.now);
    assert_eq!(cluster.wait("a"), 1);
    cluster.now += SECOND;
    let again = cluster.store.requests_due(cluster.now).remove(0);
    assert_ne!(again.csr, due.csr);
    let chain = cluster.sign(&again);
    cluster.store.take(&id("a"), chain, cluster.now).unwrap();
    let serial = cluster.serial("a");
    cluster.store.refused(&id("a"), "too late", cluster.now);
    assert!(cluster.store.requests_due(cluster.now).is_empty());
    assert_eq!(cluster.store.refusals().count(), 0);
    assert_eq!(cluster.serial("a"), serial);
}

#[test]
fn batches_are_bounded() {
    let mut cluster = Cluster::new(&[]);
    let names: Vec<_> = (0..MOST_AT_ONCE + 50).map(|n| format!("w{n}")).collect();
    cluster.store.want(names.iter().map(|name| id(name)));
    assert_eq!(cluster.catch_up().len(), MOST_AT_ONCE);
    assert_eq!(cluster.catch_up().len(), 50);
    assert!(cluster.store.is_complete(cluster.now));
}

#[test]
fn a_shorter_lifetime_renews_at_once() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.catch_up();
    cluster.store.set_lifetime(2 * HOUR);
    assert!(cluster.catch_up().is_empty());
    cluster.store.set_lifetime(HOUR);
    assert_eq!(cluster.catch_up(), [id("a")]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    /// Whatever happens, as long as the controller answers now and then: there is always a certificate that is good.
    #[test]
    fn there_is_always_a_good_certificate(events in proptest::collection::vec(0_u8..7, 50..200)) {
        let mut cluster = Cluster::new(&["a", "b"]);
        cluster.catch_up();
        let mut lately = cluster.now;
        for event in events {
            let minutes = |n: u32| 60 * SECOND * n;
            cluster.now += minutes(1);
            match event {
                // The controller is away.
                0 => for due in cluster.store.requests_due(cluster.now) {
                    cluster.store.refused(&due.identity, "away", cluster.now);
                },
                // Answers are lost.
                1 => drop(cluster.store.requests_due(cluster.now)),
                2 => cluster.store.retry(),
                3 => {
                    let step = match cluster.authority.phase() {
                        mesh_identity::authority::Phase::Stable => Authority::stage,
                        mesh_identity::authority::Phase::Staged => Authority::activate,
                        // Only when all have been renewed.
                        mesh_identity::authority::Phase::Activated => {
                            cluster.tell();
                            cluster.now += minutes(1);
                            cluster.catch_up();
                            cluster.now += minutes(1);
                            cluster.catch_up();
                            Authority::finish
                        }
                    };
                    step(&mut cluster.authority).unwrap();
                    cluster.tell();
                }
                _ => {}
            }
            if event > 3 || cluster.now.duration_since(lately).unwrap() > minutes(20) {
                cluster.catch_up();
                cluster.now += minutes(1);
                cluster.catch_up();
                lately = cluster.now;
            }
            prop_assert!(cluster.store.is_complete(cluster.now));
            let (bundle, now) = (cluster.authority.bundle(), cluster.now);
            for certificate in cluster.store.snapshot().certificates {
                let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                let moment = UnixTime::since_unix_epoch(since);
                let verified = svid::verify(&bundle, certificate.chain(), moment);
                prop_assert!(verified.is_ok(), "{:?}", verified);
            }
        }
    }
}

#[test]
fn a_nodes_own_certificate_follows_the_same_rules() {
    let mut authority = authority();
    let mut now = SystemTime::now();
    let mut store = NodeStore::new(node("n1"), authority.bundle());
    assert!(store.certificate(now).is_none());
    let enrol = |store: &mut NodeStore, authority: &Authority, now: SystemTime| {
        let Some(csr) = store.request_due(now) else {
            return false;
        };
        let chain = authority
            .sign_node_request(&csr, &node("n1"), HOUR, now)
            .unwrap();
        let chain = chain.into_iter().map(|certificate| certificate.to_vec());
        store.take(chain, now).unwrap();
        true
    };
    store.request_due(now).unwrap();
    store.refused("the token is not accepted", now);
    assert_eq!(store.refusal(), Some("the token is not accepted"));
    assert!(!enrol(&mut store, &authority, now), "not at once");
    store.retry();
    assert!(enrol(&mut store, &authority, now));
    assert_eq!(store.refusal(), None);
    assert_eq!(store.certificate(now).unwrap().identity(), &node("n1"));
    assert!(!enrol(&mut store, &authority, now));
    now = store.due_at().unwrap();
    assert!(enrol(&mut store, &authority, now), "renewed at half life");
    assert!(
        store.certificate(now + HOUR + 2 * SECOND).is_none(),
        "an expired certificate would be refused; without one a node may ask"
    );

    // Another root signs.
    authority.stage().unwrap();
    let signer = authority.signer().name().to_owned();
    store.trust(authority.bundle(), Some(&signer), now);
    assert!(!enrol(&mut store, &authority, now));
    authority.activate().unwrap();
    let signer = authority.signer().name().to_owned();
    store.trust(authority.bundle(), Some(&signer), now);
    assert!(enrol(&mut store, &authority, now));
    // Another root altogether: what is there is of no use to anybody.
    let other = support::authority();
    store.trust(other.bundle(), None, now);
    assert!(store.certificate(now).is_none());
    assert!(enrol(&mut store, &other, now));
    assert!(store.certificate(now).is_some());
    // The chain of a workload is not a node's.
    now = store.due_at().unwrap();
    let csr = store.request_due(now).unwrap();
    let chain = other.sign_request(&csr, &id("a"), HOUR, now).unwrap();
    let chain = chain.into_iter().map(|certificate| certificate.to_vec());
    let error = store.take(chain, now).unwrap_err();
    assert!(
        matches!(error, IdentityError::Certificate(SvidError::Node(_))),
        "{error}"
    );
}

#[test]
fn the_controllers_certificate_follows_the_same_rules() {
    let mut authority = authority();
    let mut now = SystemTime::now();
    let names = vec![CONTROLLER_NAME.to_owned()];
    let mut serving = Serving::new(id("controller"), names, HOUR);
    assert!(serving.certificate().is_none());
    assert!(serving.refresh(now, &authority).unwrap());
    assert!(!serving.refresh(now, &authority).unwrap());
    let serial = serving.certificate().unwrap().serial().to_owned();
    now += HOUR / 10 * 6;
    assert!(serving.refresh(now, &authority).unwrap(), "half life");
    assert_ne!(serving.certificate().unwrap().serial(), serial);
    authority.stage().unwrap();
    assert!(!serving.refresh(now, &authority).unwrap());
    authority.activate().unwrap();
    assert!(serving.refresh(now, &authority).unwrap(), "another root");
    let certificate = serving.certificate().unwrap().clone();
    assert_eq!(certificate.issuer(), authority.signer().name());

    let after = authority.signer().not_after();
    serving.refresh(after, &authority).unwrap_err();
    assert!(!serving.refresh(after, &authority).unwrap(), "not at once");
    assert_eq!(serving.certificate(), Some(&certificate));
}
