use mesh_control::facts::{Fact, FactChange, MeshSpec, NamespaceSpec};

use super::*;

fn one(sequence: u64, generation: u64) -> One {
    One {
        sequence,
        generation,
        at: Instant::now(),
    }
}

#[test]
fn an_update_is_done_when_all_before_it_are() {
    let told = Told::default();
    for sequence in 1..=4 {
        told.remember(one(sequence, 10 * sequence));
    }
    assert_eq!(told.newest_done(|one| one.generation == 20), None);
    assert_eq!(told.newest_done(|one| one.generation <= 30), Some(3));
    assert_eq!(told.newest_done(|one| one.generation <= 30), None);
    assert!(!told.is_all_done());
    assert_eq!(told.newest_done(|_| true), Some(4));
    assert!(told.is_all_done());
}

#[test]
fn what_nobody_has_done_is_not_remembered_for_ever() {
    let told = Told::default();
    for sequence in 0..10_000 {
        told.remember(one(sequence, sequence));
    }
    assert_eq!(told.updates.lock().expect("not poisoned").len(), REMEMBERED);
    assert_eq!(told.newest_done(|_| true), Some(9_999));
}

#[test]
fn nodes_of_other_controllers_have_what_was_told_a_while_ago() {
    let asked_at = Instant::now();
    let others = |any, behind: &[&str]| Others {
        asked_at,
        any,
        behind: behind.iter().map(|node| (*node).to_owned()).collect(),
    };
    let just_now = one(1, 1);
    let before = One {
        at: asked_at
            .checked_sub(2 * SAME)
            .expect("the machine is up for a while"),
        ..just_now
    };
    assert!(others(false, &[]).have(&just_now));
    assert!(!others(true, &[]).have(&just_now));
    assert!(others(true, &[]).have(&before));
    assert!(!others(true, &["b"]).have(&before));
    // A controller that cannot be asked may have nodes that are behind.
    assert!(!others(false, &["of another controller"]).have(&before));
}

fn node(held: u64, applied: Option<u64>) -> NodeView {
    NodeView {
        name: "a".to_owned(),
        version: "0".to_owned(),
        connected_since: std::time::SystemTime::UNIX_EPOCH,
        current: true,
        held,
        report: applied.map(|applied| mesh_distribution::hub::NodeReport {
            applied,
            ..Default::default()
        }),
    }
}

#[test]
fn what_the_data_path_works_by_counts_where_it_is_known() {
    assert_eq!(applied(&node(7, None)), 7);
    assert_eq!(applied(&node(7, Some(0))), 7);
    assert_eq!(applied(&node(7, Some(5))), 5);
}

#[tokio::test]
async fn the_hub_is_told_and_the_first_time_is_ready() {
    let (hub, told) = (Hub::new(), Arc::new(Told::default()));
    let (sender, updates) = mpsc::channel(4);
    let telling = tokio::spawn(run(hub.clone(), Arc::clone(&told), updates));
    assert!(!hub.is_ready());
    let namespace = NamespaceSpec {
        name: "shop".to_owned(),
        ..NamespaceSpec::default()
    };
    for (sequence, fact) in [
        (1, Fact::Mesh(MeshSpec::default())),
        (2, Fact::Namespace(namespace)),
    ] {
        let change = FactChange {
            set: vec![fact],
            removed: Vec::new(),
        };
        sender
            .send(Update { sequence, change })
            .await
            .expect("somebody listens");
    }
    drop(sender);
    telling.await.expect("no panic");
    assert!(hub.is_ready());
    assert_eq!(hub.facts().len(), 2);
    let generation = hub.counts().generation;
    assert_eq!(
        told.newest_done(|one| one.generation <= generation),
        Some(2)
    );
}
