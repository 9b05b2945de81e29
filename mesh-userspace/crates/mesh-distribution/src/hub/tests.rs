//! The hub with nodes that are played: what they hold in the end is what a plain reading of the rules says.

mod played;
mod random;

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;
use mesh_control::facts::{MeshSpec, NamespaceSpec};
use mesh_control::objects::{PolicySpec, ServiceSpec, TargetSpec};

use super::*;
use crate::proto::to_node::Message;
use crate::wire::Hash;
use played::Played;

const NODES: [&str; 3] = ["n0", "n1", "n2"];

fn workload(namespace: &str, name: &str, node: Option<&str>) -> Fact {
    Fact::Workload(WorkloadSpec {
        name: Name::new(namespace, name),
        service_account: "default".to_owned(),
        node: node.map(str::to_owned),
        addresses: Vec::new(),
        labels: BTreeMap::new(),
        ports: Vec::new(),
        select: None,
        udp: false,
    })
}

fn namespace(name: &str, reach: Option<&[&str]>) -> Fact {
    Fact::Namespace(NamespaceSpec {
        name: name.to_owned(),
        meshed: true,
        pods_opt_in: false,
        reach: reach.map(|reach| reach.iter().map(|name| (*name).to_owned()).collect()),
    })
}

fn service(namespace: &str, name: &str, export_to: Option<BTreeSet<String>>, port: u16) -> Fact {
    Fact::Service(ServiceSpec {
        name: Name::new(namespace, name),
        addresses: Vec::new(),
        ports: vec![mesh_core::service::ServicePort {
            port,
            target_port: port,
        }],
        endpoints: Vec::new(),
        subsets: BTreeMap::new(),
        export_to,
    })
}

fn policy(namespace: &str, name: &str, dry_run: bool) -> Fact {
    Fact::Policy(PolicySpec {
        name: Name::new(namespace, name),
        target: TargetSpec::Namespace,
        dry_run,
        rules: Vec::new(),
    })
}

fn set(facts: Vec<Fact>) -> FactChange {
    FactChange {
        set: facts,
        removed: Vec::new(),
    }
}

fn removed(keys: &[&Fact]) -> FactChange {
    FactChange {
        set: Vec::new(),
        removed: keys.iter().map(|fact| fact.key()).collect(),
    }
}

/// A hub that is ready.
fn hub(facts: Vec<Fact>) -> Hub {
    let hub = Hub::new();
    hub.publish(set(vec![Fact::Mesh(MeshSpec::default())]));
    hub.publish(set(facts));
    hub.mark_synced();
    hub
}

fn following(hub: &Hub, node: &str) -> Played {
    let mut played = Played::default();
    played.connect(hub, node);
    played.drain(hub);
    played
}

#[test]
fn a_change_reaches_those_who_need_it_and_nobody_else() {
    let hub = hub(vec![
        namespace("a", Some(&["b"])),
        namespace("b", Some(&[])),
        namespace("c", Some(&[])),
        workload("a", "x", Some("n0")),
        workload("b", "x", Some("n1")),
        workload("c", "x", Some("n2")),
    ]);
    let mut nodes: Vec<Played> = NODES.iter().map(|node| following(&hub, node)).collect();
    let mut told = |change: FactChange| -> Vec<(u64, u64)> {
        hub.publish(change);
        nodes.iter_mut().map(|node| node.drain(&hub)).collect()
    };
    let y = workload("b", "y", Some("n1"));
    assert_eq!(told(set(vec![y.clone()])), [(1, 0), (1, 0), (0, 0)]);
    assert_eq!(told(set(vec![y.clone()])), [(0, 0); 3], "not different");
    assert_eq!(told(removed(&[&y])), [(0, 1), (0, 1), (0, 0)]);
    let policy = policy("b", "x", false);
    assert_eq!(told(set(vec![policy])), [(0, 0), (1, 0), (0, 0)]);
    let mesh = Fact::Mesh(MeshSpec {
        tunnel_port: 1,
        ..MeshSpec::default()
    });
    assert_eq!(told(set(vec![mesh])), [(1, 0); 3]);
    // A service of b for b alone, then for a too, then for nobody else again.
    let only = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        set(vec![service("b", "s", Some(names), 1)])
    };
    assert_eq!(told(only(&[])), [(0, 0), (1, 0), (0, 0)]);
    assert_eq!(told(only(&["a", "c"])), [(1, 0), (1, 0), (0, 1)]);
    assert_eq!(told(only(&["c"])), [(0, 1), (1, 0), (0, 1)]);
    // The first workload of c on n0 brings what is c's: itself, the other workload, and not what only b may know.
    let first = workload("c", "y", Some("n0"));
    let [n0, n1, n2] = told(set(vec![first.clone()]))[..] else {
        panic!("three nodes");
    };
    assert_eq!((n0.0, n1, n2), (2, (0, 0), (1, 0)));
    // And when it leaves, all of that is forgotten.
    let [n0, n1, n2] = told(removed(&[&first]))[..] else {
        panic!("three nodes");
    };
    assert_eq!((n0.0, n0.1 >= 2, n1, n2), (0, true, (0, 0), (0, 1)));
    assert_eq!(nodes[0].facts(), hub.view("n0"));
}

