use serde_json::json;

use super::*;

fn user(name: &str, extra: serde_json::Value) -> UserInfo {
    serde_json::from_value(json!({ "username": name, "extra": extra })).expect("a user")
}

const AGENT: &str = "system:serviceaccount:warren-system:warren-node";

fn extra() -> serde_json::Value {
    json!({ POD_NAME: ["warren-node-x"], POD_UID: ["u1"] })
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>, why: &str) {
    match result {
        Err(Refusal::Denied(said)) => assert!(said.contains(why), "{said}"),
        other => panic!("{other:?} instead of {why}"),
    }
}

#[test]
fn only_the_agents_account_with_a_token_bound_to_a_pod() {
    let expected = Expected::default();
    let bound = Bound::of(&expected, &user(AGENT, extra())).expect("a good token");
    assert_eq!(
        (bound.pod.as_str(), bound.uid.as_str()),
        ("warren-node-x", "u1")
    );
    for (name, extra, why) in [
        (
            "system:serviceaccount:shop:warren-node",
            extra(),
            "not of system:serviceaccount:warren-system",
        ),
        (
            "system:serviceaccount:warren-system:default",
            extra(),
            "is of system:serviceaccount:warren-system:default",
        ),
        ("", extra(), "is of ,"),
        (AGENT, json!({}), "not bound to a pod"),
        (
            AGENT,
            json!({ POD_NAME: ["a"], POD_UID: [] }),
            "not bound to a pod",
        ),
        (
            AGENT,
            json!({ POD_NAME: ["a", "b"], POD_UID: ["u1"] }),
            "not bound to a pod",
        ),
        (
            AGENT,
            json!({ POD_NAME: [""], POD_UID: ["u1"] }),
            "not bound to a pod",
        ),
    ] {
        refused(Bound::of(&expected, &user(name, extra)), why);
    }
}

#[test]
fn the_node_is_that_of_the_very_pod() {
    let expected = Expected::default();
    let pod = |change: fn(&mut serde_json::Value)| {
        let mut pod = json!({
            "metadata": { "name": "warren-node-x", "uid": "u1" },
            "spec": { "nodeName": "a", "serviceAccountName": "warren-node", "containers": [] },
            "status": { "phase": "Running" },
        });
        change(&mut pod);
        Some(serde_json::from_value::<Pod>(pod).expect("a pod"))
    };
    let bound = Bound::of(&expected, &user(AGENT, extra())).expect("a good token");
    assert_eq!(
        bound.node_of(&expected, pod(|_| {})).expect("a good pod"),
        "a"
    );
    for (pod, why) in [
        (None, "is gone"),
        (
            pod(|pod| pod["metadata"]["uid"] = "u2".into()),
            "is another one by now",
        ),
        (
            pod(|pod| pod["spec"]["serviceAccountName"] = "default".into()),
            "another service account",
        ),
        (
            pod(|pod| pod["status"]["phase"] = "Failed".into()),
            "has ended",
        ),
        (
            pod(|pod| pod["spec"]["nodeName"] = "".into()),
            "on no node yet",
        ),
    ] {
        refused(bound.node_of(&expected, pod), why);
    }
    let mut extra = extra();
    extra[NODE_NAME] = json!(["b"]);
    let elsewhere = Bound::of(&expected, &user(AGENT, extra)).expect("a good token");
    refused(
        elsewhere.node_of(&expected, pod(|_| {})),
        "on another node than the token says",
    );
}
