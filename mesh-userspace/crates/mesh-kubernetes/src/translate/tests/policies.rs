//! Policies: what they come to, and what stands in for bad ones.

use super::Cluster;

/// An AuthorizationPolicy `guard` with this specification.
fn guard(spec: &str) -> String {
    format!(
        "{{kind: AuthorizationPolicy, metadata: {{name: guard, generation: 3}}, spec: {{{spec}}}}}"
    )
}

const WEB: &str = "targetRefs: [{kind: Pod, selector: {matchLabels: {app: web}}}]";

#[track_caller]
fn check(spec: &str, told: &[&str], said: &str) {
    let mut cluster = Cluster::new();
    cluster.apply("{kind: Service, metadata: {name: web}, spec: {selector: {app: web, tier: front}, clusterIP: 10.96.0.9, ports: [{port: 80}]}}");
    cluster.apply("{kind: Service, metadata: {name: manual}, spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}}");
    cluster.apply(&guard(spec));
    assert_eq!(cluster.told(&["policy"]), told, "{spec}");
    assert_eq!(
        cluster.said("AuthorizationPolicy guard.shop"),
        [said],
        "{spec}"
    );
}

#[test]
fn sources_of_every_type() {
    check(
        &format!(
            "{WEB}, action: ALLOW, rules: [{{name: callers, sources: [
                {{type: ServiceAccount, serviceAccount: {{name: client}}}},
                {{type: ServiceAccount, serviceAccount: {{namespace: bank, name: '*'}}}},
                {{type: SPIFFE, spiffe: 'spiffe://other.org/ns/a/sa/b'}},
                {{type: Namespace, namespace: ops}},
                {{type: Network, network: 10.0.0.0/8}},
                {{type: Authenticated}}
            ], networkAttributes: {{ports: [9090, 8080]}}}}, {{}}]"
        ),
        &[
            "guard.shop on {app=web}: callers allow [shop/client, bank/*, spiffe://other.org/ns/a/sa/b, ops/*, 10.0.0.0/8, authenticated] to [8080, 9090], 1 allow [] to []",
        ],
        "Accepted; ResolvedRefs; whole",
    );
}

#[test]
fn targets() {
    for (targets, expected) in [
        (
            "[{kind: Pod, selector: {}}]",
            vec!["guard.shop on the namespace: "],
        ),
        (
            "[{kind: Service, name: web}]",
            vec!["guard.shop on {app=web, tier=front}: "],
        ),
        (
            "[{group: '', kind: Pod, selector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: In, values: [d]}]}}, {kind: Service, name: web}]",
            vec![
                "guard.shop on {a=b, c=d}: ",
                "guard:web.shop on {app=web, tier=front}: ",
            ],
        ),
    ] {
        check(
            &format!("targetRefs: {targets}, action: ALLOW"),
            &expected,
            "Accepted; ResolvedRefs; whole",
        );
    }
}

#[test]
fn deny_and_dry_run_say_what_they_mean() {
    check(
        &format!(
            "{WEB}, action: DENY, rules: [{{sources: [{{type: Namespace, namespace: dev}}]}}]"
        ),
        &["guard.shop on {app=web}: 0 deny [dev/*] to []"],
        "Accepted (the pods that it selects are closed to all whom no ALLOW policy allows); ResolvedRefs; whole",
    );
    check(
        &format!("{WEB}, action: ALLOW, dryRun: true"),
        &["guard.shop (dry run) on {app=web}: "],
        "Accepted (dry run: what it would deny is reported, nothing is denied); ResolvedRefs; whole",
    );
}

#[test]
fn an_empty_list_of_sources_matches_none() {
    check(
        &format!(
            "{WEB}, action: ALLOW, rules: [{{sources: []}}, {{sources: [{{type: Authenticated}}]}}]"
        ),
        &["guard.shop on {app=web}: 1 allow [authenticated] to []"],
        "Accepted; ResolvedRefs; whole",
    );
}

