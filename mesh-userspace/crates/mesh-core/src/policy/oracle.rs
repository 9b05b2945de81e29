//! The answer of the specification, written a second time: over texts instead of types, over all pairs instead of the first
//! match, and slowly. Random worlds are asked of both.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::addr::AppAddr;
use crate::snapshot::World;
use crate::testing::{domain, labels, workload};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer {
    Plaintext,
    DeniedByRule,
    NothingAllows,
    Foreign,
    Allowed,
}

/// What a question is about, as plain texts.
struct Facts<'a> {
    world: &'a World,
    /// `spiffe://…`, or empty.
    caller: String,
    address: IpAddr,
    workload: &'a Workload,
    port: u16,
}

impl Facts<'_> {
    fn about(&self, namespace: &str, target: &Target) -> bool {
        let own = format!(
            "{}/{}",
            self.workload.name.namespace, self.workload.name.name
        );
        let names: BTreeSet<String> = match target {
            Target::Namespace => [own.clone()].into(),
            Target::Workload(name) => [format!("{namespace}/{name}")].into(),
            Target::Workloads { names, .. } => names
                .iter()
                .map(|name| format!("{namespace}/{name}"))
                .collect(),
            Target::Labels(wanted) => {
                let missing = wanted
                    .iter()
                    .filter(|(key, value)| self.workload.labels.get(*key) != Some(*value))
                    .count();
                if missing == 0 {
                    [own.clone()].into()
                } else {
                    BTreeSet::new()
                }
            }
        };
        own.starts_with(&format!("{namespace}/")) && names.contains(&own)
    }

    fn from(&self, source: &Source) -> bool {
        let own = format!("spiffe://{}/ns/", self.world.trust_domain);
        match source {
            Source::Authenticated => self.caller.starts_with(&own),
            Source::Namespace(namespace) => {
                self.caller.starts_with(&format!("{own}{namespace}/sa/"))
            }
            Source::ServiceAccount { namespace, name } => {
                self.caller == format!("{own}{namespace}/sa/{name}")
            }
            Source::Identity(identity) => self.caller == identity.to_string(),
            Source::Network(network) => match (self.address, network) {
                (IpAddr::V4(address), ipnet::IpNet::V4(network)) => {
                    let shift = 32 - u32::from(network.prefix_len());
                    let top = |ip: std::net::Ipv4Addr| u64::from(u32::from(ip)) >> shift;
                    top(address) == top(network.addr())
                }
                _ => false,
            },
        }
    }

    /// Every action that some rule of the taken policies gives, and whether any of them is about the workload.
    fn votes(&self, take: impl Fn(&AuthorizationPolicy) -> bool) -> (bool, Vec<Action>) {
        let mut about = false;
        let mut votes = Vec::new();
        for policy in self.world.policies.iter().filter(|policy| take(policy)) {
            if !self.about(&policy.name.namespace, &policy.target) {
                continue;
            }
            about = true;
            for rule in &policy.rules {
                let from = rule.from.iter().filter(|source| self.from(source)).count();
                let ports = rule.ports.iter().filter(|port| **port == self.port).count();
                if (from > 0 || rule.from.is_empty()) && (ports > 0 || rule.ports.is_empty()) {
                    votes.push(rule.action);
                }
            }
        }
        (about, votes)
    }

    fn judge(&self, take: impl Fn(&AuthorizationPolicy) -> bool) -> Answer {
        let (about, votes) = self.votes(take);
        if votes.contains(&Action::Deny) {
            return Answer::DeniedByRule;
        }
        if votes.contains(&Action::Allow) {
            return Answer::Allowed;
        }
        if about {
            return Answer::NothingAllows;
        }
        let own = format!("spiffe://{}/", self.world.trust_domain);
        if self.caller.is_empty() || self.caller.starts_with(&own) {
            Answer::Allowed
        } else {
            Answer::Foreign
        }
    }

    fn strict(&self) -> bool {
        // Sorted from the most to the least specific, strict before permissive.
        let mut speaking: Vec<(u8, u8, u8, MtlsMode)> = Vec::new();
        for rule in &self.world.mtls {
            let for_port = rule.ports.is_empty() || rule.ports.contains(&self.port);
            if for_port && self.about(&rule.name.namespace, &rule.target) {
                let target = match rule.target {
                    Target::Workload(_) => 0,
                    Target::Labels(_) | Target::Workloads { .. } => 1,
                    Target::Namespace => 2,
                };
                let ports = u8::from(rule.ports.is_empty());
                let mode = u8::from(rule.mode == MtlsMode::Permissive);
                speaking.push((target, ports, mode, rule.mode));
            }
        }
        speaking.sort_by_key(|(target, ports, mode, _)| (*target, *ports, *mode));
        let mode = speaking
            .first()
            .map_or(self.world.default_mtls, |rule| rule.3);
        mode == MtlsMode::Strict
    }

    fn answer(&self) -> (Answer, bool) {
        if self.caller.is_empty() && self.strict() {
            return (Answer::Plaintext, false);
        }
        let enforced = self.judge(|policy| !policy.dry_run);
        let all = self.judge(|_| true);
        (
            enforced,
            enforced == Answer::Allowed && all != Answer::Allowed,
        )
    }
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(Target::Namespace),
        "(web|db|we)".prop_map(Target::Workload),
        prop_oneof![
            Just(labels(&[])),
            Just(labels(&[("app", "web")])),
            Just(labels(&[("app", "web"), ("version", "v2")])),
        ]
        .prop_map(Target::Labels),
        prop::collection::vec("(web|db|other)", 0..3).prop_map(|names| Target::Workloads {
            service: "any".to_owned(),
            names,
        }),
    ]
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        Just(Source::Authenticated),
        "(shop|ops|sho|shop2)".prop_map(Source::Namespace),
        ("(shop|ops)", "(client|clien|client2)")
            .prop_map(|(namespace, name)| Source::ServiceAccount { namespace, name }),
        caller_identity().prop_map(Source::Identity),
        ("(10|192)\\.[01]\\.0\\.0", 0_u8..=32).prop_map(|(address, length)| {
            let address: std::net::Ipv4Addr = address.parse().expect("an address");
            let network = ipnet::Ipv4Net::new(address, length).expect("a network");
            Source::Network(network.into())
        }),
    ]
}

