//! Certificates and pods: what the gatekeeper says reaches the node, and only those whom it concerns may ask.

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_distribution::gatekeeper::{Enrolment, Found, Pod, Refusal};
use mesh_distribution::node::{CallError, Connect, Signing, enrol};
use mesh_distribution::question::Question;
use mesh_distribution::relay::Fleet;
use mesh_distribution::server::Peer;
use std::sync::Arc;

use crate::support::wire::Wire;
use crate::support::*;

fn enrolment(token: &str) -> Enrolment {
    Enrolment {
        token: token.to_owned(),
        request: b"request".to_vec(),
        node: "n1".to_owned(),
        version: "1.0.0".to_owned(),
    }
}

fn signing(namespace: &str) -> Signing {
    let identity = SpiffeId::new(TrustDomain::default(), namespace, "default");
    Signing {
        identity: identity.expect("an identity"),
        request: namespace.as_bytes().to_vec(),
    }
}

#[tokio::test]
async fn a_node_enrols_without_a_certificate() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    let connect = connect(controller.address, pki.client(Peer::Anonymous));
    let enrolled = enrol(&connect, enrolment("good"))
        .await
        .expect("a certificate");
    assert_eq!(enrolled.chain, [b"request".to_vec(), b"n1".to_vec()]);
    assert_eq!(enrolled.roots, "roots");
    assert_eq!(enrolled.lifetime.as_secs(), 3600);

    let refused = enrol(&connect, enrolment("bad"))
        .await
        .expect_err("refused");
    let denied = Refusal::denied("the token is not good");
    assert_eq!(refused, CallError::Refused(denied));
    assert!(!refused.may_pass());
    let later = enrol(&connect, enrolment("later"))
        .await
        .expect_err("refused");
    assert!(later.may_pass(), "{later}");
    let huge = enrol(&connect, enrolment(&"x".repeat(64 << 10))).await;
    huge.expect_err("no token is that large");
    let counts = controller.tally.counts();
    assert_eq!((counts.enrolled, counts.enrolments_refused), (1, 2));
}

#[tokio::test]
async fn each_certificate_is_granted_or_refused_by_itself() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    let n1 = node(&pki, "n1", controller.address, NodeOptions::default());
    known(&n1, "it is connected", is_current).await;
    let signed = n1.sign(vec![signing("n1"), signing("bank")]).await;
    let [own, other] = &signed.expect("answers")[..] else {
        panic!("two were asked for");
    };
    let chain = own.as_ref().expect("its own");
    assert_eq!(chain[0], b"n1");
    let refusal = other.as_ref().expect_err("not its own");
    assert!(refusal.why.contains("does not run on n1"), "{refusal}");
    let counts = controller.tally.counts();
    assert_eq!((counts.signed, counts.signings_refused), (1, 1));
    let many = n1
        .sign(vec![signing("n1"); 200])
        .await
        .expect_err("too many");
    assert!(!many.may_pass(), "{many}");
}

#[tokio::test]
async fn a_pod_is_found_or_not() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    let wire = Wire::to(controller.address).await;
    let n1 = node(&pki, "n1", wire.address, NodeOptions::default());
    known(&n1, "it is connected", is_current).await;
    let find = |name: &str| {
        n1.find_pod(Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: String::new(),
        })
    };
    let Found::Meshed(spec) = find("meshed").await.expect("an answer") else {
        panic!("it is of the mesh");
    };
    assert_eq!(spec.name.to_string(), "meshed.shop");
    assert_eq!(spec.node.as_deref(), Some("n1"));
    let host = find("host").await.expect("an answer");
    assert!(matches!(host, Found::NotMeshed(_)), "{host:?}");
    assert_eq!(find("nobody").await.expect("an answer"), Found::Unknown);
    let broken = find("broken").await.expect_err("no answer");
    assert!(broken.may_pass(), "{broken}");

    wire.cut();
    known(&n1, "the connection is broken", is_broken).await;
    let away = find("meshed").await.expect_err("nobody answers");
    assert!(matches!(away, CallError::NotConnected { .. }), "{away}");
}

#[tokio::test]
async fn nobody_does_what_is_not_for_him() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    // Without a certificate: nothing but enrolment.
    let options = || NodeOptions::default();
    let anonymous =
        mesh_distribution::node::Subscription::start(mesh_distribution::node::Options {
            node: "n1".to_owned(),
            version: "1.0.0".to_owned(),
            connect: Arc::new(connect(controller.address, pki.client(Peer::Anonymous))),
            cache: None,
            answers: options().answers,
        });
    let refused = known(&anonymous, "it is refused", is_broken).await;
    let link = format!("{:?}", refused.link);
    assert!(link.contains("needs the certificate of a node"), "{link}");
    // A replica of the controller is no node, and a node is no replica.
    let fleet = Fleet::new(hub([]));
    let as_node: Arc<dyn Connect> = Arc::new(connect(
        controller.address,
        pki.client(Peer::Node("n1".into())),
    ));
    fleet.set_replicas(vec![("other".to_owned(), as_node)]);
    let (_, problems) = fleet.nodes().await;
    assert!(problems[0].contains("not for node n1"), "{problems:?}");
    let refused = fleet.ask("n1", Question::get("/")).await;
    refused.expect_err("a node asks nobody");
    assert!(controller.tally.counts().calls_refused >= 3);
    // A certificate of the right authority that names nobody.
    let stranger = connect(controller.address, pki.stranger());
    enrol(&stranger, enrolment("good"))
        .await
        .expect_err("nobody");
    assert_eq!(controller.hub.counts().nodes, 0);
    assert_eq!(controller.tally.counts().enrolled, 0);
}
