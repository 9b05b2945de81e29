//! Other roots, seen by a store whose certificates somebody else signs: rotations, replicas that are behind, a root that is
//! gone from one moment to the next.

mod support;

use std::time::SystemTime;

use mesh_identity::authority::{Authority, Phase};
use mesh_identity::{svid, tls};
use proptest::prelude::*;
use rustls_pki_types::UnixTime;
use support::cluster::{Cluster, SECOND};
use support::{authority, handshake, id};

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
                        Phase::Stable => Authority::stage,
                        Phase::Staged => Authority::activate,
                        // Only when all have been renewed.
                        Phase::Activated => {
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