fn caller_identity() -> impl Strategy<Value = SpiffeId> {
    (
        prop_oneof![4 => Just("demo.warren"), 1 => Just("other.example"), 1 => Just("demo.warren.example")],
        "(shop|ops|shop2)",
        "(client|client2)",
    )
        .prop_map(|(domain, namespace, account)| {
            format!("spiffe://{domain}/ns/{namespace}/sa/{account}")
                .parse()
                .expect("an identity")
        })
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    prop::collection::vec(prop_oneof![Just(80), Just(8080), Just(9100)], 0..3)
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        prop_oneof![2 => Just(Action::Allow), 1 => Just(Action::Deny)],
        prop::collection::vec(source(), 0..3),
        ports(),
    )
        .prop_map(|(action, from, ports)| Rule {
            name: "rule".to_owned(),
            action,
            from,
            ports,
        })
}

fn namespace() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just("shop"), 1 => Just("ops")]
}

fn policy() -> impl Strategy<Value = Arc<AuthorizationPolicy>> {
    (
        namespace(),
        target(),
        prop::bool::weighted(0.2),
        prop::collection::vec(rule(), 0..4),
    )
        .prop_map(|(namespace, target, dry_run, rules)| {
            Arc::new(AuthorizationPolicy {
                name: Name::new(namespace, "policy"),
                target,
                dry_run,
                rules,
            })
        })
}

fn mode() -> impl Strategy<Value = MtlsMode> {
    prop_oneof![Just(MtlsMode::Strict), Just(MtlsMode::Permissive)]
}

fn mtls_rule() -> impl Strategy<Value = MtlsRule> {
    (namespace(), target(), ports(), mode()).prop_map(|(namespace, target, ports, mode)| MtlsRule {
        name: Name::new(namespace, "exception"),
        target,
        ports,
        mode,
    })
}

fn world() -> impl Strategy<Value = World> {
    (
        prop::collection::vec(policy(), 0..5),
        prop::collection::vec(mtls_rule(), 0..4),
        mode(),
    )
        .prop_map(|(policies, mtls, default_mtls)| World {
            generation: 1,
            trust_domain: domain(),
            policies,
            mtls,
            default_mtls,
            ..World::default()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_specification(
        world in world(),
        identity in prop::option::weighted(0.75, caller_identity()),
        address in "(10|192)\\.[01]\\.0\\.[0-9]",
        name in "(web|db)\\.(shop|ops)",
        version in "v[12]",
        port in prop_oneof![Just(80_u16), Just(8080), Just(9100)],
    ) {
        let address: IpAddr = address.parse().expect("an address");
        let workload = workload(&name, "10.2.0.3", &[("app", "web"), ("version", &version)]);
        let snapshot = Snapshot::new(world);
        let caller = match &identity {
            Some(identity) => Caller::Authenticated { identity, address },
            None => Caller::Anonymous { address },
        };
        let facts = Facts {
            world: &snapshot.world,
            caller: identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            address,
            workload: &workload,
            port,
        };
        let destination = AppAddr(std::net::SocketAddr::new(workload.addresses[0], port));
        let (expected, expected_dry) = facts.answer();
        let (told, told_dry) = match authorize(&snapshot, caller, &workload, destination) {
            Ok(permit) => (Answer::Allowed, permit.would_deny().is_some()),
            Err(denied) => (
                match denied.reason {
                    Reason::PlaintextRefused => Answer::Plaintext,
                    Reason::PolicyDenied => Answer::DeniedByRule,
                    _ if denied.rule.starts_with("no policy selects") => Answer::Foreign,
                    _ => Answer::NothingAllows,
                },
                false,
            ),
        };
        prop_assert_eq!((told, told_dry), (expected, expected_dry));
    }
}
