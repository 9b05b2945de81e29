//! What a node holds: facts by key, each with the hash by which the controller knows it. It knows no connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mesh_control::facts::{Fact, FactKey, FactKind};
use mesh_control::objects::{MtlsSpec, PolicySpec, TargetSpec};
use mesh_core::policy::{Action, MtlsMode, Rule};
use mesh_core::workload::Name;

use crate::proto;
use crate::wire::{Hash, key_from_wire};

/// What a node holds, sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    held: BTreeMap<Arc<FactKey>, Held>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held {
    /// Of the body that was told; `None`: it is to be told again.
    pub(super) hash: Option<Hash>,
    /// `None`: this release cannot read it, and nothing stands in for it.
    pub(super) fact: Option<Arc<Fact>>,
    /// Why this release cannot read it, and what applies instead.
    pub(super) problem: Option<String>,
}

/// What a delta says, once all of its pieces have come.
#[derive(Debug, Default)]
pub(super) struct Change {
    set: Vec<(FactKey, Told)>,
    removed: Vec<FactKey>,
}

/// A fact that was told.
#[derive(Debug)]
struct Told {
    hash: Option<Hash>,
    body: Result<Arc<Fact>, Unreadable>,
}

#[derive(Debug)]
struct Unreadable {
    body: Bytes,
    why: String,
}

impl Facts {
    /// Every fact, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = &Fact> {
        self.held.values().filter_map(|held| held.fact.as_deref())
    }

    /// A fact.
    pub fn get(&self, key: &FactKey) -> Option<&Fact> {
        self.held.get(key)?.fact.as_deref()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What is wrong with some of them, for people.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.held.iter().filter_map(|(key, held)| {
            let problem = held.problem.as_ref()?;
            Some(format!("{key}: {problem}"))
        })
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (&Arc<FactKey>, &Held)> {
        self.held.iter()
    }

    pub(super) fn insert(&mut self, key: FactKey, held: Held) {
        self.held.insert(Arc::new(key), held);
    }

    /// Takes a whole delta.
    pub(super) fn apply(&mut self, change: Change) {
        let Change { set, removed } = change;
        for key in removed {
            self.held.remove(&key);
        }
        for (key, told) in set {
            let Told { hash, body } = told;
            let held = match body {
                Ok(fact) => Held {
                    hash,
                    fact: Some(fact),
                    problem: None,
                },
                Err(Unreadable { body, why }) => self.unreadable(&key, hash, &body, &why),
            };
            self.insert(key, held);
        }
    }

    /// A fact that this release cannot read, as one of a later release may be: what could open something is closed, of
    /// anything else the last good version stays.
    fn unreadable(&self, key: &FactKey, hash: Option<Hash>, body: &[u8], why: &str) -> Held {
        let (fact, instead) = match key.kind {
            FactKind::Policy => (
                Some(Arc::new(Fact::Policy(denying(key, target_of(body))))),
                "nobody may reach what it is about",
            ),
            FactKind::Mtls => (
                Some(Arc::new(Fact::Mtls(strict(key, target_of(body))))),
                "mutual TLS is required of what it is about",
            ),
            FactKind::Mesh
            | FactKind::Namespace
            | FactKind::Workload
            | FactKind::Service
            | FactKind::Route => match self.held.get(key).and_then(|held| held.fact.clone()) {
                Some(before) => (Some(before), "its last good version stays"),
                None => (None, "it is left out"),
            },
        };
        Held {
            hash,
            fact,
            problem: Some(format!(
                "this release cannot read it ({why}), so {instead}; upgrade Warren on this node"
            )),
        }
    }
}

