use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};

use super::nodes::{CLEAN, OPEN, Progress, made_of, progress};
use super::objects::paths;
use super::traces::{without_our_status, without_taint};
use crate::cli::args::{Cli, Command, OnNode};
use crate::manifests::{self, Installation, NEWEST_KUBERNETES, OLDEST_KUBERNETES, Values, kind};

/// How long nodes may take.
const WAIT: Duration = Duration::from_secs(3_600);

fn agents(kubernetes: u32) -> Value {
    let mut values = Values::default();
    values.assign("image.tag=7").expect("known");
    values
        .assign("node.paths.cniBin=/usr/lib/cni")
        .expect("known");
    let installation = Installation {
        namespace: "elsewhere".to_owned(),
        kubernetes,
        values,
    };
    let objects = installation.objects().expect("objects");
    let found = objects
        .into_iter()
        .find(|object| kind(object) == "DaemonSet");
    found.expect("the agents")
}

#[test]
fn the_cleaners_are_what_the_agents_are() {
    for kubernetes in [OLDEST_KUBERNETES, NEWEST_KUBERNETES] {
        let agents = agents(kubernetes);
        let cleaner = made_of(&agents, &CLEAN, WAIT);
        assert_eq!(cleaner["metadata"]["namespace"], "elsewhere");
        let (theirs, ours) = (
            &agents["spec"]["template"]["spec"],
            &cleaner["spec"]["template"]["spec"],
        );
        for same in [
            "hostPID",
            "hostNetwork",
            "tolerations",
            "nodeSelector",
            "priorityClassName",
        ] {
            assert_eq!(theirs[same], ours[same], "{same}");
        }
        let agent = &theirs["containers"][0];
        for (container, does) in [
            (&ours["initContainers"][0], "--on-node=clean"),
            (&ours["containers"][0], "--on-node=stay"),
        ] {
            assert_eq!(container["image"], agent["image"]);
            assert_eq!(container["securityContext"], agent["securityContext"]);
            assert_eq!(container["args"], json!(["uninstall", does]));
            assert!(container["readinessProbe"].is_null());
        }
        // Every mount has its volume, and the folders that are removed are no mounts.
        let names = |list: &Value| -> Vec<String> {
            let items = list.as_array().expect("a list").iter();
            items.map(|item| item["name"].to_string()).collect()
        };
        assert_eq!(
            names(&ours["volumes"]),
            names(&ours["containers"][0]["volumeMounts"])
        );
        assert!(!ours["volumes"].to_string().contains("/run/warren"));
        assert!(ours["volumes"].to_string().contains("/usr/lib/cni"));
        // It selects its own pods, and not the agents'.
        let labels = &cleaner["spec"]["template"]["metadata"]["labels"];
        for (key, value) in cleaner["spec"]["selector"]["matchLabels"]
            .as_object()
            .expect("labels")
        {
            assert_eq!(labels[key], *value);
        }
        assert_ne!(
            agents["spec"]["selector"]["matchLabels"],
            cleaner["spec"]["selector"]["matchLabels"]
        );
    }
    let annotations =
        made_of(&agents(OLDEST_KUBERNETES), &OPEN, WAIT)["spec"]["template"]["metadata"]["annotations"]
            .clone();
    assert_eq!(
        annotations,
        json!({
            "container.apparmor.security.beta.kubernetes.io/step": "unconfined",
            "container.apparmor.security.beta.kubernetes.io/stay": "unconfined",
        })
    );
}

#[test]
fn nodes_stay_open_for_as_long_as_the_uninstall_may_take() {
    let opener = made_of(&agents(NEWEST_KUBERNETES), &OPEN, WAIT);
    let step = &opener["spec"]["template"]["spec"]["initContainers"][0];
    let arguments = step["args"].as_array().expect("arguments");
    let arguments = arguments.iter().filter_map(Value::as_str);
    let parsed = Cli::try_parse_from(std::iter::once("warren").chain(arguments)).expect("valid");
    let Command::Uninstall(uninstall) = parsed.command else {
        panic!("another command");
    };
    assert_eq!(uninstall.cluster.on_node, Some(OnNode::Open));
    // All nodes may take so long to be opened, and then to be cleaned.
    assert!(uninstall.cluster.open_for > WAIT * 2);
}

#[test]
fn a_pod_says_how_far_its_node_is() {
    let waits = |why: &str| Progress::Waits(why.to_owned());
    for (status, expected) in [
        (
            json!({"conditions": [{"type": "Ready", "status": "True"}]}),
            Progress::Done,
        ),
        (json!({}), waits("its pod has not started")),
        (
            json!({"initContainerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
            waits("ImagePullBackOff"),
        ),
        (
            json!({"initContainerStatuses": [{"state": {"running": {}}}]}),
            waits("its pod is at it"),
        ),
        (
            json!({"initContainerStatuses": [{
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1, "message": "first\nerror: the disk is full\n"}},
            }]}),
            waits("error: the disk is full"),
        ),
    ] {
        assert_eq!(progress(&json!({"status": status})), expected, "{status}");
    }
}

#[test]
fn what_others_wrote_stays() {
    let node = json!({"spec": {"taints": [{"key": "warren.dev/not-ready"}, {"key": "other"}]}});
    assert_eq!(
        without_taint(&node),
        Some(json!({"spec": {"taints": [{"key": "other"}]}}))
    );
    assert_eq!(
        without_taint(&json!({"spec": {"taints": [{"key": "other"}]}})),
        None
    );
    assert_eq!(without_taint(&json!({"spec": {}})), None);
    let route = json!({"status": {"parents": [
        {"controllerName": "warren.dev/controller"}, {"controllerName": "example.org/other"},
    ]}});
    assert_eq!(
        without_our_status(&route),
        Some(json!({"status": {"parents": [{"controllerName": "example.org/other"}]}}))
    );
    assert_eq!(
        without_our_status(&json!({"status": {"parents": []}})),
        None
    );
}

#[test]
fn every_object_has_a_path() {
    let mut found = Vec::new();
    for object in manifests::every_object("x").expect("objects") {
        found.extend(paths(&object));
    }
    for path in [
        "/api/v1/namespaces/x/serviceaccounts/warren-node",
        "/apis/apps/v1/namespaces/x/daemonsets/warren-node",
        "/apis/networking.k8s.io/v1/namespaces/x/networkpolicies/warren-controller",
        "/apis/policy/v1/namespaces/x/poddisruptionbudgets/warren-controller",
        "/apis/policy/v1beta1/namespaces/x/poddisruptionbudgets/warren-controller",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/warren-view",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings/warren-controller-authentication-reader",
        "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.api.warren.dev",
    ] {
        assert!(
            found.iter().any(|known| known == path),
            "{path} is not in {found:#?}"
        );
    }
}
