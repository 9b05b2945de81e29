use proptest::prelude::*;

use super::*;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What [`Interest`] works out step by step, from scratch.
#[derive(Default)]
struct Plain {
    workloads: Vec<(Arc<str>, Arc<str>)>,
    reach: HashMap<Arc<str>, BTreeSet<String>>,
}

impl Plain {
    fn runs(&self, node: &str, namespace: &str) -> bool {
        let is = |(on, of): &(Arc<str>, Arc<str>)| **on == *node && **of == *namespace;
        self.workloads.iter().any(is)
    }

    fn sees(&self, node: &str, namespace: &str) -> bool {
        let homes = self.workloads.iter().filter(|(on, _)| **on == *node);
        homes.into_iter().any(|(_, home)| {
            **home == *namespace
                || self
                    .reach
                    .get(home)
                    .is_none_or(|reach| reach.contains(namespace))
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(usize, usize),
    Leave(usize),
    Reach(usize, Option<BTreeSet<String>>),
}

const NODES: [&str; 3] = ["n0", "n1", "n2"];
const NAMESPACES: [&str; 4] = ["a", "b", "c", "d"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reach = prop::option::of(prop::collection::btree_set(
        prop::sample::select(&NAMESPACES[..]).prop_map(str::to_owned),
        0..4,
    ));
    let step = prop_oneof![
        4 => (0..3usize, 0..4usize).prop_map(|(node, namespace)| Step::Arrive(node, namespace)),
        3 => any::<usize>().prop_map(Step::Leave),
        2 => (0..4usize, reach).prop_map(|(namespace, reach)| Step::Reach(namespace, reach)),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    /// Who sees what is as if worked out from scratch, and whoever sees another thing than before is told by a flip.
    #[test]
    fn every_step_leads_to_what_scratch_says(steps in steps()) {
        let mut interest = Interest::default();
        let mut plain = Plain::default();
        for step in steps {
            let before: Vec<bool> = pairs().map(|(node, of)| interest.sees(node, of)).collect();
            let ran: Vec<bool> = pairs().map(|(node, of)| interest.runs(node, of)).collect();
            let mut flips = Vec::new();
            take(step, &mut interest, &mut plain, &mut flips);
            for (index, (node, namespace)) in pairs().enumerate() {
                let sees = interest.sees(node, namespace);
                prop_assert_eq!(sees, plain.sees(node, namespace), "{} {}", node, namespace);
                let seeing = interest.seeing(namespace).any(|one| **one == *node);
                prop_assert_eq!(sees, seeing);
                let runs = interest.runs(node, namespace);
                prop_assert_eq!(runs, plain.runs(node, namespace));
                prop_assert_eq!(runs, interest.running(namespace).any(|one| **one == *node));
                if sees != before[index] {
                    let (one, all) = if sees {
                        (What::Seen(namespace.into()), What::AllSeen)
                    } else {
                        (What::Hidden(namespace.into()), What::AllHidden)
                    };
                    prop_assert!(
                        flips.contains(&flip(&node.into(), one))
                            || flips.contains(&flip(&node.into(), all)),
                        "{} {}: {:?}", node, namespace, flips
                    );
                }
                if runs != ran[index] {
                    let home = flip(&node.into(), What::Home(namespace.into()));
                    prop_assert!(flips.contains(&home), "{:?}", flips);
                }
            }
        }
    }
}

fn pairs() -> impl Iterator<Item = (&'static str, &'static str)> {
    NODES
        .into_iter()
        .flat_map(|node| NAMESPACES.into_iter().map(move |of| (node, of)))
}

fn take(step: Step, interest: &mut Interest, plain: &mut Plain, flips: &mut Vec<Flip>) {
    match step {
        Step::Arrive(node, namespace) => {
            let workload = (Arc::from(NODES[node]), Arc::from(NAMESPACES[namespace]));
            interest.arrive(&workload.0, &workload.1, flips);
            plain.workloads.push(workload);
        }
        Step::Leave(which) => {
            if plain.workloads.is_empty() {
                return;
            }
            let which = which % plain.workloads.len();
            let (node, namespace) = plain.workloads.swap_remove(which);
            interest.leave(&node, &namespace, flips);
        }
        Step::Reach(namespace, reach) => {
            let namespace = Arc::from(NAMESPACES[namespace]);
            interest.set_reach(&namespace, reach.as_ref(), flips);
            match reach {
                None => plain.reach.remove(&namespace),
                Some(reach) => plain.reach.insert(namespace, reach),
            };
        }
    }
}

#[test]
fn nothing_is_kept_for_what_is_gone() {
    let mut interest = Interest::default();
    let (node, a): (Arc<str>, Arc<str>) = ("n0".into(), "a".into());
    let mut flips = Vec::new();
    interest.set_reach(&a, Some(&set(&["b", "c"])), &mut flips);
    interest.arrive(&node, &a, &mut flips);
    interest.leave(&node, &a, &mut flips);
    interest.set_reach(&a, None, &mut flips);
    assert!(interest.namespaces.is_empty(), "{interest:?}");
    assert!(interest.nodes.is_empty(), "{interest:?}");
    assert!(interest.roaming.is_empty(), "{interest:?}");
}

#[test]
fn a_second_workload_of_a_namespace_changes_nothing() {
    let mut interest = Interest::default();
    let (node, a): (Arc<str>, Arc<str>) = ("n0".into(), "a".into());
    interest.arrive(&node, &a, &mut Vec::new());
    let mut flips = Vec::new();
    interest.arrive(&node, &a, &mut flips);
    interest.leave(&node, &a, &mut flips);
    assert_eq!(flips, []);
}
