//! A store whose certificates somebody else signs, through simulated days: renewals, refusals, lost answers, clocks that are
//! set.

mod support;

use std::collections::BTreeSet;

use mesh_identity::store::{Due, MOST_AT_ONCE};
use mesh_identity::{IdentityError, SvidError, tls};
use support::cluster::{Cluster, HOUR, SECOND};
use support::{authority, handshake, id};

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