#[test]
fn a_target_that_is_not_there_selects_nothing_and_says_so() {
    check(
        "targetRefs: [{kind: Service, name: gone}, {kind: Service, name: manual}], action: ALLOW",
        &[],
        "Accepted; !TargetNotFound (spec.targetRefs[0]: there is no service gone in namespace shop, so nothing is selected by it; spec.targetRefs[1]: service manual has no selector, so it does not say which pods are behind it; select them by labels (kind: Pod)); whole",
    );
    // It applies as soon as the service is there, and follows its selector.
    let mut cluster = Cluster::new();
    cluster.apply(&guard(
        "targetRefs: [{kind: Service, name: web}], action: ALLOW",
    ));
    assert_eq!(cluster.told(&["policy"]), [""; 0]);
    let service = "{kind: Service, metadata: {name: web}, spec: {selector: {app: web}, clusterIP: 10.96.0.9, ports: [{port: 80}]}}";
    cluster.apply(service);
    assert_eq!(cluster.told(&["policy"]), ["guard.shop on {app=web}: "]);
    cluster.apply(&service.replace("app: web", "app: shop"));
    assert_eq!(cluster.told(&["policy"]), ["guard.shop on {app=shop}: "]);
}

#[test]
fn a_bad_policy_denies_its_target_and_says_where_it_is_wrong() {
    for (spec, told, said) in [
        (
            format!("{WEB}, action: ALLOW, rules: [{{sources: [{{type: SPIFFE, spiffe: 'spiffe://x/y'}}]}}]"),
            "guard.shop on {app=web}: ",
            "!Invalid (spec.rules[0].sources[0].spiffe: \"spiffe://x/y\" is not a workload identity; the form is spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>; until it is mended, only other policies let anybody reach the workloads with its labels); ResolvedRefs; !Invalid",
        ),
        (
            format!("{WEB}, action: DENY, rules: [{{}}, {{networkAttributes: {{ports: [80, 0]}}}}]"),
            "guard.shop on {app=web}: rejected-policy-denies-all deny [] to []",
            "!Invalid (spec.rules[1].networkAttributes.ports[1]: a port is a number from 1 to 65535, not 0; until it is mended, nobody may reach the workloads with its labels); ResolvedRefs; !Invalid",
        ),
        (
            format!("{WEB}, action: ALLOW, rules: [{{sources: [{{type: Namespace, spiffe: 'spiffe://a/ns/b/sa/c'}}]}}]"),
            "guard.shop on {app=web}: ",
            "!Invalid (spec.rules[0].sources[0]: a source of type Namespace has the field namespace, and no other; given is spiffe; until it is mended, only other policies let anybody reach the workloads with its labels); ResolvedRefs; !Invalid",
        ),
        (
            "targetRefs: [{kind: Pod, selector: {matchExpressions: [{key: app, operator: NotIn, values: [a]}]}}], action: ALLOW".to_owned(),
            "guard.shop on the namespace: ",
            "!Invalid (spec.targetRefs[0]: the expression on label app cannot be used: only In with one value can; give the pods a label of their own and name it in matchLabels; until it is mended, only other policies let anybody reach every workload of namespace shop); ResolvedRefs; !Invalid",
        ),
        (
            "targetRefs: [{kind: Pod, name: web-0}], action: ALLOW".to_owned(),
            "guard.shop on the namespace: ",
            "!Invalid (spec.targetRefs[0]: a target of kind Pod has a selector, and no name; selector: {} means every pod of the namespace; until it is mended, only other policies let anybody reach every workload of namespace shop); ResolvedRefs; !Invalid",
        ),
        (
            "action: ALLOW, rules: []".to_owned(),
            "guard.shop on the namespace: ",
            "!Invalid (spec: missing field `targetRefs`; until it is mended, only other policies let anybody reach every workload of namespace shop); ResolvedRefs; !Invalid",
        ),
        (
            format!("{WEB}, action: deny"),
            "guard.shop on the namespace: rejected-policy-denies-all deny [] to []",
            "!Invalid (spec: unknown variant `deny`, expected `ALLOW` or `DENY`; until it is mended, nobody may reach every workload of namespace shop); ResolvedRefs; !Invalid",
        ),
    ] {
        check(&spec, &[told], said);
    }
}

#[test]
fn a_bad_dry_run_is_left_out() {
    for spec in [
        format!("{WEB}, action: ALLOW, dryRun: true, rules: [{{sources: [{{type: SPIFFE}}]}}]"),
        "action: ALLOW, dryRun: true".to_owned(),
    ] {
        let mut cluster = Cluster::new();
        cluster.apply(&guard(&spec));
        assert_eq!(cluster.told(&["policy"]), [""; 0]);
        let said = cluster.said("AuthorizationPolicy guard.shop").concat();
        assert!(
            said.starts_with("!Invalid (") && said.contains("it is left out"),
            "{said}"
        );
    }
}

