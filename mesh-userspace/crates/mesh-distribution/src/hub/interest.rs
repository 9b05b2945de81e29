//! Which node needs what: worked out from where workloads run and which namespaces reach which. It knows no facts, only
//! namespaces and nodes, and every step costs as much as there are nodes or namespaces for which something changes.
//!
//! A node *runs* a namespace when a workload of it is on the node, and *sees* a namespace when one that it runs reaches it.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};

#[derive(Debug, Default)]
pub(super) struct Interest {
    namespaces: HashMap<Arc<str>, Namespace>,
    nodes: HashMap<Arc<str>, Node>,
    /// Nodes that run a namespace which reaches all.
    roaming: HashSet<Arc<str>>,
}

#[derive(Debug, Default)]
struct Namespace {
    /// Nodes that run it, with how many of its workloads.
    run_by: HashMap<Arc<str>, usize>,
    /// What it reaches, beside itself; `None`: all.
    reach: Option<BTreeSet<String>>,
    /// Nodes that run namespaces which reach it by name (itself is one), with how many.
    named_by: HashMap<Arc<str>, usize>,
}

#[derive(Debug, Default)]
struct Node {
    /// The namespaces that it runs.
    runs: HashSet<Arc<str>>,
    /// How many of them reach all.
    roaming: usize,
}

/// What changed for a node.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Flip {
    pub(super) node: Arc<str>,
    pub(super) what: What,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum What {
    /// It sees a namespace that it did not see.
    Seen(Arc<str>),
    /// It may see it no longer (another reason may be left).
    Hidden(Arc<str>),
    /// It sees all namespaces.
    AllSeen,
    /// It sees no longer all.
    AllHidden,
    /// It runs the namespace, runs it no longer, or the namespace reaches others than before.
    Home(Arc<str>),
}

impl Interest {
    /// A workload of the namespace is on the node.
    pub(super) fn arrive(&mut self, node: &Arc<str>, namespace: &Arc<str>, flips: &mut Vec<Flip>) {
        let home = self.namespaces.entry(namespace.clone()).or_default();
        let count = home.run_by.entry(node.clone()).or_default();
        *count += 1;
        if *count > 1 {
            return;
        }
        let reach = home.reach.clone();
        let here = self.nodes.entry(node.clone()).or_default();
        here.runs.insert(namespace.clone());
        flips.push(flip(node, What::Home(namespace.clone())));
        self.name(node, namespace, flips);
        match reach {
            None => self.roam(node, flips),
            Some(others) => {
                for other in others.iter().filter(|other| ***other != **namespace) {
                    self.name(node, &Arc::from(other.as_str()), flips);
                }
            }
        }
    }

    /// A workload of the namespace is no longer on the node.
    pub(super) fn leave(&mut self, node: &Arc<str>, namespace: &Arc<str>, flips: &mut Vec<Flip>) {
        let Some(home) = self.namespaces.get_mut(namespace) else {
            return;
        };
        let Some(count) = home.run_by.get_mut(node) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        home.run_by.remove(node);
        let reach = home.reach.clone();
        if let Some(here) = self.nodes.get_mut(node) {
            here.runs.remove(namespace);
        }
        flips.push(flip(node, What::Home(namespace.clone())));
        match reach {
            None => self.settle(node, flips),
            Some(others) => {
                for other in others.iter().filter(|other| ***other != **namespace) {
                    self.unname(node, other, flips);
                }
            }
        }
        self.unname(node, namespace, flips);
        if self
            .nodes
            .get(node)
            .is_some_and(|here| here.runs.is_empty())
        {
            self.nodes.remove(node);
        }
        self.forget(namespace);
    }

    /// What a namespace reaches, beside itself; `None`: all.
    pub(super) fn set_reach(
        &mut self,
        namespace: &Arc<str>,
        reach: Option<&BTreeSet<String>>,
        flips: &mut Vec<Flip>,
    ) {
        let home = self.namespaces.entry(namespace.clone()).or_default();
        if home.reach.as_ref() == reach {
            self.forget(namespace);
            return;
        }
        let before = std::mem::replace(&mut home.reach, reach.cloned());
        let nodes: Vec<Arc<str>> = home.run_by.keys().cloned().collect();
        let none = BTreeSet::new();
        let (old, new) = (before.as_ref().unwrap_or(&none), reach.unwrap_or(&none));
        let gained: Vec<Arc<str>> = names(new, old, namespace);
        let lost: Vec<Arc<str>> = names(old, new, namespace);
        for node in &nodes {
            flips.push(flip(node, What::Home(namespace.clone())));
            // What is gained comes first: nothing that stays is taken for new.
            for other in &gained {
                self.name(node, other, flips);
            }
            match (&before, reach) {
                (None, Some(_)) => self.settle(node, flips),
                (Some(_), None) => self.roam(node, flips),
                _ => {}
            }
            for other in &lost {
                self.unname(node, other, flips);
            }
        }
        self.forget(namespace);
    }

