//! Who is told what.

use mesh_control::facts::{Fact, FactKey, FactKind};
use mesh_control::objects::Objects;
use mesh_core::workload::Name;
use mesh_distribution::hub::NodeReport;

use crate::support::wire::Wire;
use crate::support::*;

fn key(namespace: &str, name: &str) -> FactKey {
    FactKey::named(FactKind::Workload, &Name::new(namespace, name))
}

#[tokio::test]
async fn a_change_reaches_the_nodes_that_need_it_and_no_other() {
    let pki = Pki::new();
    let hub = hub([
        namespace("shop", Some(&[])),
        namespace("bank", Some(&[])),
        workload("shop", "web", "n1"),
        workload("bank", "vault", "n2"),
    ]);
    let controller = Controller::start(&pki, hub.clone()).await;
    let wires = [
        Wire::to(controller.address).await,
        Wire::to(controller.address).await,
    ];
    let n1 = node(&pki, "n1", wires[0].address, NodeOptions::default());
    let n2 = node(&pki, "n2", wires[1].address, NodeOptions::default());
    let before = known(&n1, "n1 is told", is_current).await;
    let untouched = known(&n2, "n2 is told", is_current).await;
    assert!(before.facts.get(&key("shop", "web")).is_some());
    assert!(before.facts.get(&key("bank", "vault")).is_none());
    controller.wait_until_told().await;

    let (told, bytes) = (hub.counts().told, wires[1].bytes().0);
    hub.publish(set([workload("shop", "web-2", "n9")]));
    known(&n1, "n1 is told of the change", |known| {
        known.facts.get(&key("shop", "web-2")).is_some()
    })
    .await;
    controller.wait_until_told().await;
    assert_eq!(hub.counts().told - told, 1);
    assert_eq!(n2.known().borrow().revision, untouched.revision);
    let spent = wires[1].bytes().0 - bytes;
    assert!(
        spent < 200,
        "n2 got {spent} bytes, which is more than a ping"
    );
    assert!(holds_its_view(&n1.known().borrow(), &hub, "n1"));
    assert!(holds_its_view(&n2.known().borrow(), &hub, "n2"));
}

#[tokio::test]
async fn what_a_node_needs_changes_with_what_runs_on_it() {
    let pki = Pki::new();
    let hub = hub([
        namespace("shop", Some(&["bank"])),
        namespace("bank", Some(&[])),
        namespace("zoo", Some(&[])),
        workload("bank", "vault", "n2"),
        workload("zoo", "lion", "n3"),
    ]);
    let controller = Controller::start(&pki, hub.clone()).await;
    let n1 = node(&pki, "n1", controller.address, NodeOptions::default());
    let idle = known(&n1, "it is told", is_current).await;
    let kinds: Vec<FactKind> = idle.facts.iter().map(|fact| fact.key().kind).collect();
    assert_eq!(
        kinds,
        [
            FactKind::Mesh,
            FactKind::Namespace,
            FactKind::Namespace,
            FactKind::Namespace
        ]
    );
    hub.publish(set([workload("shop", "web", "n1")]));
    let busy = known(&n1, "a workload has come", |known| {
        known.facts.get(&key("shop", "web")).is_some()
    })
    .await;
    assert!(busy.facts.get(&key("bank", "vault")).is_some());
    assert!(busy.facts.get(&key("zoo", "lion")).is_none());
    let objects = Objects::from_facts(busy.facts.iter());
    assert_eq!(objects.local("n1").len(), 0, "nothing selects it here");
    assert_eq!(objects.workloads.len(), 2);

    hub.publish(remove([key("shop", "web")]));
    let idle = known(&n1, "it has gone", |known| {
        known.facts.get(&key("shop", "web")).is_none()
    })
    .await;
    assert!(idle.facts.get(&key("bank", "vault")).is_none());
    assert!(holds_its_view(&idle, &hub, "n1"));
}

