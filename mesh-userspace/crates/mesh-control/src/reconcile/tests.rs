use std::net::SocketAddr;
use std::path::Path;

use mesh_core::addr::AppAddr;
use mesh_core::policy::{Caller, authorize};
use mesh_core::snapshot::Snapshot;

use super::*;
use crate::Evaluated;

const BASE: &str = "\
apiVersion: warren.dev/v1alpha1
node: {name: a}
trustDomain: demo.warren
workloads:
  - {name: client, namespace: shop, select: {networkNamespace: /run/netns/client}}
  - {name: web, namespace: shop, node: b, addresses: [10.2.0.3], labels: {app: web}}
  - {name: other, namespace: shop, node: b, addresses: [10.2.0.5]}
  - {name: away, namespace: ops, node: b, addresses: [10.3.0.3]}
services:
  - {name: web, namespace: shop, addresses: [10.200.0.9], ports: [{port: 80, targetPort: 8080}], endpoints: [{workload: web}]}
";

fn evaluate(text: &str, previous: Option<&Objects>) -> Evaluated {
    crate::evaluate(Path::new("test.yaml"), text.as_bytes(), None, previous)
}

fn good(text: &str) -> Objects {
    let evaluated = evaluate(text, None);
    assert!(evaluated.report.rejected.is_empty(), "{}", evaluated.report);
    evaluated.objects.expect("usable")
}

/// Whether the client may reach port 8080 of a workload.
fn may(objects: &Objects, name: &str) -> bool {
    let snapshot = Snapshot::new(objects.world(1, "a", &Discovered::new()));
    let identity = "spiffe://demo.warren/ns/shop/sa/client"
        .parse()
        .expect("an identity");
    let (name, namespace) = name.split_once('.').expect("name.namespace");
    let workload = snapshot
        .workload(&Name::new(namespace, name))
        .expect("there");
    let caller = Caller::Authenticated {
        identity: &identity,
        address: "10.1.0.2".parse().expect("an address"),
    };
    let destination = AppAddr(SocketAddr::new(workload.addresses[0], 8080));
    authorize(&snapshot, caller, workload, destination).is_ok()
}

#[test]
fn a_good_file_becomes_a_world() {
    let objects = good(BASE);
    let world = objects.world(3, "a", &Discovered::new());
    assert_eq!(world.generation, 3);
    let names: Vec<String> = world
        .workloads
        .iter()
        .map(|item| item.name.to_string())
        .collect();
    assert_eq!(names, ["client.shop", "web.shop", "other.shop", "away.ops"]);
    assert_eq!(
        world.workloads[1].identity.to_string(),
        "spiffe://demo.warren/ns/shop/sa/web"
    );
    let endpoint = &world.services[0].endpoints[0];
    assert_eq!(
        endpoint
            .workload
            .as_ref()
            .map(|workload| workload.name.name.as_str()),
        Some("web")
    );
    let local = objects.local("a");
    assert_eq!(local.len(), 1);
    assert_eq!(
        local[0].select,
        Selector::NetworkNamespace("/run/netns/client".into())
    );
    assert!(
        objects.local("c").len() == 1,
        "a workload without a node is of whoever reads"
    );
    assert_eq!(
        objects.local("b").len(),
        1,
        "what another node runs has no selector here"
    );
}

#[test]
fn discovered_addresses_are_those_of_local_workloads_and_taken_from_nobody() {
    let objects = good(BASE);
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let discovered: Discovered = [
        (
            Name::new("shop", "client"),
            vec![
                address("fd01::2"),
                address("10.1.0.2"),
                address("127.0.0.1"),
                address("fe80::1"),
                address("10.2.0.3"),
                address("10.200.0.9"),
            ],
        ),
        (Name::new("shop", "web"), vec![address("10.9.9.9")]),
    ]
    .into();
    let world = objects.world(1, "a", &discovered);
    assert_eq!(
        world.workloads[0].addresses,
        [address("10.1.0.2"), address("fd01::2")]
    );
    assert_eq!(world.workloads[1].addresses, [address("10.2.0.3")]);
}

