//! Cleaning the nodes, with what a cluster is good at: a pod on each of them, in the place and with the rights of the agent.
//!
//! It takes two steps, and the second begins nowhere before the first is done everywhere. First the mesh is opened: whoever
//! has left dials in clear, and a node that is strict would refuse it. Then the nodes are cleaned.
//!
//! The pods are those of a DaemonSet per step, which exists only for this. It is made from the agents' own, so that it has the
//! image, the paths and the tolerations that people chose. Its first container does the step; where nodes are cleaned it lets
//! the running agent give everything back while connections go on, or does it itself where none runs. The second stays, so
//! that the pod is ready exactly where the step is done. No controller is needed for it, and no port.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Api, LOOK};
use crate::cli::CliError;
use crate::cli::args::ClusterUninstallArgs;

/// A step that is taken on all nodes.
#[derive(Debug)]
pub(super) struct Step {
    /// The name of its DaemonSet, and the component of this.
    name: &'static str,
    component: &'static str,
    /// What its pods do, if nodes may take so long for a step, and do then.
    does: fn(Duration) -> Vec<String>,
    stays: &'static str,
    /// A node that has taken it.
    done: &'static str,
}

pub(super) const OPEN: Step = Step {
    name: "warren-uninstall-open",
    component: "uninstall-open",
    does: |wait| {
        // A step to open all, one to clean all, and the pods of one have to go and those of the other to come.
        let open_for = wait
            .saturating_mul(2)
            .saturating_add(Duration::from_secs(5 * 60));
        vec![
            "--on-node=open".to_owned(),
            format!("--open-for={}s", open_for.as_secs()),
        ]
    },
    stays: "--on-node=wait",
    done: "refuses nobody",
};

pub(super) const CLEAN: Step = Step {
    name: "warren-uninstall",
    component: "uninstall",
    does: |_| vec!["--on-node=clean".to_owned()],
    stays: "--on-node=stay",
    done: "is clean",
};

/// How far a node is.
#[derive(Debug, PartialEq)]
pub(super) enum Progress {
    Done,
    /// Why not yet.
    Waits(String),
}

/// Cleans every node that has, or had, an agent. Gives the names of those that could not be cleaned, if that is accepted.
pub(super) async fn clean(
    api: &Api<'_>,
    args: &ClusterUninstallArgs,
    say: &mut impl FnMut(String) -> Result<(), CliError>,
) -> Result<Vec<String>, CliError> {
    let agents = api.daemon_set(mesh_kubernetes::names::NODE);
    let cleaner = api.daemon_set(CLEAN.name);
    let begun = api.find(&cleaner).await?.is_some();
    match api.find(&agents).await? {
        None if begun => {}
        None => {
            say(format!(
                "There is no DaemonSet {} in namespace {}, so no node is cleaned.",
                mesh_kubernetes::names::NODE,
                api.namespace
            ))?;
            return Ok(Vec::new());
        }
        Some(agents) => {
            // Of an earlier time: it may have closed again.
            if api.remove(&api.daemon_set(OPEN.name)).await? {
                match api.until_gone(OPEN.component, args.wait).await {
                    // The pod of a node that does not answer.
                    Err(CliError::TimedOut(_)) if args.force => {}
                    gone => gone?,
                }
            }
            let opener = made_of(&agents, &OPEN, args.wait);
            api.create(&api.daemon_sets(), &opener).await?;
            // With --force, a node that does not answer is told of once it cannot be cleaned either.
            until_done(api, &OPEN, args, say).await?;
            if !begun {
                let cleaner = made_of(&agents, &CLEAN, args.wait);
                api.create(&api.daemon_sets(), &cleaner).await?;
            }
        }
    }

    let unclean = until_done(api, &CLEAN, args, say).await?;
    if api.remove(&agents).await? {
        say(format!(
            "Removed DaemonSet {}.",
            mesh_kubernetes::names::NODE
        ))?;
    }
    // Pods on nodes that do not answer stay until these are removed from the cluster.
    if unclean.is_empty() {
        api.until_gone("node", args.wait).await?;
    }
    for step in [OPEN, CLEAN] {
        api.remove(&api.daemon_set(step.name)).await?;
    }
    if unclean.is_empty() {
        api.until_gone(OPEN.component, args.wait).await?;
        api.until_gone(CLEAN.component, args.wait).await?;
    }
    Ok(unclean)
}