#[test]
fn one_bad_policy_rejects_only_itself() {
    let mut cluster = Cluster::new();
    cluster.apply(&guard(&format!("{WEB}, action: ALLOW")).replace("guard", "good"));
    let change = cluster.apply(&guard(&format!(
        "{WEB}, action: ALLOW, rules: [{{sources: [{{type: SPIFFE}}]}}]"
    )));
    assert_eq!(change.set.len(), 1);
    assert_eq!(
        cluster.said("AuthorizationPolicy good.shop"),
        ["Accepted; ResolvedRefs; whole"]
    );
    cluster.delete(&guard(""));
    assert_eq!(cluster.told(&["policy"]), ["good.shop on {app=web}: "]);
    assert_eq!(cluster.said("AuthorizationPolicy guard.shop"), [""; 0]);
}

#[track_caller]
fn check_mesh(spec: &str, told: &[&str], said: &str) {
    let mut cluster = Cluster::new();
    cluster.apply(&format!(
        "{{kind: MeshPolicy, metadata: {{name: m}}, spec: {{{spec}}}}}"
    ));
    assert_eq!(cluster.told(&["mtls exception"]), told, "{spec}");
    assert_eq!(cluster.said("MeshPolicy m.shop"), [said], "{spec}");
}

#[test]
fn mesh_policies_say_where_mutual_tls_is_required() {
    let good = "Accepted; ResolvedRefs; whole";
    check_mesh(
        "mtls: {mode: permissive}",
        &["m.shop on the namespace []: Permissive"],
        good,
    );
    check_mesh(
        "targetRef: {kind: Pod, selector: {matchLabels: {app: web}}}, mtls: {mode: strict, ports: [9090, 9091]}",
        &["m.shop on {app=web} [9090, 9091]: Strict"],
        good,
    );
    check_mesh("{}".trim_matches(['{', '}']), &[], good);
    check_mesh(
        "targetRef: {kind: Service, name: gone}, mtls: {mode: strict}",
        &[],
        "Accepted; !TargetNotFound (spec.targetRef: there is no service gone in namespace shop, so nothing is selected by it); whole",
    );
}

#[test]
fn a_bad_mesh_policy_closes_what_it_may_have_closed() {
    check_mesh(
        "mtls: {mode: strict, ports: [70000]}",
        &["m.shop on the namespace []: Strict"],
        "!Invalid (spec.mtls.ports[0]: a port is a number from 1 to 65535, not 70000; until it is mended, mutual TLS is required in its place); ResolvedRefs; !Invalid",
    );
    check_mesh(
        "mtls: {mode: permissive, ports: []}",
        &[],
        "!Invalid (spec.mtls.ports: an empty list would mean every port; leave `ports` out if that is meant; it is left out); ResolvedRefs; !Invalid",
    );
    check_mesh(
        "mtls: {mode: none}",
        &["m.shop on the namespace []: Strict"],
        "!Invalid (spec: unknown variant `none`, expected `strict` or `permissive`; until it is mended, mutual TLS is required in its place); ResolvedRefs; !Invalid",
    );
    check_mesh(
        "mtls: {mode: permissive}, targetRef: {kind: Pod}",
        &[],
        "!Invalid (spec.targetRef: a target of kind Pod has a selector, and no name; selector: {} means every pod of the namespace; it is left out); ResolvedRefs; !Invalid",
    );
}

#[test]
fn reach_is_what_the_policies_of_a_namespace_say_together() {
    let mut cluster = Cluster::new();
    let policy = |name: &str, spec: &str| {
        format!("{{kind: MeshPolicy, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
    };
    cluster.apply(&policy("a", "reach: [bank]"));
    cluster.apply(&policy("b", "reach: [ops, bank]"));
    assert_eq!(
        cluster.told(&["namespace"]),
        ["plain not meshed", "shop meshed, reaches bank, ops"]
    );
    cluster.apply(&policy("b", "reach: []"));
    cluster.delete(&policy("a", ""));
    assert_eq!(
        cluster.told(&["namespace"]),
        ["plain not meshed", "shop meshed, reaches "]
    );
    cluster.apply(&policy(
        "b",
        "reach: [ops], targetRef: {kind: Pod, selector: {}}",
    ));
    assert_eq!(
        cluster.told(&["namespace"]),
        ["plain not meshed", "shop meshed"]
    );
    assert_eq!(
        cluster.said("MeshPolicy b.shop"),
        [
            "!Invalid (spec.reach: it is about the whole namespace, and left out here because of targetRef; put it into an object without one); ResolvedRefs; !Invalid"
        ]
    );
}