#[test]
fn a_node_without_workloads_knows_the_mesh_and_its_namespaces() {
    let hub = hub(vec![
        namespace("a", None),
        workload("a", "x", Some("n0")),
        policy("a", "x", false),
    ]);
    let kinds: Vec<FactKind> = hub.view("n1").iter().map(|fact| fact.key().kind).collect();
    assert_eq!(kinds, [FactKind::Mesh, FactKind::Namespace]);
}

#[test]
fn a_slow_node_costs_its_keys_however_much_changes() {
    let facts: Vec<Fact> = (0..50)
        .map(|number| service("a", &format!("s{number}"), None, 1))
        .chain([workload("a", "x", Some("n0"))])
        .collect();
    let hub = hub(facts);
    let mut slow = following(&hub, "n0");
    for port in 2..102 {
        for number in 0..50 {
            hub.publish(set(vec![service("a", &format!("s{number}"), None, port)]));
        }
    }
    assert_eq!(hub.counts().behind, 1);
    assert_eq!(slow.drain(&hub), (50, 0), "5,000 changes of 50 facts");
    assert_eq!(slow.facts(), hub.view("n0"));
    assert_eq!(hub.counts().behind, 0);
}

#[test]
fn a_node_that_never_listens_begins_again_instead_of_growing_without_bound() {
    let hub = hub(vec![workload("a", "x", Some("n0"))]);
    let mut slow = following(&hub, "n0");
    for number in 0..10_000 {
        let pod = workload("a", &format!("pod-{number}"), Some("n1"));
        hub.publish(set(vec![pod.clone()]));
        hub.publish(removed(&[&pod]));
    }
    let session = slow.session.as_ref().expect("connected");
    assert_eq!(session.poll(), Err(Ending::TooFarBehind));
    slow.connect(&hub, "n0");
    assert_eq!(slow.drain(&hub), (0, 0));
    assert_eq!(slow.facts(), hub.view("n0"));
}

#[test]
fn large_deltas_come_in_pieces_and_apply_as_one() {
    let name = |number: usize| format!("{number:0200}");
    let facts: Vec<Fact> = (0..2000)
        .map(|number| service("a", &name(number), None, 1))
        .chain([workload("a", "x", Some("n0"))])
        .collect();
    let hub = hub(facts);
    let mut node = Played::default();
    node.connect(&hub, "n0");
    assert!(node.take());
    assert!(
        node.held.is_empty(),
        "the first piece alone applies nothing"
    );
    // What changes meanwhile is in the same delta, and what was removed is not.
    hub.publish(set(vec![service("a", &name(7), None, 2)]));
    hub.publish(removed(&[&service("a", &name(8), None, 1)]));
    let mut pieces = 1;
    while node.held.is_empty() {
        assert!(node.take());
        pieces += 1;
    }
    assert!(pieces > 3, "{pieces}");
    assert_eq!(node.facts(), hub.view("n0"));
}

#[test]
fn constant_change_does_not_keep_a_node_from_its_world() {
    let hub = hub(vec![workload("a", "x", Some("n0"))]);
    let mut node = Played::default();
    node.connect(&hub, "n0");
    let big = "b".repeat(200_000);
    for port in 1..40 {
        // More than a piece, before each piece.
        hub.publish(set(vec![service("a", &big, None, port)]));
        node.take();
        if !node.held.is_empty() {
            return;
        }
    }
    panic!("no delta was ever complete");
}

