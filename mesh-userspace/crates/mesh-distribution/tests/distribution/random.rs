//! Random publishes and disconnects over real connections: in the end every node holds what the hub has for it.

use std::time::Duration;

use mesh_control::facts::{Fact, FactChange};
use mesh_distribution::node::Subscription;
use proptest::prelude::*;

use crate::support::wire::Wire;
use crate::support::*;

const NODES: [&str; 3] = ["n0", "n1", "n2"];

#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<Fact>),
    Remove(Fact),
    Cut(usize),
    Mend(usize),
    Move(usize),
    Wait(u64),
}

fn any_fact() -> impl Strategy<Value = Fact> {
    let of = prop::sample::select(&["a", "b", "c"][..]);
    let reach = prop::option::of(prop::collection::vec(of.clone(), 0..2));
    prop_oneof![
        4 => (of.clone(), 0..6u8, prop::sample::select(&NODES[..]), 0..3u8).prop_map(
            |(of, name, node, version)| labelled(of, &format!("w{name}"), node, &version.to_string())
        ),
        1 => (of, reach).prop_map(|(of, reach)| namespace(of, reach.as_deref())),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(any_fact(), 1..5).prop_map(Step::Publish),
        2 => any_fact().prop_map(Step::Remove),
        1 => (0..3usize).prop_map(Step::Cut),
        1 => (0..3usize).prop_map(Step::Mend),
        1 => (0..3usize).prop_map(Step::Move),
        2 => (0..4u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn nodes_end_up_with_what_the_hub_has_for_them(
        steps in prop::collection::vec(any_step(), 20..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(play(steps));
    }
}

async fn play(steps: Vec<Step>) {
    let pki = Pki::new();
    // Two replicas that are told the same, one after the other.
    let controllers = [
        Controller::start(&pki, hub([])).await,
        Controller::start(&pki, hub([])).await,
    ];
    let mut wires = Vec::new();
    let mut nodes: Vec<Subscription> = Vec::new();
    for name in NODES {
        let wire = Wire::to(controllers[0].address).await;
        nodes.push(node(&pki, name, wire.address, NodeOptions::default()));
        wires.push(wire);
    }
    for step in steps {
        match step {
            Step::Publish(facts) => {
                for controller in &controllers {
                    controller.hub.publish(set(facts.clone()));
                }
            }
            Step::Remove(fact) => {
                for controller in &controllers {
                    controller.hub.publish(FactChange {
                        set: Vec::new(),
                        removed: vec![fact.key()],
                    });
                }
            }
            Step::Cut(node) => wires[node].cut(),
            Step::Mend(node) => wires[node].mend(),
            Step::Move(node) => {
                wires[node].cut();
                wires[node].lead_to(controllers[1].address);
                wires[node].mend();
            }
            Step::Wait(milliseconds) => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            }
        }
    }
    for ((name, node), wire) in NODES.iter().zip(&nodes).zip(&wires) {
        wire.mend();
        let hub = &controllers[0].hub;
        let last = known(node, "it holds its view", |known| {
            is_current(known) && holds_its_view(known, hub, name)
        })
        .await;
        assert!(holds_its_view(&last, &controllers[1].hub, name));
    }
}