impl Change {
    /// Takes a piece.
    pub(super) fn add(&mut self, piece: proto::Delta) {
        let proto::Delta {
            generation: _,
            set,
            removed,
            complete: _,
        } = piece;
        let removed = removed.into_iter().filter_map(key_from_wire);
        self.removed.extend(removed);
        for proto::Told { key, hash, body } in set {
            // A kind that this release does not know has no meaning for it.
            if let Some(key) = key.and_then(key_from_wire) {
                let hash = Hash::from_bytes(&hash);
                let body = read(&key, body);
                self.set.push((key, Told { hash, body }));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }
}

fn read(key: &FactKey, body: Bytes) -> Result<Arc<Fact>, Unreadable> {
    let why = match serde_json::from_slice::<Fact>(&body) {
        Ok(fact) if fact.key() == *key => return Ok(Arc::new(fact)),
        Ok(fact) => format!("it says it is {}", fact.key()),
        Err(error) => error.to_string(),
    };
    Err(Unreadable { body, why })
}

fn name(key: &FactKey) -> Name {
    Name::new(key.namespace.as_str(), key.name.as_str())
}

/// What a fact is about, if that much of it can be read; else the whole namespace.
fn target_of(body: &[u8]) -> TargetSpec {
    let read = || {
        let value: serde_json::Value = serde_json::from_slice(body).ok()?;
        let (_, spec) = value.as_object()?.iter().next()?;
        serde_json::from_value(spec.get("target")?.clone()).ok()
    };
    read().unwrap_or(TargetSpec::Namespace)
}

fn denying(key: &FactKey, target: TargetSpec) -> PolicySpec {
    PolicySpec {
        name: name(key),
        target,
        dry_run: false,
        rules: vec![Rule {
            name: "unreadable".to_owned(),
            action: Action::Deny,
            from: Vec::new(),
            ports: Vec::new(),
        }],
    }
}

fn strict(key: &FactKey, target: TargetSpec) -> MtlsSpec {
    MtlsSpec {
        name: name(key),
        target,
        ports: Vec::new(),
        mode: MtlsMode::Strict,
    }
}

#[cfg(test)]
mod tests {
    use mesh_control::facts::NamespaceSpec;
    use serde_json::json;

    use super::*;
    use crate::wire::key_to_wire;

    fn told(key: &FactKey, body: &serde_json::Value) -> Change {
        let body = Bytes::from(serde_json::to_vec(body).expect("JSON"));
        let mut change = Change::default();
        change.add(proto::Delta {
            set: vec![proto::Told {
                key: Some(key_to_wire(key)),
                hash: Bytes::copy_from_slice(Hash::of(&body).as_bytes()),
                body,
            }],
            ..proto::Delta::default()
        });
        change
    }

    fn key(kind: FactKind) -> FactKey {
        FactKey::named(kind, &Name::new("shop", "web"))
    }

    #[test]
    fn a_policy_that_cannot_be_read_denies_what_it_is_about() {
        let mut facts = Facts::default();
        let key = key(FactKind::Policy);
        let body = json!({"policy": {
            "name": {"namespace": "shop", "name": "web"},
            "target": {"workload": "web-0"},
            "rules": [{"notYetInvented": true}],
        }});
        facts.apply(told(&key, &body));
        let Some(Fact::Policy(policy)) = facts.get(&key) else {
            panic!("{facts:?}");
        };
        assert_eq!(policy.target, TargetSpec::Workload("web-0".to_owned()));
        assert_eq!(policy.rules[0].action, Action::Deny);
        let problems: Vec<String> = facts.problems().collect();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("policy web.shop: "), "{problems:?}");
        // Its hash is held: it is not told again and again.
        let (_, held) = facts.held().next().expect("it is held");
        assert!(held.hash.is_some());
        facts.apply(told(&key, &json!("nonsense")));
        let Some(Fact::Policy(policy)) = facts.get(&key) else {
            panic!("{facts:?}");
        };
        assert_eq!(policy.target, TargetSpec::Namespace);
    }

    #[test]
    fn an_exception_that_cannot_be_read_is_strict() {
        let mut facts = Facts::default();
        let key = key(FactKind::Mtls);
        facts.apply(told(&key, &json!({"mtls": {"mode": "Sometimes"}})));
        let Some(Fact::Mtls(exception)) = facts.get(&key) else {
            panic!("{facts:?}");
        };
        assert_eq!(exception.mode, MtlsMode::Strict);
        assert_eq!(exception.target, TargetSpec::Namespace);
    }

    #[test]
    fn a_namespace_that_cannot_be_read_stays_as_it_was() {
        let mut facts = Facts::default();
        let spec = NamespaceSpec {
            name: "shop".to_owned(),
            meshed: true,
            ..NamespaceSpec::default()
        };
        let fact = Fact::Namespace(spec);
        let good = serde_json::to_value(&fact).expect("JSON");
        facts.apply(told(&fact.key(), &good));
        facts.apply(told(&fact.key(), &json!({"namespace": 3})));
        assert_eq!(facts.get(&fact.key()), Some(&fact));
        assert_eq!(facts.problems().count(), 1);
        facts.apply(told(&fact.key(), &good));
        assert_eq!(facts.problems().count(), 0);
    }

    #[test]
    fn a_fact_is_what_its_key_says() {
        let mut facts = Facts::default();
        let spec = json!({"namespace": {"name": "bank"}});
        facts.apply(told(&FactKey::of_namespace("shop"), &spec));
        assert_eq!(facts.get(&FactKey::of_namespace("shop")), None);
        assert_eq!(facts.get(&FactKey::of_namespace("bank")), None);
        assert_eq!(facts.problems().count(), 1);
    }
}