#[test]
fn one_bad_object_rejects_only_itself_and_keeps_its_last_good_version() {
    let before = good(BASE);
    for (find, replace, kind) in [
        (
            "addresses: [10.2.0.3]",
            "addresses: [10.2.0.333]",
            Kind::Workload,
        ),
        ("labels: {app: web}", "labels: 5", Kind::Workload),
        (
            "{networkNamespace: /run/netns/client}",
            "{}",
            Kind::Workload,
        ),
        (
            "ports: [{port: 80, targetPort: 8080}]",
            "ports: []",
            Kind::Service,
        ),
        (
            "endpoints: [{workload: web}]",
            "endpoints: 7",
            Kind::Service,
        ),
    ] {
        let evaluated = evaluate(&BASE.replace(find, replace), Some(&before));
        let report = &evaluated.report;
        let kinds: Vec<Kind> = report
            .rejected
            .iter()
            .map(|rejected| rejected.kind)
            .collect();
        assert_eq!(kinds, [kind], "{replace}: {report}");
        assert_eq!(report.rejected[0].consequence, KEPT, "{replace}");
        let mut after = evaluated.objects.expect("usable");
        after
            .workloads
            .sort_by(|left, right| left.name.cmp(&right.name));
        let mut expected = before.clone();
        expected
            .workloads
            .sort_by(|left, right| left.name.cmp(&right.name));
        assert_eq!(after, expected, "{replace}");
    }
}

#[test]
fn a_workload_whose_name_became_unreadable_stays() {
    let before = good(BASE);
    let text = BASE.replace("name: client", "name: Cli_ent");
    let after = evaluate(&text, Some(&before)).objects.expect("usable");
    assert_eq!(
        after.local("a").len(),
        1,
        "it would speak in clear otherwise"
    );
    let gone: String = BASE
        .lines()
        .filter(|line| !line.contains("client"))
        .fold(String::new(), |text, line| text + line + "\n");
    let after = evaluate(&gone, Some(&before)).objects.expect("usable");
    assert_eq!(
        after.local("a").len(),
        0,
        "what is taken out on purpose is out"
    );
}

#[test]
fn what_another_object_has_taken_over_does_not_come_back() {
    let before = good(BASE);
    let text = BASE
        .replace(
            "name: other, namespace: shop, node: b, addresses: [10.2.0.5]",
            "name: new, namespace: shop, node: b, addresses: [10.2.0.3]",
        )
        .replace(
            "addresses: [10.2.0.3], labels: {app: web}",
            "addresses: [], labels: {app: web}",
        );
    let evaluated = evaluate(&text, Some(&before));
    let consequence = &evaluated.report.rejected[0].consequence;
    assert!(
        consequence.starts_with("it is left out: another object"),
        "{consequence}"
    );
}

/// A policy in the file, and which of web.shop, other.shop and away.ops the client may reach then.
fn check_policy(policy: &str, expected: [bool; 3]) {
    let text = format!("{BASE}policies:\n{policy}\n");
    let evaluated = evaluate(&text, None);
    let objects = evaluated
        .objects
        .unwrap_or_else(|| panic!("{policy}: {}", evaluated.report));
    let told = ["web.shop", "other.shop", "away.ops"].map(|name| may(&objects, name));
    assert_eq!(told, expected, "{policy}\n{}", evaluated.report);
}

#[test]
fn a_bad_policy_closes_what_it_was_about() {
    let allow = "rules: [{action: allow, from: [{serviceAccount: shop/client}]}]";
    check_policy("  []", [true, true, true]);
    let good = format!("  - {{name: p, namespace: shop, target: {{service: web}}, {allow}}}");
    check_policy(&good, [true, true, true]);
    // Unreadable inside, readable target.
    for target in ["{service: web}", "{workload: web}", "{labels: {app: web}}"] {
        let policy = format!(
            "  - {{name: p, namespace: shop, target: {target}, rules: [{{action: permit}}]}}"
        );
        check_policy(&policy, [false, true, true]);
        let policy = format!(
            "  - {{name: p, namespace: shop, target: {target}, rules: [{{action: allow, from: []}}]}}"
        );
        check_policy(&policy, [false, true, true]);
    }
    // Unreadable or dangling target: the namespace.
    for target in [
        "{service: wbe}",
        "{srevice: web}",
        "{service: web, workload: web}",
        "5",
    ] {
        let policy = format!("  - {{name: p, namespace: shop, target: {target}, {allow}}}");
        check_policy(&policy, [false, false, true]);
    }
    // Without a readable name too.
    let policy = format!("  - {{name: P P, namespace: shop, target: {{service: web}}, {allow}}}");
    check_policy(&policy, [false, true, true]);
    // A dry run closes nothing, good or bad.
    check_policy(
        "  - {name: p, namespace: shop, dryRun: true, rules: [{action: permit}]}",
        [true, true, true],
    );
}