#[tokio::test]
async fn a_slow_node_is_bounded_and_holds_up_nobody() {
    let pki = Pki::new();
    let pods: Vec<String> = (0..100).map(|number| format!("pod-{number}")).collect();
    let of = |version: &str| {
        let pods: Vec<Fact> = pods
            .iter()
            .map(|name| labelled("shop", name, "n1", version))
            .collect();
        set(pods)
    };
    let hub = hub([workload("shop", "also", "n2")]);
    hub.publish(of("0"));
    let controller = Controller::start(&pki, hub.clone()).await;
    let wire = Wire::to(controller.address).await;
    let slow = node(&pki, "n1", wire.address, NodeOptions::default());
    let quick = node(&pki, "n2", controller.address, NodeOptions::default());
    known(&slow, "the slow one is told", is_current).await;
    known(&quick, "the quick one is told", is_current).await;
    controller.wait_until_told().await;
    let told = hub.counts().told;

    wire.hold();
    // Some 90 MB, if anybody queued it.
    let padding = "v".repeat(3000);
    for round in 0..300 {
        hub.publish(of(&format!("{round}-{padding}")));
        if round % 30 == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    let last = format!("299-{padding}");
    let has_last = |fact: Option<&Fact>| match fact {
        Some(Fact::Workload(spec)) => spec.labels.values().any(|version| *version == last),
        _ => false,
    };
    known(&quick, "the quick one is up to date", |known| {
        has_last(known.facts.get(&key("shop", "pod-99")))
    })
    .await;
    eventually("only the slow one is behind", || hub.counts().behind == 1).await;
    wire.mend();
    known(&slow, "the slow one catches up", |known| {
        has_last(known.facts.get(&key("shop", "pod-99")))
    })
    .await;
    controller.wait_until_told().await;
    assert!(holds_its_view(&slow.known().borrow(), &hub, "n1"));
    // What was under way when the wire was held, what sockets and windows take, and everything once.
    let to_slow = wire.bytes().0;
    assert!(to_slow < 20 << 20, "{to_slow} bytes went to the slow node");
    let told = hub.counts().told - told;
    assert!(told < 40_000, "{told} facts were told, of 60,000");
}

#[tokio::test]
async fn the_controller_knows_how_its_nodes_are() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    let mut changes = controller.hub.nodes_changed();
    let n1 = node(&pki, "n1", controller.address, NodeOptions::default());
    let report = NodeReport {
        ready: true,
        message: "fine".to_owned(),
        enforcing: 3,
        ..NodeReport::default()
    };
    // Also before there is a connection.
    n1.report(report.clone());
    eventually("the report has come", || {
        let nodes = controller.hub.nodes();
        nodes
            .iter()
            .any(|node| node.report.as_ref() == Some(&report))
    })
    .await;
    controller.wait_until_told().await;
    let view = controller.hub.nodes().remove(0);
    assert_eq!((view.name.as_str(), view.version.as_str()), ("n1", "1.0.0"));
    assert!(view.current);
    assert_eq!(view.held, controller.hub.counts().generation);
    changes.changed().await.expect("it goes on");
    let worse = NodeReport::default();
    n1.report(worse.clone());
    eventually("the next report has come", || {
        controller.hub.nodes()[0].report.as_ref() == Some(&worse)
    })
    .await;
    // A node that talks too much is not listened to.
    n1.report(NodeReport {
        enforcing: 7,
        details: "x".repeat(100_000),
        ..NodeReport::default()
    });
    eventually("the last report has come", || {
        let report = controller.hub.nodes().remove(0).report;
        report.is_some_and(|report| report.enforcing == 7 && report.details.is_empty())
    })
    .await;
    n1.stop().await;
    controller.wait_for_nodes(0).await;
}

#[tokio::test]
async fn roots_reach_every_node() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    controller.hub.set_bundle("one");
    let n1 = node(&pki, "n1", controller.address, NodeOptions::default());
    let has = |bundle: &'static str| {
        move |known: &mesh_distribution::node::Known| known.bundle.as_deref() == Some(bundle)
    };
    known(&n1, "the first bundle", has("one")).await;
    controller.hub.set_bundle("two");
    known(&n1, "the second bundle", has("two")).await;
}