/// Waits until the nodes have taken a step; says each that has.
async fn until_done(
    api: &Api<'_>,
    step: &Step,
    args: &ClusterUninstallArgs,
    say: &mut impl FnMut(String) -> Result<(), CliError>,
) -> Result<Vec<String>, CliError> {
    let deadline = Instant::now() + args.wait;
    let mut told: Vec<String> = Vec::new();
    loop {
        let daemon_set = api
            .find(&api.daemon_set(step.name))
            .await?
            .unwrap_or_default();
        let pods = api.pods(step.component).await?;
        let mut waiting = Vec::new();
        for pod in &pods {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or("no node yet");
            match progress(pod) {
                Progress::Done if told.iter().any(|told| told == node) => {}
                Progress::Done => {
                    say(format!("Node {node} {}.", step.done))?;
                    told.push(node.to_owned());
                }
                Progress::Waits(why) => waiting.push((node.to_owned(), why)),
            }
        }
        if waiting.is_empty() && has_everywhere(&daemon_set, pods.len()) {
            return Ok(Vec::new());
        }
        if Instant::now() >= deadline {
            if args.force {
                return Ok(waiting.into_iter().map(|(node, _)| node).collect());
            }
            let reasons: Vec<String> = waiting
                .iter()
                .map(|(node, why)| format!("{node} ({why})"))
                .collect();
            return Err(CliError::TimedOut(format!(
                "not every node {} after {:?}: {}; run this again when these nodes answer, or go on without them with --force",
                step.done,
                args.wait,
                match reasons.is_empty() {
                    true => "nodes on which no pod was started".to_owned(),
                    false => reasons.join(", "),
                }
            )));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the pods are all that there will be.
fn has_everywhere(daemon_set: &Value, pods: usize) -> bool {
    let status = &daemon_set["status"];
    status["observedGeneration"] == daemon_set["metadata"]["generation"]
        && status["desiredNumberScheduled"].as_u64() == Some(pods as u64)
}

/// How far the node of a pod of a step is.
pub(super) fn progress(pod: &Value) -> Progress {
    let status = &pod["status"];
    let ready = status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    if ready {
        return Progress::Done;
    }
    let container = &status["initContainerStatuses"][0];
    let told = [
        &container["state"]["terminated"],
        &container["lastState"]["terminated"],
    ]
    .into_iter()
    .filter(|ended| ended["exitCode"].as_u64().is_some_and(|code| code != 0))
    .find_map(|ended| ended["message"].as_str())
    .and_then(|message| message.lines().next_back());
    let why = told
        .or_else(|| container["state"]["waiting"]["message"].as_str())
        .or_else(|| container["state"]["waiting"]["reason"].as_str())
        .unwrap_or_else(|| match container["state"]["running"].is_object() {
            true => "its pod is at it",
            false => "its pod has not started",
        });
    Progress::Waits(why.to_owned())
}

/// The DaemonSet of a step, from the agents', if nodes may take so long.
pub(super) fn made_of(agents: &Value, step: &Step, wait: Duration) -> Value {
    let labels = json!({
        "app.kubernetes.io/name": "warren",
        "app.kubernetes.io/component": step.component,
    });
    let mut pod_labels = labels.clone();
    pod_labels["warren.dev/mesh"] = "disabled".into();
    let template = &agents["spec"]["template"];
    let mut spec = template["spec"].clone();
    let mut agent = spec["containers"][0].clone();
    // What the agent is told by the controller is not needed, and may be gone; the folders that are removed must not be mounts.
    let keeps = |name: &Value| {
        !["token", "trust", "run", "state"]
            .iter()
            .any(|gone| name == gone)
    };
    for list in [&mut spec["volumes"], &mut agent["volumeMounts"]] {
        if let Some(items) = list.as_array_mut() {
            items.retain(|item| keeps(&item["name"]));
        }
    }
    if let Some(agent) = agent.as_object_mut() {
        for gone in [
            "startupProbe",
            "livenessProbe",
            "readinessProbe",
            "lifecycle",
        ] {
            agent.remove(gone);
        }
    }
    agent["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    let container = |name: &str, does: Vec<String>| {
        let mut container = agent.clone();
        container["name"] = name.into();
        container["args"] = [vec!["uninstall".to_owned()], does].concat().into();
        container
    };
    spec["initContainers"] = json!([container("step", (step.does)(wait))]);
    spec["containers"] = json!([container("stay", vec![step.stays.to_owned()])]);

    let mut annotations = template["metadata"]["annotations"].clone();
    if let Some(annotations) = annotations.as_object_mut() {
        // AppArmor's are by container.
        let by_container =
            annotations.remove("container.apparmor.security.beta.kubernetes.io/agent");
        if let Some(profile) = by_container {
            for name in ["step", "stay"] {
                let key = format!("container.apparmor.security.beta.kubernetes.io/{name}");
                annotations.insert(key, profile.clone());
            }
        }
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": step.name,
            "namespace": agents["metadata"]["namespace"],
            "labels": labels,
        },
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": pod_labels, "annotations": annotations},
                "spec": spec,
            },
        },
    })
}
