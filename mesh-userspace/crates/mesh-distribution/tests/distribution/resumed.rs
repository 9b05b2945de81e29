//! Connections break, controllers are replaced: only the difference is told again.

use std::time::{Duration, Instant};

use mesh_control::facts::{Fact, FactKey, FactKind};
use mesh_core::workload::Name;
use mesh_distribution::hub::Hub;

use crate::support::wire::Wire;
use crate::support::*;

fn pods(count: usize) -> Vec<Fact> {
    (0..count)
        .map(|number| workload("shop", &format!("pod-{number}"), "n1"))
        .collect()
}

fn pod(number: usize) -> FactKey {
    FactKey::named(
        FactKind::Workload,
        &Name::new("shop", format!("pod-{number}")),
    )
}

#[tokio::test]
async fn a_node_whose_connection_breaks_is_told_only_the_difference() {
    let pki = Pki::new();
    let hub = hub(pods(2000));
    let controller = Controller::start(&pki, hub.clone()).await;
    let wire = Wire::to(controller.address).await;
    let n1 = node(&pki, "n1", wire.address, NodeOptions::default());
    known(&n1, "everything is told", is_current).await;
    controller.wait_until_told().await;
    let (first, counts) = (wire.bytes(), hub.counts());
    assert_eq!(counts.told, 2001);

    wire.cut();
    known(&n1, "the connection is broken", is_broken).await;
    controller.wait_for_nodes(0).await;
    hub.publish(set([labelled("shop", "pod-7", "n1", "2")]));
    hub.publish(remove([pod(8)]));
    let kept = n1.known().borrow().clone();
    assert_eq!(kept.facts.len(), 2001, "what is known stays");
    wire.mend();
    let again = known(&n1, "it goes on", |known| {
        is_current(known) && known.facts.get(&pod(8)).is_none()
    })
    .await;
    controller.wait_until_told().await;
    assert!(holds_its_view(&again, &hub, "n1"));
    let counts_after = hub.counts();
    assert_eq!(counts_after.told - counts.told, 1);
    assert_eq!(counts_after.untold - counts.untold, 1);
    let (to, from) = wire.bytes();
    let (to, from) = (to - first.0, from - first.1);
    assert!(first.0 > 300_000, "the whole took {} bytes", first.0);
    assert!(to < 10_000, "the difference took {to} bytes");
    assert!(from < 150_000, "the hashes took {from} bytes");
}

#[tokio::test]
async fn another_controller_with_the_same_facts_tells_only_the_difference() {
    let pki = Pki::new();
    let one = Controller::start(&pki, hub(pods(500))).await;
    // The same facts in another order, and with a past: its generations are others.
    let other = hub([]);
    for fact in pods(500).into_iter().rev() {
        other.publish(set([fact]));
    }
    other.publish(set([workload("shop", "pod-500", "n1")]));
    let other = Controller::start(&pki, other).await;
    assert_ne!(one.hub.counts().generation, other.hub.counts().generation);

    let wire = Wire::to(one.address).await;
    let n1 = node(&pki, "n1", wire.address, NodeOptions::default());
    known(&n1, "everything is told", is_current).await;
    wire.lead_to(other.address);
    wire.cut();
    wire.mend();
    known(&n1, "the other one tells the rest", |known| {
        known.facts.get(&pod(500)).is_some()
    })
    .await;
    other.wait_until_told().await;
    assert_eq!(other.hub.counts().told, 1);
    let view = other.hub.nodes().remove(0);
    assert_eq!(view.held, other.hub.counts().generation);
}

#[tokio::test]
async fn a_controller_that_stops_sends_its_nodes_to_another_at_once() {
    let pki = Pki::new();
    let one = Controller::start(&pki, hub(pods(10))).await;
    let other = Controller::start(&pki, hub(pods(10))).await;
    let wire = Wire::to(one.address).await;
    let n1 = node(&pki, "n1", wire.address, NodeOptions::default());
    known(&n1, "everything is told", is_current).await;
    wire.lead_to(other.address);
    let began = Instant::now();
    one.stop().await;
    other.wait_for_nodes(1).await;
    other.wait_until_told().await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(other.hub.counts().told, 0, "it knew everything");
}

#[tokio::test]
async fn a_controller_that_has_not_read_the_cluster_makes_nobody_forget() {
    let pki = Pki::new();
    let one = Controller::start(&pki, hub(pods(10))).await;
    let empty = Controller::start(&pki, Hub::new()).await;
    let wire = Wire::to(one.address).await;
    let n1 = node(&pki, "n1", wire.address, NodeOptions::default());
    known(&n1, "everything is told", is_current).await;
    wire.lead_to(empty.address);
    wire.cut();
    wire.mend();
    let kept = known(&n1, "the empty one says that it is not ready", |known| {
        format!("{:?}", known.link).contains("has not read the whole cluster")
    })
    .await;
    assert_eq!(kept.facts.len(), 11);
}

#[tokio::test]
async fn a_peer_that_dies_silently_is_noticed_on_both_sides() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub(pods(1))).await;
    let wire = Wire::to(controller.address).await;
    let n1 = node(&pki, "n1", wire.address, NodeOptions::default());
    known(&n1, "everything is told", is_current).await;
    let began = Instant::now();
    wire.swallow();
    known(&n1, "the node notices", is_broken).await;
    controller.wait_for_nodes(0).await;
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_connection_is_replaced_without_anything_being_lost() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub(pods(10))).await;
    let n1 = node(&pki, "n1", controller.address, NodeOptions::default());
    known(&n1, "everything is told", is_current).await;
    controller.wait_until_told().await;
    let before = controller.hub.counts();
    for number in 1..4 {
        n1.reconnect();
        eventually("there is another connection", || {
            controller.tally.counts().connections == 1 + number
        })
        .await;
        let known = known(&n1, "everything is known", is_current).await;
        assert_eq!(known.facts.len(), 11);
    }
    controller.wait_for_nodes(1).await;
    controller.wait_until_told().await;
    assert_eq!(controller.hub.counts().told, before.told);
}
