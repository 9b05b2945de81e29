//! Which pods are workloads, and as what.

use super::Cluster;

/// A pod of namespace `shop` with more of what the manifest says.
fn pod(more: &str) -> String {
    format!("{{kind: Pod, metadata: {{name: web-0, uid: u1}}, {more}}}")
}

const RUNS: &str = "spec: {nodeName: a, serviceAccountName: web}, status: {phase: Running, podIP: 10.1.0.5, podIPs: [{ip: 10.1.0.5}]}";

#[track_caller]
fn check(manifests: &str, expected: &[&str]) {
    let mut cluster = Cluster::new();
    cluster.apply(manifests);
    assert_eq!(cluster.told(&["workload"]), expected, "{manifests}");
}

#[test]
fn the_label_decides_and_the_pods_own_beats_its_namespaces() {
    let told: &[&str] = &["web-0.shop as web on a uid u1 at [10.1.0.5] {}"];
    check(&pod(RUNS), told);
    for (namespace, own, expected) in [
        ("shop", "", true),
        ("shop", "enabled", true),
        ("shop", "disabled", false),
        // What is not understood says nothing.
        ("shop", "true", true),
        ("plain", "", false),
        ("plain", "enabled", true),
        ("plain", "disabled", false),
        ("plain", "true", false),
        ("not-there-yet", "", false),
        ("not-there-yet", "enabled", true),
        // Warren itself is never of the mesh.
        ("warren-system", "enabled", false),
    ] {
        let mut cluster = Cluster::new();
        cluster.apply(
            "{kind: Namespace, metadata: {name: warren-system, labels: {warren.dev/mesh: enabled}}}",
        );
        let label = if own.is_empty() {
            "{}".to_owned()
        } else {
            format!("{{warren.dev/mesh: '{own}'}}")
        };
        cluster.apply(&format!(
            "{{kind: Pod, metadata: {{name: web-0, namespace: {namespace}, uid: u1, labels: {label}}}, {RUNS}}}"
        ));
        let is_told = !cluster.told(&["workload"]).is_empty();
        assert_eq!(is_told, expected, "{namespace} {own}");
    }
}

#[test]
fn what_cannot_be_a_workload_is_not_told() {
    for (why, more) in [
        (
            "it shares the node's network",
            "spec: {nodeName: a, hostNetwork: true}, status: {podIP: 10.0.0.1}",
        ),
        (
            "it has ended",
            "spec: {nodeName: a}, status: {phase: Succeeded, podIP: 10.1.0.5}",
        ),
        (
            "it has failed",
            "spec: {nodeName: a}, status: {phase: Failed, podIP: 10.1.0.5}",
        ),
        (
            "it is on no node: without one it would be everybody's",
            "spec: {}, status: {phase: Pending}",
        ),
    ] {
        let mut cluster = Cluster::new();
        cluster.apply(&pod(more));
        assert_eq!(cluster.told(&["workload"]), [""; 0], "{why}");
    }
}

#[test]
fn a_pod_is_told_before_it_has_an_address_and_until_it_is_gone() {
    let mut cluster = Cluster::new();
    cluster.apply(&pod("spec: {nodeName: a}, status: {phase: Pending}"));
    assert_eq!(
        cluster.told(&["workload"]),
        ["web-0.shop as default on a uid u1 at [] {}"]
    );
    cluster.apply(&pod(RUNS));
    let told = ["web-0.shop as web on a uid u1 at [10.1.0.5] {}"];
    assert_eq!(cluster.told(&["workload"]), told);
    let ending =
        "{kind: Pod, metadata: {name: web-0, uid: u1, deletionTimestamp: '2026-01-01T00:00:00Z'}, ";
    cluster.apply(&format!("{ending}{RUNS}}}"));
    assert_eq!(cluster.told(&["workload"]), told, "its connections go on");
    let change = cluster.delete(&pod(RUNS));
    assert_eq!((change.set.len(), change.removed.len()), (0, 1));
    assert_eq!(cluster.told(&["workload"]), [""; 0]);
}