    /// Whether the node runs the namespace.
    pub(super) fn runs(&self, node: &str, namespace: &str) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|here| here.runs.contains(namespace))
    }

    /// Whether the node sees the namespace.
    pub(super) fn sees(&self, node: &str, namespace: &str) -> bool {
        self.sees_all(node)
            || self
                .namespaces
                .get(namespace)
                .is_some_and(|home| home.named_by.contains_key(node))
    }

    /// Whether the node sees all namespaces.
    pub(super) fn sees_all(&self, node: &str) -> bool {
        self.roaming.contains(node)
    }

    /// Whether the node runs one of `homes` that reaches the namespace.
    pub(super) fn sees_from<'h>(
        &self,
        node: &str,
        mut homes: impl Iterator<Item = &'h str>,
        namespace: &str,
    ) -> bool {
        homes.any(|home| self.runs(node, home) && self.reaches(home, namespace))
    }

    /// The nodes that run the namespace.
    pub(super) fn running(&self, namespace: &str) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces
            .get(namespace)
            .into_iter()
            .flat_map(|home| home.run_by.keys())
    }

    /// The nodes that see the namespace; one may come twice.
    pub(super) fn seeing(&self, namespace: &str) -> impl Iterator<Item = &Arc<str>> {
        let named = self
            .namespaces
            .get(namespace)
            .into_iter()
            .flat_map(|home| home.named_by.keys());
        named.chain(&self.roaming)
    }

    /// The namespaces that the node runs.
    pub(super) fn homes(&self, node: &str) -> impl Iterator<Item = &Arc<str>> {
        self.nodes.get(node).into_iter().flat_map(|here| &here.runs)
    }

    /// What a namespace reaches beside itself; `None`: all.
    pub(super) fn reach(&self, namespace: &str) -> Option<&BTreeSet<String>> {
        self.namespaces.get(namespace)?.reach.as_ref()
    }

    fn reaches(&self, home: &str, namespace: &str) -> bool {
        home == namespace
            || self
                .reach(home)
                .is_none_or(|reach| reach.contains(namespace))
    }

    /// One more namespace that the node runs reaches this one by name.
    fn name(&mut self, node: &Arc<str>, namespace: &Arc<str>, flips: &mut Vec<Flip>) {
        let named = self.namespaces.entry(namespace.clone()).or_default();
        let count = named.named_by.entry(node.clone()).or_default();
        *count += 1;
        if *count == 1 && !self.roaming.contains(node) {
            flips.push(flip(node, What::Seen(namespace.clone())));
        }
    }

    fn unname(&mut self, node: &Arc<str>, namespace: &str, flips: &mut Vec<Flip>) {
        let Some((key, _)) = self.namespaces.get_key_value(namespace) else {
            return;
        };
        let namespace = key.clone();
        let Some(named) = self.namespaces.get_mut(&namespace) else {
            return;
        };
        if let Some(count) = named.named_by.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                named.named_by.remove(node);
                flips.push(flip(node, What::Hidden(namespace.clone())));
            }
        }
        self.forget(&namespace);
    }

    /// One more namespace that the node runs reaches all.
    fn roam(&mut self, node: &Arc<str>, flips: &mut Vec<Flip>) {
        let here = self.nodes.entry(node.clone()).or_default();
        here.roaming += 1;
        if here.roaming == 1 {
            self.roaming.insert(node.clone());
            flips.push(flip(node, What::AllSeen));
        }
    }

    fn settle(&mut self, node: &Arc<str>, flips: &mut Vec<Flip>) {
        if let Some(here) = self.nodes.get_mut(node) {
            here.roaming -= 1;
            if here.roaming == 0 {
                self.roaming.remove(node);
                flips.push(flip(node, What::AllHidden));
            }
        }
    }

    /// Gives back what says nothing.
    fn forget(&mut self, namespace: &Arc<str>) {
        let says_nothing = self.namespaces.get(namespace).is_some_and(|home| {
            home.run_by.is_empty() && home.named_by.is_empty() && home.reach.is_none()
        });
        if says_nothing {
            self.namespaces.remove(namespace);
        }
    }
}

fn flip(node: &Arc<str>, what: What) -> Flip {
    Flip {
        node: node.clone(),
        what,
    }
}

/// What is in `these` and not in `those`, but for the namespace itself, which is always reached.
fn names(these: &BTreeSet<String>, those: &BTreeSet<String>, own: &str) -> Vec<Arc<str>> {
    these
        .difference(those)
        .filter(|name| name.as_str() != own)
        .map(|name| Arc::from(name.as_str()))
        .collect()
}
