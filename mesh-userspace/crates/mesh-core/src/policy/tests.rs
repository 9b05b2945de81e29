use std::sync::Arc;

use super::*;
use crate::snapshot::World;
use crate::testing::{addr, identity, labels, shop};

fn rule(name: &str, action: Action, from: &[Source], ports: &[u16]) -> Rule {
    Rule {
        name: name.to_owned(),
        action,
        from: from.to_vec(),
        ports: ports.to_vec(),
    }
}

fn policy(name: &str, target: Target, rules: &[Rule]) -> AuthorizationPolicy {
    let (name, namespace) = name.split_once('.').expect("name.namespace");
    AuthorizationPolicy {
        name: Name::new(namespace, name),
        target,
        dry_run: false,
        rules: rules.to_vec(),
    }
}

fn account(namespace: &str, name: &str) -> Source {
    Source::ServiceAccount {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn network(text: &str) -> Source {
    Source::Network(text.parse().expect("a network"))
}

fn with(policies: &[AuthorizationPolicy]) -> World {
    World {
        policies: policies.iter().cloned().map(Arc::new).collect(),
        ..shop()
    }
}

fn permissive(world: World) -> World {
    World {
        default_mtls: MtlsMode::Permissive,
        ..world
    }
}

/// Asks whether `caller` (an identity, or nothing for a caller in clear) at 10.1.0.2 may reach port 8080 of web-v1.shop.
fn ask(world: &World, caller: &str) -> Result<Permit, Denied> {
    ask_port(world, caller, 8080)
}

fn ask_port(world: &World, caller: &str, port: u16) -> Result<Permit, Denied> {
    let snapshot = Snapshot::new(world.clone());
    let workload = snapshot
        .workload(&Name::new("shop", "web-v1"))
        .expect("of the shop");
    let address = addr("10.1.0.2:0").ip();
    let identity = (!caller.is_empty()).then(|| caller.parse().expect("an identity"));
    let caller = match &identity {
        Some(identity) => Caller::Authenticated { identity, address },
        None => Caller::Anonymous { address },
    };
    let destination = AppAddr(addr(&format!("10.2.0.3:{port}")));
    authorize(&snapshot, caller, workload, destination)
}

fn check(world: World, caller: &str, expected: &str) {
    let told = match ask(&world, caller) {
        Ok(permit) => match permit.would_deny() {
            None => format!("allowed: {}", permit.rule()),
            Some(rule) => format!("allowed: {} (dry run: {rule})", permit.rule()),
        },
        Err(denied) => format!("{}: {}", denied.reason.label(), denied.rule),
    };
    assert_eq!(told, expected, "{caller:?}");
}

const CLIENT: &str = "spiffe://demo.warren/ns/shop/sa/client";
const OTHER: &str = "spiffe://demo.warren/ns/ops/sa/robot";
const FOREIGN: &str = "spiffe://elsewhere/ns/shop/sa/client";

#[test]
fn without_a_policy_the_mesh_is_open_to_itself() {
    check(shop(), CLIENT, "allowed: no policy selects web-v1.shop");
    check(
        shop(),
        FOREIGN,
        "no_rule_allows: no policy selects web-v1.shop, and spiffe://elsewhere/ns/shop/sa/client is not of demo.warren",
    );
    check(shop(), "", "plaintext_refused: mtls strict (default)");
    check(
        permissive(shop()),
        "",
        "allowed: no policy selects web-v1.shop",
    );
}

#[test]
fn an_allow_rule_admits_whom_it_names_and_nobody_else() {
    let only_client = rule(
        "client-only",
        Action::Allow,
        &[account("shop", "client")],
        &[],
    );
    let world = with(&[policy(
        "web-callers.shop",
        Target::Workload("web-v1".to_owned()),
        &[only_client],
    )]);
    check(
        world.clone(),
        CLIENT,
        "allowed: policy web-callers.shop rule client-only",
    );
    check(
        world.clone(),
        OTHER,
        "no_rule_allows: policy web-callers.shop (no rule allows spiffe://demo.warren/ns/ops/sa/robot)",
    );
    check(
        world.clone(),
        FOREIGN,
        "no_rule_allows: policy web-callers.shop (no rule allows spiffe://elsewhere/ns/shop/sa/client)",
    );
    check(
        permissive(world),
        "",
        "no_rule_allows: policy web-callers.shop (no rule allows 10.1.0.2 without an identity)",
    );
}

#[test]
fn deny_wins_over_every_allow() {
    let all = rule("all", Action::Allow, &[], &[]);
    let wide = rule("network", Action::Deny, &[network("10.0.0.0/8")], &[]);
    let narrow = rule("narrow", Action::Allow, &[network("10.1.0.2/32")], &[]);
    for order in [[0, 1], [1, 0]] {
        let policies = [
            policy(
                "open.shop",
                Target::Namespace,
                &[all.clone(), narrow.clone()],
            ),
            policy(
                "closed.shop",
                Target::Namespace,
                std::slice::from_ref(&wide),
            ),
        ];
        let world = with(&order.map(|index| policies[index].clone()));
        check(
            world,
            CLIENT,
            "policy_denied: policy closed.shop rule network",
        );
    }
}

#[test]
fn a_policy_without_rules_denies_everything() {
    let world = with(&[policy("closed.shop", Target::Namespace, &[])]);
    let expected = format!("no_rule_allows: policy closed.shop (no rule allows {CLIENT})");
    check(world, CLIENT, &expected);
}

#[test]
fn a_policy_selects_only_in_its_namespace() {
    let deny = rule("all", Action::Deny, &[], &[]);
    for target in [
        Target::Namespace,
        Target::Workload("web-v1".to_owned()),
        Target::Labels(labels(&[("app", "web")])),
    ] {
        let world = with(&[policy("away.ops", target, std::slice::from_ref(&deny))]);
        check(world, CLIENT, "allowed: no policy selects web-v1.shop");
    }
}

#[test]
fn targets_select_exactly() {
    let deny = rule("all", Action::Deny, &[], &[]);
    let service = |names: &[&str]| Target::Workloads {
        service: "web".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let cases = [
        (Target::Namespace, true),
        (Target::Workload("web-v1".to_owned()), true),
        (Target::Workload("web".to_owned()), false),
        (
            Target::Labels(labels(&[("app", "web"), ("version", "v1")])),
            true,
        ),
        (Target::Labels(labels(&[("version", "v2")])), false),
        (service(&["web-v2", "web-v1"]), true),
        (service(&["web-v2"]), false),
        (service(&[]), false),
    ];
    for (target, selected) in cases {
        let told = format!("{target:?}");
        let world = with(&[policy("any.shop", target, std::slice::from_ref(&deny))]);
        assert_eq!(ask(&world, CLIENT).is_err(), selected, "{told}");
    }
}

#[test]
fn sources_match_exactly() {
    let exact = |text: &str| Source::Identity(text.parse().expect("an identity"));
    let cases = [
        (Source::Authenticated, CLIENT, true),
        (Source::Authenticated, FOREIGN, false),
        (Source::Authenticated, "", false),
        (Source::Namespace("shop".to_owned()), CLIENT, true),
        (Source::Namespace("shop".to_owned()), FOREIGN, false),
        (Source::Namespace("sho".to_owned()), CLIENT, false),
        (Source::Namespace("shop".to_owned()), "", false),
        (account("shop", "client"), CLIENT, true),
        (account("shop", "clien"), CLIENT, false),
        (account("shop", "client"), FOREIGN, false),
        (account("shop", "client"), "", false),
        (exact(FOREIGN), FOREIGN, true),
        (exact(CLIENT), FOREIGN, false),
        (exact(CLIENT), "", false),
        (network("10.1.0.0/16"), CLIENT, true),
        (network("10.1.0.0/16"), "", true),
        (network("10.2.0.0/16"), "", false),
        (network("::/0"), "", false),
    ];
    for (source, caller, allowed) in cases {
        let told = format!("{source:?} {caller:?}");
        let allow = rule("it", Action::Allow, &[source], &[]);
        let world = permissive(with(&[policy("any.shop", Target::Namespace, &[allow])]));
        assert_eq!(ask(&world, caller).is_ok(), allowed, "{told}");
    }
}

#[test]
fn a_mapped_address_is_the_address_it_maps() {
    let allow = rule("it", Action::Allow, &[network("10.1.0.0/16")], &[]);
    let world = permissive(with(&[policy("any.shop", Target::Namespace, &[allow])]));
    let snapshot = Snapshot::new(world);
    let workload = Arc::clone(&snapshot.world.workloads[1]);
    let address = addr("[::ffff:10.1.0.2]:0").ip();
    let destination = AppAddr(addr("10.2.0.3:8080"));
    authorize(
        &snapshot,
        Caller::Anonymous { address },
        &workload,
        destination,
    )
    .expect("the same");
}

#[test]
fn ports_are_the_destination_applications() {
    let allow = rule("web", Action::Allow, &[], &[8080, 8081]);
    let world = with(&[policy("any.shop", Target::Namespace, &[allow])]);
    for (port, allowed) in [(8080, true), (8081, true), (80, false), (9100, false)] {
        assert_eq!(ask_port(&world, CLIENT, port).is_ok(), allowed, "{port}");
    }
}

#[test]
fn a_dry_run_says_what_it_would_deny_and_denies_nothing() {
    let trial = |rules: &[Rule]| AuthorizationPolicy {
        dry_run: true,
        ..policy("trial.shop", Target::Namespace, rules)
    };
    let allow = rule("all", Action::Allow, &[], &[]);
    let deny = rule("robots", Action::Deny, &[account("ops", "robot")], &[]);
    let enforced = policy("open.shop", Target::Namespace, &[allow]);
    check(
        with(&[trial(std::slice::from_ref(&deny))]),
        OTHER,
        "allowed: no policy selects web-v1.shop (dry run: policy trial.shop rule robots)",
    );
    check(
        with(&[trial(&[])]),
        CLIENT,
        "allowed: no policy selects web-v1.shop (dry run: policy trial.shop (no rule allows spiffe://demo.warren/ns/shop/sa/client))",
    );
    check(
        with(&[trial(&[deny]), enforced]),
        CLIENT,
        "allowed: policy open.shop rule all",
    );
}

#[test]
fn a_permit_is_asked_again_under_another_world() {
    let permit = ask(&shop(), CLIENT).expect("open");
    assert_eq!(permit.generation(), 7);
    assert_eq!(permit.destination(), AppAddr(addr("10.2.0.3:8080")));

    let mut later = shop();
    later.generation = 8;
    let again = permit.recheck(&Snapshot::new(later)).expect("still open");
    assert_eq!(again.generation(), 8);

    let closed = with(&[policy("closed.shop", Target::Namespace, &[])]);
    let denied = again
        .recheck(&Snapshot::new(closed))
        .expect_err("closed now");
    assert_eq!(denied.reason, Reason::PolicyRevoked);
    assert!(
        denied.rule.starts_with("policy closed.shop"),
        "{}",
        denied.rule
    );

    let mut without = shop();
    without.workloads.truncate(1);
    let denied = again.recheck(&Snapshot::new(without)).expect_err("gone");
    assert_eq!(denied.rule, "workload web-v1.shop left the mesh");

    let clear = ask(&permissive(shop()), "").expect("permissive");
    let denied = clear
        .recheck(&Snapshot::new(shop()))
        .expect_err("strict now");
    assert_eq!(denied.rule, "mtls strict (default)");
}

#[test]
fn the_most_specific_mtls_rule_speaks() {
    let exception = |name: &str, target: Target, ports: &[u16], mode: MtlsMode| MtlsRule {
        name: Name::new("shop", name),
        target,
        ports: ports.to_vec(),
        mode,
    };
    let web = || Target::Labels(labels(&[("app", "web")]));
    let v1 = || Target::Workload("web-v1".to_owned());
    let rules = [
        exception("namespace", Target::Namespace, &[], MtlsMode::Permissive),
        exception("labels", web(), &[], MtlsMode::Strict),
        exception("labels-metrics", web(), &[9100], MtlsMode::Permissive),
        exception("equal-metrics", web(), &[9100], MtlsMode::Strict),
        exception("workload", v1(), &[9200], MtlsMode::Permissive),
    ];
    let world = World {
        mtls: rules.to_vec(),
        ..shop()
    };
    let snapshot = Snapshot::new(world);
    let mut told = Vec::new();
    for (name, port) in [
        ("client", 1),
        ("web-v1", 1),
        ("web-v1", 9100),
        ("web-v1", 9200),
    ] {
        let workload = snapshot.workload(&Name::new("shop", name)).expect("there");
        let (mode, rule) = mtls_mode(&snapshot, workload, port);
        told.push(describe_mtls(mode, rule));
    }
    assert_eq!(
        told,
        [
            "mtls permissive (rule namespace.shop)",
            "mtls strict (rule labels.shop)",
            "mtls strict (rule equal-metrics.shop)",
            "mtls permissive (rule workload.shop)",
        ]
    );
    assert_eq!(identity("shop", "client").to_string(), CLIENT);
}