#[test]
fn a_bad_policy_with_a_deny_rule_denies_even_what_others_allow() {
    let open = "  - {name: open, namespace: shop, rules: [{action: allow}]}";
    let bad = "  - {name: p, namespace: shop, target: {service: web}, rules: [{action: deny, from: [{network: 10.0.0.300/8}]}]}";
    check_policy(&format!("{open}\n{bad}"), [false, true, true]);
    let bad = "  - {name: p, namespace: shop, target: {service: web}, rules: [{action: allow, from: [{network: 10.0.0.300/8}]}]}";
    check_policy(&format!("{open}\n{bad}"), [true, true, true]);
}

#[test]
fn a_duplicate_policy_opens_nothing() {
    let first = "  - {name: p, namespace: shop, target: {service: web}, rules: []}";
    let second = "  - {name: p, namespace: shop, target: {service: web}, rules: [{action: allow}]}";
    check_policy(&format!("{first}\n{second}"), [false, true, true]);
    check_policy(&format!("{second}\n{first}"), [true, true, true]);
    let deny = "  - {name: p, namespace: shop, target: {service: web}, rules: [{action: deny, from: [{namespace: shop}]}]}";
    check_policy(&format!("{second}\n{deny}"), [false, true, true]);
}

#[test]
fn a_policy_whose_namespace_is_unreadable_rejects_the_file() {
    for policy in ["  - {name: p, namespace: S, rules: []}", "  - 5"] {
        let evaluated = evaluate(&format!("{BASE}policies:\n{policy}\n"), None);
        assert!(evaluated.objects.is_none(), "{policy}");
        assert!(!evaluated.report.usable);
    }
}

#[test]
fn a_policy_for_a_rejected_service_still_closes_its_workloads() {
    let text = BASE.replace("ports: [{port: 80, targetPort: 8080}]", "ports: []");
    let policy = "policies:\n  - {name: p, namespace: shop, target: {service: web}, rules: []}\n";
    let objects = evaluate(&format!("{text}{policy}"), None)
        .objects
        .expect("usable");
    assert!(!may(&objects, "web.shop"));
    assert!(may(&objects, "other.shop"));
}

#[test]
fn a_bad_strict_exception_stays_strict_and_a_bad_permissive_one_opens_nothing() {
    let strict_in_place = |exception: &str| {
        let mtls = format!("mtls: {{mode: permissive, exceptions: [{exception}]}}\n");
        let objects = evaluate(&format!("{BASE}{mtls}"), None)
            .objects
            .expect("usable");
        let snapshot = Snapshot::new(objects.world(1, "a", &Discovered::new()));
        let workload = snapshot.workload(&Name::new("shop", "web")).expect("there");
        let (mode, _) = mesh_core::policy::mtls_mode(&snapshot, workload, 8080);
        mode == mesh_core::policy::MtlsMode::Strict
    };
    assert!(strict_in_place(
        "{name: e, namespace: shop, target: {workload: web}, mode: strict}"
    ));
    assert!(strict_in_place(
        "{name: E, namespace: shop, target: {workload: web}, mode: strict}"
    ));
    assert!(strict_in_place(
        "{name: e, namespace: shop, target: {workload: wbe}, mode: stirct}"
    ));
    assert!(!strict_in_place(
        "{name: e, namespace: shop, target: {workload: wbe}, mode: permissive}"
    ));
}
