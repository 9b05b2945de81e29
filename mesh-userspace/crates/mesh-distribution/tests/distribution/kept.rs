//! The last good world on disk.

use std::fs;
use std::path::Path;

use mesh_control::facts::Fact;

use crate::support::wire::Wire;
use crate::support::*;

fn keeping(directory: &Path) -> NodeOptions {
    NodeOptions {
        cache: Some(directory.join("world.json")),
        ..NodeOptions::default()
    }
}

fn pods() -> Vec<Fact> {
    (0..50)
        .map(|number| workload("shop", &format!("pod-{number}"), "n1"))
        .collect()
}

#[tokio::test]
async fn a_node_starts_from_its_last_good_world_when_the_controller_is_away() {
    let pki = Pki::new();
    let directory = tempfile::tempdir().expect("a directory");
    let controller = Controller::start(&pki, hub(pods())).await;
    controller.hub.set_bundle("roots");
    let wire = Wire::to(controller.address).await;
    let n1 = node(&pki, "n1", wire.address, keeping(directory.path()));
    known(&n1, "everything is told", |known| {
        is_current(known) && known.bundle.is_some()
    })
    .await;
    // A change shortly before the end is kept, too.
    controller
        .hub
        .publish(set([workload("shop", "late", "n1")]));
    known(&n1, "the late one", |known| known.facts.len() == 52).await;
    n1.stop().await;

    wire.cut();
    let n1 = node(&pki, "n1", wire.address, keeping(directory.path()));
    let away = n1.known().borrow().clone();
    assert_eq!(away.facts.len(), 52, "it is there before anybody answers");
    assert!(away.cached.is_some());
    assert_eq!(away.bundle.as_deref(), Some("roots"));
    assert_eq!(away.problems.len(), 0);
    let away = known(&n1, "nobody answers", is_broken).await;
    assert!(holds_its_view(&away, &controller.hub, "n1"));

    let told = controller.hub.counts().told;
    wire.mend();
    let back = known(&n1, "somebody answers", is_current).await;
    assert_eq!(back.cached, None);
    controller.wait_until_told().await;
    assert_eq!(controller.hub.counts().told, told, "it knew everything");
}

#[tokio::test]
async fn a_damaged_world_is_moved_aside_and_told_again() {
    let pki = Pki::new();
    let directory = tempfile::tempdir().expect("a directory");
    let controller = Controller::start(&pki, hub(pods())).await;
    let n1 = node(&pki, "n1", controller.address, keeping(directory.path()));
    known(&n1, "everything is told", is_current).await;
    n1.stop().await;
    let file = directory.path().join("world.json");
    let mut bytes = fs::read(&file).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("written");

    let n1 = node(&pki, "n1", controller.address, keeping(directory.path()));
    let start = n1.known().borrow().clone();
    assert!(start.facts.is_empty());
    assert!(start.problems[0].contains("world.damaged"), "{start:?}");
    assert!(directory.path().join("world.damaged").exists());
    let told = known(&n1, "everything is told again", is_current).await;
    assert!(holds_its_view(&told, &controller.hub, "n1"));
    assert_eq!(told.problems.len(), 0);
    n1.stop().await;
    assert!(file.exists(), "and kept again");
}

#[tokio::test]
async fn a_later_release_is_told_everything_again() {
    let pki = Pki::new();
    let directory = tempfile::tempdir().expect("a directory");
    let controller = Controller::start(&pki, hub(pods())).await;
    let n1 = node(&pki, "n1", controller.address, keeping(directory.path()));
    known(&n1, "everything is told", is_current).await;
    n1.stop().await;
    let told = controller.hub.counts().told;
    let options = NodeOptions {
        version: "1.1.0",
        ..keeping(directory.path())
    };
    let n1 = node(&pki, "n1", controller.address, options);
    assert_eq!(n1.known().borrow().facts.len(), 51);
    known(&n1, "everything is told again", is_current).await;
    controller.wait_until_told().await;
    assert_eq!(controller.hub.counts().told - told, 51);
}
