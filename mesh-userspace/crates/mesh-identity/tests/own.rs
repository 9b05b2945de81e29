//! The certificates of the control plane itself: a node's own, and the controller's.

mod support;

use std::time::SystemTime;

use mesh_identity::authority::Authority;
use mesh_identity::store::{NodeStore, Serving};
use mesh_identity::{IdentityError, SvidError};
use support::cluster::{HOUR, SECOND};
use support::{CONTROLLER_NAME, authority, id, node};

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
