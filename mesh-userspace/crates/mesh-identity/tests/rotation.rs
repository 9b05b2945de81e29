//! Renewing certificates and replacing the root, with handshakes between nodes that have seen it and nodes that have not.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::path::Path;
use std::time::{Duration, SystemTime};

use mesh_identity::authority::{Authority, AuthorityError, Phase, Reloaded, Role, Step};
use mesh_identity::store::{Snapshot, Store};
use mesh_identity::tls;
use support::{domain, handshake, id};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An agent: its view of the shared directory, and its certificates.
struct Node {
    authority: Authority,
    store: Store,
}

impl Node {
    fn new(directory: &Path, name: &str) -> Self {
        let authority = Authority::open_or_create(directory, &domain()).unwrap();
        let mut store = Store::new(&authority, DAY);
        store.want([id(name)]);
        let mut node = Self { authority, store };
        node.catch_up();
        node
    }

    fn catch_up(&mut self) {
        self.authority.reload().unwrap();
        let changed = self.store.refresh(SystemTime::now(), &self.authority);
        assert!(changed.failed.is_empty(), "{changed:?}");
    }

    fn snapshot(&self) -> Snapshot {
        self.store.snapshot()
    }
}

/// Each dials the other.
fn assert_they_talk(what: &str, one: &Snapshot, other: &Snapshot) {
    for (client, server) in [(one, other), (other, one)] {
        let expected = server.certificates[0].identity().clone();
        let name = tls::server_name(&expected);
        let dial = tls::client_config(&client.certificates[0], &client.bundle, &[expected]);
        let serve = tls::server_config(&server.certificates, &server.bundle);
        let ended = handshake(dial.unwrap(), serve.unwrap(), name);
        assert!(
            ended.is_good(),
            "{what}: {:?} {:?}",
            ended.client_error,
            ended.server_error
        );
    }
}

#[test]
fn a_rotation_is_noticed_by_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let mut node_a = Node::new(directory.path(), "a");
    let mut node_b = Node::new(directory.path(), "b");
    let mut operator = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let mut roots = std::collections::BTreeSet::new();
    for round in 0..10 {
        for step in [Authority::stage, Authority::activate, Authority::finish] {
            let before = node_b.snapshot();
            assert_eq!(step(&mut operator).unwrap(), Step::Taken);
            node_a.catch_up();
            let what = format!("round {round}, {:?}", operator.phase());
            assert_they_talk(&what, &node_a.snapshot(), &before);
            node_b.catch_up();
            assert_they_talk(&what, &node_a.snapshot(), &node_b.snapshot());
        }
        assert_eq!(node_a.snapshot().bundle.roots().len(), 1);
        roots.insert(operator.signer().fingerprint().to_owned());
    }
    assert_eq!(roots.len(), 10);
}

#[test]
fn the_old_root_is_no_longer_trusted_when_a_rotation_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::new(directory.path(), "a");
    let old = Node::new(directory.path(), "b").snapshot();
    for step in [Authority::stage, Authority::activate, Authority::finish] {
        step(&mut node.authority).unwrap();
    }
    node.catch_up();
    let new = node.snapshot();
    let serve = tls::server_config(&new.certificates, &new.bundle).unwrap();
    let dial = tls::client_config(&old.certificates[0], &old.bundle, &[id("a")]).unwrap();
    let ended = handshake(dial, serve, tls::server_name(&id("a")));
    assert!(ended.client_error.is_some() && ended.received.is_empty());
}

#[test]
fn steps_are_idempotent_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let due = |result: Result<Step, AuthorityError>| match result.unwrap_err() {
        AuthorityError::NotDue { next, .. } => next,
        other => panic!("{other}"),
    };
    let old = authority.signer().clone();
    assert_eq!(authority.phase(), Phase::Stable);
    assert_eq!(due(authority.activate()), "stage");
    assert_eq!(authority.finish().unwrap(), Step::TakenBefore);

    assert_eq!(authority.stage().unwrap(), Step::Taken);
    let staged = authority.describe();
    assert_eq!(authority.stage().unwrap(), Step::TakenBefore);
    assert_eq!(authority.describe(), staged);
    let roles: Vec<_> = staged.roots.iter().map(|(_, role)| *role).collect();
    assert_eq!(
        (staged.phase, roles),
        (Phase::Staged, vec![Role::Signing, Role::Staged])
    );
    assert_eq!(authority.signer(), &old);
    assert_eq!(due(authority.finish()), "activate");

    assert_eq!(authority.activate().unwrap(), Step::Taken);
    assert_eq!(authority.activate().unwrap(), Step::TakenBefore);
    let roles: Vec<_> = authority
        .describe()
        .roots
        .iter()
        .map(|(_, role)| *role)
        .collect();
    assert_eq!(
        (authority.phase(), roles),
        (Phase::Activated, vec![Role::Signing, Role::Leaving])
    );
    assert_ne!(authority.signer(), &old);
    assert_eq!(due(authority.stage()), "finish");

    assert_eq!(authority.finish().unwrap(), Step::Taken);
    assert_eq!(authority.finish().unwrap(), Step::TakenBefore);
    assert_eq!(authority.phase(), Phase::Stable);
    assert_eq!(authority.describe().roots.len(), 1);
}

