//! What people read and type about clusters.

use clap::Parser;

use super::{PLAIN, written};
use crate::api::cluster::{
    ClusterStatus, ControllerStatus, NodeStatus, ObjectCounts, ObjectProblem,
};
use crate::cli::args::{Cli, Command};
use crate::cli::membership::{Change, Membership, Subject};
use crate::cli::{cluster_status, explain, get, kubectl};

fn namespace(name: &str) -> Subject {
    Subject::Namespace(name.to_owned())
}

fn pod(namespace: &str, name: &str) -> Subject {
    Subject::Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

#[test]
fn what_gets_a_label_is_named_like_everywhere() {
    let check = |typed: &str, expected: Subject| {
        assert_eq!(
            Subject::read(typed, "here").expect(typed),
            expected,
            "{typed}"
        );
    };
    check("shop", namespace("shop"));
    check("ns/shop", namespace("shop"));
    check("pod/a.b-1", pod("here", "a.b-1"));
    check("pod/shop/client", pod("shop", "client"));
    let refused = |typed: &str, expected: &str| {
        let error = Subject::read(typed, "here").expect_err(typed).to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused("nz/shop", "did you mean ns?");
    refused("deploy/web", "The label is on namespaces and pods");
    refused("ns/", "lacks a name");
    refused("ns/../../secrets", "is no name of Kubernetes");
    refused("pod/shop/a%2f..", "is no name of Kubernetes");
    refused("ns/Shop", "is no name of Kubernetes");
}

#[test]
fn a_label_is_changed_only_where_that_changes_something_and_can_be_undone() {
    use Membership::{Disabled, Enabled};
    let check = |before: Option<&str>, subject: &Subject, wanted, of_namespace, expected: &str| {
        let change = Change::of(before, subject, wanted, of_namespace);
        assert_eq!(change.told(subject), expected);
    };
    let (shop, client) = (namespace("shop"), pod("shop", "client"));
    check(
        None,
        &shop,
        Enabled,
        false,
        "labelled warren.dev/mesh=enabled; undo: warren disable ns/shop",
    );
    check(Some("enabled"), &shop, Enabled, false, "nothing");
    check(
        Some("disabled"),
        &shop,
        Enabled,
        false,
        "labelled warren.dev/mesh=enabled (was disabled); undo: kubectl label namespace shop warren.dev/mesh=disabled --overwrite",
    );
    check(
        Some("enabled"),
        &shop,
        Disabled,
        false,
        "label warren.dev/mesh removed (was enabled); undo: warren enable ns/shop",
    );
    check(None, &shop, Disabled, false, "nothing");
    check(Some("disabled"), &shop, Disabled, false, "nothing");
    check(
        Some("on"),
        &shop,
        Disabled,
        false,
        "label warren.dev/mesh removed (was on); undo: kubectl label namespace shop warren.dev/mesh=on --overwrite",
    );
    // A pod differs from its namespace by a label, and is like it without.
    check(
        None,
        &client,
        Enabled,
        false,
        "labelled warren.dev/mesh=enabled; undo: kubectl label pod -n shop client warren.dev/mesh-",
    );
    check(None, &client, Enabled, true, "nothing");
    check(
        Some("disabled"),
        &client,
        Enabled,
        true,
        "label warren.dev/mesh removed (was disabled); undo: kubectl label pod -n shop client warren.dev/mesh=disabled --overwrite",
    );
    check(
        None,
        &client,
        Disabled,
        true,
        "labelled warren.dev/mesh=disabled; undo: kubectl label pod -n shop client warren.dev/mesh-",
    );
    check(
        Some("enabled"),
        &client,
        Disabled,
        true,
        "labelled warren.dev/mesh=disabled (was enabled); undo: kubectl label pod -n shop client warren.dev/mesh=enabled --overwrite",
    );
    check(
        Some("enabled"),
        &client,
        Disabled,
        false,
        "label warren.dev/mesh removed (was enabled); undo: kubectl label pod -n shop client warren.dev/mesh=enabled --overwrite",
    );
}

#[test]
fn what_would_be_applied_is_yaml() {
    let change = Change::of(None, &pod("shop", "client"), Membership::Enabled, false);
    assert_eq!(
        change.yaml(&pod("shop", "client")),
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: client\n  namespace: shop\n  labels:\n    warren.dev/mesh: enabled\n"
    );
    let change = Change::of(
        Some("enabled"),
        &namespace("shop"),
        Membership::Disabled,
        false,
    );
    assert!(
        change
            .yaml(&namespace("shop"))
            .ends_with("warren.dev/mesh: null\n")
    );
}

#[test]
fn explain_asks_about_the_sources_namespace() {
    let check = |line: &str, of_cluster: Option<&str>, resource: &str, scope: Option<&str>| {
        let cli = Cli::try_parse_from(line.split(' ')).expect(line);
        let Command::Explain(args) = cli.command else {
            panic!("{line} is no explain");
        };
        let (asked, about) = explain::question(&args, of_cluster);
        assert_eq!(
            (asked.as_str(), about.as_deref()),
            (resource, scope),
            "{line}"
        );
    };
    let here = Some("here");
    check(
        "warren explain client web",
        here,
        "explain?source=client&destination=web",
        here,
    );
    check(
        "warren explain client.shop web:80",
        here,
        "explain?source=client.shop&destination=web%3A80",
        Some("shop"),
    );
    check(
        "warren explain pod/shop/client svc/b",
        here,
        "explain?source=pod%2Fclient.shop&destination=svc%2Fb",
        Some("shop"),
    );
    check(
        "warren explain -n shop pod/a.b svc/ops/db:5432",
        here,
        "explain?source=pod%2Fa.b&destination=svc%2Fdb.ops%3A5432",
        Some("shop"),
    );
    check(
        "warren explain client.shop web",
        None,
        "explain?source=client.shop&destination=web",
        None,
    );
    check(
        "warren explain -n shop client web",
        None,
        "explain?source=client.shop&destination=web",
        None,
    );
}

#[test]
fn a_clusters_status_fits_on_a_screen() {
    let node = |name: &str, controller: Option<&str>, ready, current| NodeStatus {
        name: name.to_owned(),
        controller: controller.map(str::to_owned),
        ready,
        current,
        version: Some("0.1.0".to_owned()),
        enrolled: 4,
        workloads: 5,
        ..NodeStatus::default()
    };
    let status = ClusterStatus {
        trust_domain: "cluster.local".to_owned(),
        trusted_roots: 2,
        root_not_after: "2026-03-01T00:00:00Z".parse().ok(),
        leader: Some("warren-controller-1".to_owned()),
        controllers: vec![
            ControllerStatus {
                name: "warren-controller-2".to_owned(),
                version: "0.1.0".to_owned(),
                ready: true,
                refusals: [("sign".to_owned(), 3)].into(),
                ..ControllerStatus::default()
            },
            ControllerStatus {
                name: "warren-controller-1".to_owned(),
                not_ready: vec!["it does not answer".to_owned()],
                ..ControllerStatus::default()
            },
        ],
        nodes: vec![
            node("a", Some("warren-controller-2"), true, true),
            node("b", Some("warren-controller-2"), true, false),
            NodeStatus {
                not_ready: vec!["the worker does not serve yet".to_owned()],
                ..node("c", Some("warren-controller-2"), false, true)
            },
            node("d\x1b[2J", None, false, false),
        ],
        objects: ObjectCounts {
            meshed_namespaces: 2,
            workloads: 20,
            services: 3,
            routes: 1,
            policies: 4,
            mtls_exceptions: 0,
        },
        problems: vec![ObjectProblem {
            kind: "TCPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            condition: "ResolvedRefs".to_owned(),
            reason: "BackendNotFound".to_owned(),
            message: "there is no service web-v2".to_owned(),
        }],
        ..ClusterStatus::default()
    };
    let now = "2026-01-01T00:00:00Z".parse().expect("a moment");
    let text = written(|out| cluster_status::write(out, &status, "https://here:6443", PLAIN, now));
    assert_eq!(
        text,
        "warren 0.1.0   cluster https://here:6443   trust domain cluster.local (2 roots trusted)   root expires in 59d\n\
         CONTROLLERS   1/2 ready   warren-controller-1 writes   warren-controller-2 refused 3\n\
         NODES         2 of 4 ready   3 connected   2 current\n\
         WORKLOADS     16 of 20 enrolled\n\
         OBJECTS       2 namespaces meshed   20 workloads   3 services   1 routes   4 policies   0 mTLS exceptions\n\
         ✖ controller warren-controller-1: it does not answer\n\
         ‼ node b: it does not decide with the newest configuration yet\n\
         ✖ node c: the worker does not serve yet\n\
         ✖ node d\\u{1b}[2J: its agent is not connected\n\
         ‼ TCPRoute web.shop: not ResolvedRefs: there is no service web-v2 (BackendNotFound)\n"
    );
}

#[test]
fn nothing_is_explained_by_where_one_looked() {
    assert_eq!(
        get::nothing("workloads", Some("shop"), get::Of::Cluster),
        "No workloads in namespace shop. Is it in the mesh? run: warren enable ns/shop. All namespaces: -A"
    );
    assert_eq!(
        get::nothing("services", None, get::Of::Node),
        "No services. What does the configuration say? run: warren status"
    );
}

#[test]
fn kubectl_completes_verbs_kinds_flags_and_values() {
    let check = |line: &str, expected: &[&str]| {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let found: Vec<String> = kubectl::candidates(&words)
            .into_iter()
            .map(|(word, _)| word)
            .collect();
        for word in expected {
            assert!(found.iter().any(|found| found == word), "{line}: {found:?}");
        }
        assert!(!found.iter().any(|found| found == "proxy"), "{found:?}");
    };
    check("", &["status", "flows", "enable", "check"]);
    check("fl", &["flows"]);
    check("get ", &["workloads", "nodes"]);
    check("get w", &["workloads"]);
    check("flows --ver", &["--verdict"]);
    check("flows --output ", &["compact", "json"]);
    check("get workloads -o ", &["wide", "yaml"]);
}
