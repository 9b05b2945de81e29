//! TLS among the replicas of the controller: who is taken for one.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod support;

use std::time::{Duration, SystemTime};

use mesh_identity::authority::Authority;
use mesh_identity::failure::explain;
use mesh_identity::tls::{self, Caller};
use mesh_identity::{Certificate, SvidError, TrustBundle};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair};
use rustls_pki_types::ServerName;
use support::{
    CONTROLLER_NAME, Ended, Made, Maker, authority, domain, handshake, id, node, node_certificate,
    server_certificate,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn name() -> ServerName<'static> {
    CONTROLLER_NAME.try_into().unwrap()
}

fn workload(authority: &Authority, account: &str) -> Certificate {
    authority.issue(&id(account), HOUR).unwrap()
}

/// Somebody with `own` dials the controller as a replica would.
fn dial(authority: &Authority, own: &Certificate) -> Ended {
    let bundle = authority.bundle();
    let served = server_certificate(authority, "controller");
    handshake(
        tls::replica_client(own, &bundle).unwrap(),
        tls::controller_server(&served, &bundle).unwrap(),
        name(),
    )
}

#[test]
fn replicas_know_each_other_by_their_common_identity() {
    let authority = authority();
    let ended = dial(&authority, &workload(&authority, "controller"));
    assert!(ended.is_good_over(tls::ALPN_H2), "{}", ended.errors());
    let presented =
        tls::presented(ended.server.peer_certificates().unwrap(), &id("controller")).unwrap();
    assert_eq!(presented.caller, Caller::Replica);
    let left = presented.until.duration_since(SystemTime::now()).unwrap();
    assert!(left <= HOUR && left > HOUR / 2, "{left:?}");
}

#[test]
fn what_is_presented_must_be_a_nodes_or_the_controllers_own() {
    let (maker, other) = (Maker::root(), Maker::root());
    let authority = authority();
    let roots = [authority.bundle().to_der(), maker.bundle().to_der()].concat();
    let bundle = TrustBundle::from_der(&domain(), roots).unwrap();
    let served = server_certificate(&authority, "controller");
    // Somebody who would take any server.
    let refusal = |made: &Made| {
        let config = tls::controller_server(&served, &bundle).unwrap();
        let ended = handshake(made.client_over(b"h2"), config, name());
        ended
            .server_error
            .map(|error| explain(&error).detail)
            .unwrap_or_default()
    };
    assert_eq!(refusal(&maker.leaf(&id("controller"), |_| ())), "");
    let said = refusal(&maker.leaf(&id("web"), |_| ()));
    assert!(
        said.contains("/sa/web") && said.contains("/sa/controller"),
        "{said}"
    );
    let said = refusal(&other.leaf(&id("controller"), |_| ()));
    assert!(said.contains("none of the 2 trusted roots"), "{said}");
    // A serving certificate, as agents see it, is not one to dial with.
    let said = refusal(&maker.leaf(&id("controller"), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }));
    assert!(said.contains("extended key usage"), "{said}");
    let stolen = Made::new(
        maker.leaf(&id("controller"), |_| ()).chain,
        KeyPair::generate().unwrap(),
    );
    assert!(!refusal(&stolen).is_empty());
    assert!(matches!(
        tls::presented(&maker.leaf(&id("web"), |_| ()).chain, &id("controller")),
        Err(SvidError::Unexpected { .. })
    ));
}

#[test]
fn nodes_are_known_as_ever() {
    let authority = authority();
    let bundle = authority.bundle();
    let served = server_certificate(&authority, "controller");
    let own = node_certificate(&authority, "n1");
    for own in [None, Some(&own)] {
        let ended = handshake(
            tls::distribution_client(own, &bundle, &id("controller")).unwrap(),
            tls::controller_server(&served, &bundle).unwrap(),
            name(),
        );
        assert!(ended.is_good_over(tls::ALPN_H2), "{}", ended.errors());
        let presented = ended
            .server
            .peer_certificates()
            .map(|chain| tls::presented(chain, &id("controller")).unwrap().caller);
        assert_eq!(presented, own.map(|_| Caller::Node(node("n1"))));
    }
}

#[test]
fn another_meshs_replica_is_none() {
    let (ours, theirs) = (authority(), authority());
    let ended = handshake(
        tls::replica_client(&workload(&theirs, "controller"), &theirs.bundle()).unwrap(),
        tls::controller_server(&server_certificate(&ours, "controller"), &ours.bundle()).unwrap(),
        name(),
    );
    assert!(!ended.is_good_over(tls::ALPN_H2));
}