#[test]
fn both_families_are_told_and_ipv4_first() {
    check(
        &pod(
            "spec: {nodeName: a}, status: {podIP: 'fd00::5', podIPs: [{ip: 'fd00::5'}, {ip: 10.1.0.5}]}",
        ),
        &["web-0.shop as default on a uid u1 at [10.1.0.5, fd00::5] {}"],
    );
    check(
        &pod(
            "spec: {nodeName: a}, status: {podIPs: [{ip: '::ffff:10.1.0.5'}, {ip: 127.0.0.1}, {ip: nonsense}]}",
        ),
        &["web-0.shop as default on a uid u1 at [10.1.0.5] {}"],
    );
}

#[test]
fn an_address_that_was_given_away_again_belongs_to_the_pod_that_has_it_now() {
    let mut cluster = Cluster::new();
    let ending = |created: &str| {
        format!(
            "{{kind: Pod, metadata: {{name: old, uid: u0, creationTimestamp: '{created}', deletionTimestamp: '2026-01-02T00:00:00Z'}}, {RUNS}}}"
        )
    };
    let young = format!(
        "{{kind: Pod, metadata: {{name: new, uid: u1, creationTimestamp: '2026-01-01T00:00:00Z'}}, {RUNS}}}"
    );
    // The one that ends gives way, even if it were the younger one.
    cluster.apply(&ending("2026-01-01T00:00:09Z"));
    cluster.apply(&young);
    let told = [
        "new.shop as web on a uid u1 at [10.1.0.5] {}",
        "old.shop as web on a uid u0 at [] {}",
    ];
    assert_eq!(cluster.told(&["workload"]), told);
    // A pod outside the mesh has it as well.
    cluster.apply(&young.replace("uid: u1,", "uid: u1, labels: {warren.dev/mesh: disabled},"));
    assert_eq!(cluster.told(&["workload"]), [told[1]]);
    cluster.delete(&young);
    assert_eq!(
        cluster.told(&["workload"]),
        ["old.shop as web on a uid u0 at [10.1.0.5] {}"]
    );
}

#[test]
fn udp_is_let_through_where_an_annotation_says_so() {
    let mut cluster = Cluster::new();
    cluster.apply(
        "{kind: Namespace, metadata: {name: shop, labels: {warren.dev/mesh: enabled}, annotations: {warren.dev/udp: allow}}}",
    );
    cluster.apply(&pod(RUNS));
    assert_eq!(
        cluster.told(&["workload"]),
        ["web-0.shop as web on a uid u1 at [10.1.0.5] {} udp"]
    );
    cluster.apply(&pod(RUNS).replace("uid: u1", "uid: u1, annotations: {warren.dev/udp: deny}"));
    assert_eq!(
        cluster.told(&["workload"]),
        ["web-0.shop as web on a uid u1 at [10.1.0.5] {}"]
    );
}

#[test]
fn namespaces_are_told_with_what_decides_about_their_pods() {
    let mut cluster = Cluster::new();
    assert_eq!(
        cluster.told(&["namespace"]),
        ["plain not meshed", "shop meshed"]
    );
    let opted_in = "{kind: Pod, metadata: {name: p, namespace: plain, uid: u9, labels: {warren.dev/mesh: enabled}}, spec: {nodeName: a}}";
    cluster.apply(opted_in);
    assert_eq!(
        cluster.told(&["namespace"]),
        ["plain not meshed, pods opt in", "shop meshed"]
    );
    cluster.delete(opted_in);
    cluster.delete("{kind: Namespace, metadata: {name: shop}}");
    assert_eq!(cluster.told(&["namespace"]), ["plain not meshed"]);
}

#[test]
fn a_change_of_the_namespaces_label_concerns_its_pods_and_no_others() {
    let mut cluster = Cluster::new();
    cluster.apply(&pod(RUNS));
    cluster.apply(
        &pod(RUNS)
            .replace("web-0", "web-1")
            .replace("name: web-1", "name: web-1, namespace: plain"),
    );
    let change = cluster.apply("{kind: Namespace, metadata: {name: shop}}");
    assert_eq!(
        (change.set.len(), change.removed.len()),
        (1, 1),
        "{change:?}"
    );
    let change = cluster
        .apply("{kind: Namespace, metadata: {name: shop, labels: {warren.dev/mesh: enabled}}}");
    assert_eq!(
        (change.set.len(), change.removed.len()),
        (2, 0),
        "{change:?}"
    );
}