#[test]
fn nobody_is_told_to_forget_by_a_hub_that_does_not_know_yet() {
    let hub = Hub::new();
    let refused = |hub: &Hub| hub.follow("n0", Hello::default()).expect_err("not ready");
    hub.mark_synced();
    assert_eq!(refused(&hub), Ending::NotReady, "it does not know the mesh");
    let hub = Hub::new();
    hub.publish(set(vec![Fact::Mesh(MeshSpec::default())]));
    assert_eq!(
        refused(&hub),
        Ending::NotReady,
        "it has not read everything"
    );
    hub.mark_synced();
    assert!(hub.follow("n0", Hello::default()).is_ok());
    hub.end_sessions();
    assert_eq!(refused(&hub), Ending::Stopping);
}

#[test]
fn a_fact_that_is_too_large_is_refused_and_the_one_before_stays() {
    let hub = hub(vec![service("a", "s", Some(BTreeSet::new()), 1)]);
    let before = hub.counts();
    let many = (0..400_000).map(|number| format!("namespace-{number}"));
    let published = hub.publish(set(vec![service("a", "s", Some(many.collect()), 1)]));
    let [(key, why)] = published.refused.as_slice() else {
        panic!("{published:?}");
    };
    assert_eq!(key.to_string(), "service s.a");
    assert!(why.contains("stays"), "{why}");
    assert_eq!(hub.counts(), before);
}

#[test]
fn the_last_session_of_a_node_counts() {
    let hub = hub(Vec::new());
    let first = following(&hub, "n0");
    let second = following(&hub, "n0");
    let session = first.session.as_ref().expect("it was connected");
    assert_eq!(session.poll(), Err(Ending::Superseded));
    // What the first still says does not count, and its end is not the second's.
    session.listener().reported(NodeReport {
        ready: true,
        ..NodeReport::default()
    });
    assert_eq!(hub.nodes()[0].report, None);
    drop(first);
    assert_eq!(hub.counts().nodes, 1);
    drop(second);
    assert_eq!(hub.counts().nodes, 0);
}

#[test]
fn everybody_is_told_of_a_bundle_once() {
    let hub = hub(Vec::new());
    hub.set_bundle("one");
    let node = Played {
        session: Some(hub.follow("n0", Hello::default()).expect("ready")),
        ..Played::default()
    };
    let session = node.session.as_ref().expect("connected");
    let bundles = || {
        let mut bundles = Vec::new();
        while let Ok(Some(message)) = session.poll() {
            if let Message::Bundle(bundle) = message {
                bundles.push(bundle.roots);
            }
        }
        bundles
    };
    assert_eq!(bundles(), ["one"]);
    hub.set_bundle("one");
    assert!(bundles().is_empty());
    hub.set_bundle("two");
    assert_eq!(bundles(), ["two"]);
}

#[test]
fn what_a_node_has_acknowledged_is_never_more_than_it_was_told() {
    let hub = hub(vec![workload("a", "x", Some("n0"))]);
    let node = following(&hub, "n0");
    let listener = node.session.as_ref().expect("connected").listener();
    listener.acknowledged(u64::MAX);
    assert_eq!(hub.nodes()[0].held, hub.counts().generation);
}

#[test]
fn the_interest_of_a_hub_that_is_empty_again_is_empty() {
    let mut facts = vec![
        namespace("a", Some(&["b"])),
        workload("a", "x", Some("n0")),
        service("a", "s", Some(BTreeSet::from(["b".to_owned()])), 1),
        policy("a", "x", false),
    ];
    let hub = hub(facts.clone());
    facts.push(Fact::Mesh(MeshSpec::default()));
    hub.publish(removed(&facts.iter().collect::<Vec<_>>()));
    let state = hub.lock();
    let told = format!("{:?}", state.interest);
    assert!(!told.contains("n0"), "{told}");
    assert_eq!((state.facts.len(), state.facts.bytes()), (0, 0));
    assert_eq!(state.facts.all_seen().count(), 0);
    assert_eq!(state.facts.exported_to("b").count(), 0);
    let none: HashMap<FactKey, Option<Hash>> = HashMap::default();
    assert!(state.difference("n0", none).is_empty());
}
