//! Random changes, slow nodes and disconnects, against a plain reading of the rules.

use std::collections::{BTreeMap, BTreeSet};

use mesh_control::facts::{Fact, FactChange, FactKey, MeshSpec};
use mesh_control::objects::{MtlsSpec, TargetSpec};
use mesh_core::policy::MtlsMode;
use mesh_core::service::Route;
use mesh_core::workload::Name;
use proptest::prelude::*;

use super::played::Played;
use super::{NODES, hub, namespace, policy, service, workload};

const NAMESPACES: [&str; 4] = ["a", "b", "c", "d"];

/// What a node is to know, read plainly from the rules.
fn plain_view(facts: &BTreeMap<FactKey, Fact>, node: &str) -> Vec<Fact> {
    let homes: BTreeSet<&str> = facts
        .values()
        .filter_map(|fact| match fact {
            Fact::Workload(spec) if spec.node.as_deref() == Some(node) => {
                Some(spec.name.namespace.as_str())
            }
            _ => None,
        })
        .collect();
    let reaches = |home: &str, namespace: &str| {
        let spec = facts.get(&FactKey::of_namespace(home));
        let reach = spec.and_then(|spec| match spec {
            Fact::Namespace(spec) => spec.reach.as_ref(),
            _ => None,
        });
        home == namespace || reach.is_none_or(|reach| reach.contains(namespace))
    };
    let knows = |fact: &Fact| {
        let namespace = fact.key().namespace;
        let from = |home: &str| reaches(home, &namespace);
        match fact {
            Fact::Mesh(_) | Fact::Namespace(_) => true,
            Fact::Workload(_) | Fact::Route(_) => homes.iter().any(|home| from(home)),
            Fact::Service(spec) => homes.iter().any(|home| {
                let told = spec
                    .export_to
                    .as_ref()
                    .is_none_or(|some| some.contains(*home) || *home == namespace);
                told && from(home)
            }),
            Fact::Policy(_) | Fact::Mtls(_) => homes.contains(namespace.as_str()),
        }
    };
    facts.values().filter(|fact| knows(fact)).cloned().collect()
}

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<Fact>, Vec<FactKey>),
    Take(usize, usize),
    Disconnect(usize),
    Connect(usize),
}

fn any_namespace() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMESPACES[..])
}

fn any_set() -> impl Strategy<Value = Option<BTreeSet<String>>> {
    let names = any_namespace().prop_map(str::to_owned);
    prop::option::of(prop::collection::btree_set(names, 0..3))
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let name = || prop::sample::select(&["x", "y", "z"][..]);
    let node = prop::option::of(prop::sample::select(&NODES[..]));
    prop_oneof![
        5 => (any_namespace(), name(), node).prop_map(|(of, name, node)| workload(of, name, node)),
        2 => (any_namespace(), any_set()).prop_map(|(name, reach)| {
            let reach: Option<Vec<&str>> =
                reach.as_ref().map(|reach| reach.iter().map(String::as_str).collect());
            namespace(name, reach.as_deref())
        }),
        3 => (any_namespace(), name(), any_set(), 1..3u16)
            .prop_map(|(of, name, export, port)| service(of, name, export, port)),
        1 => (any_namespace(), name(), name()).prop_map(|(of, name, to)| Fact::Route(Route {
            name: Name::new(of, name),
            service: Name::new(of, to),
            rules: Vec::new(),
        })),
        1 => (any_namespace(), name(), any::<bool>()).prop_map(|(of, name, dry)| policy(of, name, dry)),
        1 => (any_namespace(), name(), any::<bool>()).prop_map(|(of, name, strict)| {
            Fact::Mtls(MtlsSpec {
                name: Name::new(of, name),
                target: TargetSpec::Namespace,
                ports: Vec::new(),
                mode: if strict { MtlsMode::Strict } else { MtlsMode::Permissive },
            })
        }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let facts = || prop::collection::vec(any_fact(), 0..4);
    prop_oneof![
        5 => (facts(), facts()).prop_map(|(set, removed)| {
            Step::Publish(set, removed.iter().map(Fact::key).collect())
        }),
        4 => (0..3usize, 1..3usize).prop_map(|(node, count)| Step::Take(node, count)),
        1 => (0..3usize).prop_map(Step::Disconnect),
        2 => (0..3usize).prop_map(Step::Connect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is published, however slowly nodes listen and however often they break off: in the end each holds what the
    /// rules say, and the hub knows that it does.
    #[test]
    fn every_node_ends_up_with_its_view(steps in prop::collection::vec(any_step(), 1..60)) {
        let hub = hub(Vec::new());
        let mesh = Fact::Mesh(MeshSpec::default());
        let mut facts = BTreeMap::from([(mesh.key(), mesh)]);
        let mut nodes: Vec<Played> = NODES.iter().map(|_| Played::default()).collect();
        for step in steps {
            match step {
                Step::Publish(set, removed) => {
                    for key in &removed {
                        facts.remove(key);
                    }
                    for fact in &set {
                        facts.insert(fact.key(), fact.clone());
                    }
                    // Of doubles in one change, the last counts.
                    hub.publish(FactChange { set, removed });
                }
                Step::Take(node, count) => {
                    for _ in 0..count {
                        nodes[node].take();
                    }
                }
                Step::Disconnect(node) => nodes[node].session = None,
                Step::Connect(node) => nodes[node].connect(&hub, NODES[node]),
            }
        }
        for (node, played) in NODES.iter().zip(&mut nodes) {
            if played.session.is_none() {
                played.connect(&hub, node);
            }
            played.drain(&hub);
            let expected = plain_view(&facts, node);
            prop_assert_eq!(&played.facts(), &expected, "node {}", node);
            prop_assert_eq!(&hub.view(node), &expected, "node {}", node);
        }
        prop_assert_eq!(hub.counts().behind, 0);
        prop_assert_eq!(hub.counts().nodes, NODES.len());
        // Whoever comes again holding everything is told nothing.
        for (node, played) in NODES.iter().zip(&mut nodes) {
            played.connect(&hub, node);
            prop_assert_eq!(played.drain(&hub), (0, 0), "node {}", node);
        }
    }
}