#[test]
fn others_see_each_step_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut operator = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let mut node = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let nothing = Reloaded::default();
    assert_eq!(node.reload().unwrap(), nothing);
    for (step, bundle, signer) in [
        (Authority::stage as fn(&mut Authority) -> _, true, false),
        (Authority::activate, false, true),
        (Authority::finish, true, false),
    ] {
        step(&mut operator).unwrap();
        assert_eq!(node.reload().unwrap(), Reloaded { bundle, signer });
        assert_eq!(node.reload().unwrap(), nothing);
        assert_eq!(node.bundle(), operator.bundle());
        assert_eq!(node.signer(), operator.signer());
    }
}

#[test]
fn short_lived_certificates_are_renewed_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let lifetime = Duration::from_secs(10);
    let mut store = Store::new(&authority, lifetime);
    store.want((0..20).map(|n| id(&format!("w{n}"))));
    let begin = SystemTime::now();
    let mut renewals = 0;
    for second in 0..600 {
        let now = begin + Duration::from_secs(second);
        if store.due(now) {
            renewals += store.refresh(now, &authority).issued.len();
        }
        let snapshot = store.snapshot();
        assert_eq!(snapshot.certificates.len(), 20);
        for certificate in &snapshot.certificates {
            let left = certificate.not_after().duration_since(now).unwrap();
            assert!(
                left >= Duration::from_secs(2),
                "{left:?} left at {second} s"
            );
            assert!(left <= lifetime);
        }
    }
    // Every 5 s on average, looked at every second.
    assert!((20 * 90..20 * 150).contains(&renewals), "{renewals}");
}

#[test]
fn renewals_are_spread() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let mut store = Store::new(&authority, DAY);
    let identities: Vec<_> = (0..40).map(|n| id(&format!("w{n}"))).collect();
    store.want(identities.iter().cloned());
    let now = SystemTime::now();
    store.refresh(now, &authority);
    let times: std::collections::BTreeSet<_> = identities
        .iter()
        .map(|id| store.renews_at(id).unwrap().duration_since(now).unwrap())
        .collect();
    let (first, last) = (*times.first().unwrap(), *times.last().unwrap());
    assert!(
        first >= DAY / 10 * 4 - Duration::from_secs(1) && last <= DAY / 10 * 6,
        "{first:?} {last:?}"
    );
    assert!(last - first > DAY / 20 && times.len() == 40);
    assert_eq!(store.due_at(), Some(now + first));
}

#[test]
fn the_store_follows_what_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let mut store = Store::new(&authority, DAY);
    let now = SystemTime::now();
    assert_eq!(store.due_at(), None);
    store.want([id("a"), id("b"), id("a")]);
    let changed = store.refresh(now, &authority);
    assert!(changed.any && changed.issued == [id("a"), id("b")]);
    let (first, serial) = (
        store.snapshot(),
        store.certificate(&id("a")).unwrap().serial().to_owned(),
    );
    assert!(!store.due(now));
    assert!(!store.refresh(now, &authority).any);
    assert_eq!(store.snapshot().generation, first.generation);

    store.want([id("a"), id("c")]);
    assert!(store.certificate(&id("b")).is_none());
    assert!(store.due(now));
    let changed = store.refresh(now, &authority);
    assert_eq!(changed.issued, [id("c")]);
    assert!(store.snapshot().generation > first.generation);
    assert_eq!(store.certificate(&id("a")).unwrap().serial(), serial);

    store.want([id("a")]);
    assert!(store.due(now) && store.refresh(now, &authority).any);
    assert_eq!(store.snapshot().certificates.len(), 1);
}

#[test]
fn a_clock_that_was_set_leads_to_new_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let mut store = Store::new(&authority, Duration::from_secs(60));
    store.want([id("a")]);
    let now = SystemTime::now();
    let later = now + DAY;
    store.refresh(later, &authority);
    assert!(store.due(now), "issued tomorrow, not valid today");
    store.refresh(now, &authority);
    assert!(!store.due(now));
    assert!(store.due(now + DAY), "expired");
}

#[test]
fn failures_are_retried_ever_later_and_keep_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), &domain()).unwrap();
    let mut store = Store::new(&authority, DAY);
    store.want([id("a")]);
    let mut now = SystemTime::now();
    store.refresh(now, &authority);
    let serial = store.certificate(&id("a")).unwrap().serial().to_owned();
    // No certificate can live this short: every issue fails.
    store.set_lifetime(Duration::from_millis(1));
    let mut waits = Vec::new();
    for _ in 0..9 {
        assert!(store.due(now));
        let changed = store.refresh(now, &authority);
        assert!(!changed.any && changed.failed.len() == 1);
        assert!(changed.failed[0].1.to_string().contains("too short"));
        assert!(!store.due(now), "retried at once");
        assert!(store.refresh(now, &authority).failed.is_empty());
        let due = store.due_at().unwrap();
        waits.push(due.duration_since(now).unwrap().as_secs());
        now = due;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(store.certificate(&id("a")).unwrap().serial(), serial);
    store.set_lifetime(DAY);
    assert_eq!(store.refresh(now, &authority).issued, [id("a")]);
}
