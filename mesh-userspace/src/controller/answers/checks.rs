//! Everything that could be wrong with the mesh of a cluster, as the controller and the nodes know it, each with a fix.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Answers, Scope};
use crate::api::cluster::NodeStatus;
use crate::api::objects::{Check, CheckState, Checks};

const NODES: &str = "nodes";
const PODS: &str = "pods";
const IDENTITY: &str = "identity";
const OBJECTS: &str = "objects";
const CONTROLLER: &str = "controller";

/// Things of one kind that are listed one by one.
const LISTED: usize = 20;

/// A root with less left than this has to be replaced now, or soon.
const ROOT_ENDS: i64 = 7;
const ROOT_ENDS_SOON: i64 = 45;

impl Answers {
    /// All of it, or what concerns a namespace.
    pub(super) async fn tell_checks(&self, scope: Scope) -> Checks {
        let mut items = Vec::new();
        if scope.is_none() {
            self.check_controllers(&mut items).await;
            self.check_nodes(&mut items).await;
            self.check_identity(Timestamp::now(), &mut items);
        }
        self.check_pods(&scope, &mut items);
        self.check_objects(&scope, &mut items);
        Checks {
            api_version: crate::api::VERSION.to_owned(),
            kind: "Checks".to_owned(),
            items,
        }
    }

    async fn check_controllers(&self, checks: &mut Vec<Check>) {
        let status = self.tell_status(None).await;
        for controller in &status.controllers {
            for why in &controller.not_ready {
                checks.push(Check::bad(
                    CONTROLLER,
                    CheckState::Warning,
                    format!("controller {}: {why}", controller.name),
                    format!(
                        "kubectl -n {} get pods -o wide; kubectl logs says more",
                        self.namespace
                    ),
                ));
            }
        }
        checks.push(match &status.leader {
            Some(leader) => Check::ok(CONTROLLER, format!("{leader} holds the Lease and writes")),
            None => Check::bad(
                CONTROLLER,
                CheckState::Failed,
                "no controller holds the Lease: no status is written, no taint removed",
                format!(
                    "kubectl -n {} describe lease warren-controller",
                    self.namespace
                ),
            ),
        });
        for warning in status.warnings {
            checks.push(Check::bad(
                CONTROLLER,
                CheckState::Warning,
                warning,
                "what it says; the controller's log has more",
            ));
        }
    }

    async fn check_nodes(&self, checks: &mut Vec<Check>) {
        let known = self.knowledge.now().await;
        let mut workloads: BTreeMap<&str, u32> = BTreeMap::new();
        for workload in &known.snapshot.world.workloads {
            *workloads.entry(workload.node.as_str()).or_default() += 1;
        }
        let (connected, _) = self.fleet.nodes().await;
        let names: BTreeSet<String> = connected.iter().map(|node| node.name.clone()).collect();
        let nodes = self.nodes(connected, &workloads);
        let bad: Vec<&NodeStatus> = nodes
            .iter()
            .filter(|node| node.state() != "ready" || !node.current)
            .collect();
        for node in bad.iter().take(LISTED) {
            checks.push(check_node(node, &self.namespace));
        }
        if bad.len() > LISTED {
            checks.push(Check::bad(
                NODES,
                CheckState::Failed,
                format!("and {} more nodes", bad.len() - LISTED),
                "warren get nodes -o wide",
            ));
        }
        let good = nodes.len() - bad.len();
        if good > 0 {
            checks.push(Check::ok(
                NODES,
                format!("{good} of {} nodes are ready and up to date", nodes.len()),
            ));
        }
        self.check_on_nodes(names, checks).await;
    }

    /// What nodes find wrong with themselves.
    async fn check_on_nodes(&self, names: BTreeSet<String>, checks: &mut Vec<Check>) {
        let (said, missing) = self.ask_all::<Checks>(names, "/v1/check").await;
        let mut wrong = 0;
        for (node, said) in said {
            for check in said.items {
                if check.state == CheckState::Ok {
                    continue;
                }
                wrong += 1;
                if wrong <= LISTED {
                    checks.push(Check {
                        section: NODES.to_owned(),
                        message: format!("node {node}: {}", check.message),
                        ..check
                    });
                }
            }
        }
        if wrong > LISTED {
            checks.push(Check::bad(
                NODES,
                CheckState::Warning,
                format!("and {} more findings on nodes", wrong - LISTED),
                "on a node: warren check",
            ));
        }
        for why in missing.into_iter().take(LISTED) {
            checks.push(Check::bad(
                NODES,
                CheckState::Warning,
                why,
                "does its agent have CPU time, and does its connection work? its log says more",
            ));
        }
    }

    fn check_identity(&self, now: Timestamp, checks: &mut Vec<Check>) {
        for root in self.keys.bundle().roots() {
            let Ok(end) = Timestamp::try_from(root.not_after()) else {
                continue;
            };
            let days = end.duration_since(now).as_hours() / 24;
            let ends = format!("root {} ends in {days} days", root.name());
            let fix = "replace it, in steps that break no connection: warren ca rotate stage --kubernetes";
            checks.push(if days <= ROOT_ENDS {
                Check::bad(IDENTITY, CheckState::Failed, ends, fix)
            } else if days <= ROOT_ENDS_SOON {
                Check::bad(IDENTITY, CheckState::Warning, ends, fix)
            } else {
                Check::ok(IDENTITY, ends)
            });
        }
    }

    /// Pods that one might think are in the mesh, and that are not.
    fn check_pods(&self, scope: &Scope, checks: &mut Vec<Check>) {
        let mut outside = self.view.outside();
        outside.retain(|one| {
            scope
                .as_ref()
                .is_none_or(|namespace| one.pod.namespace == *namespace)
        });
        for one in outside.iter().take(LISTED) {
            checks.push(Check::bad(
                PODS,
                CheckState::Warning,
                format!("pod {} is not in the mesh: {}", one.pod, one.why),
                "nothing, if that is meant; its connections are in clear",
            ));
        }
        if outside.len() > LISTED {
            checks.push(Check::bad(
                PODS,
                CheckState::Warning,
                format!("and {} more pods", outside.len() - LISTED),
                "warren check -o json",
            ));
        }
        if outside.is_empty() {
            checks.push(Check::ok(
                PODS,
                "every pod of the namespaces in the mesh is in it",
            ));
        }
    }

    fn check_objects(&self, scope: &Scope, checks: &mut Vec<Check>) {
        let problems = self.object_problems(scope);
        for problem in &problems {
            checks.push(Check::bad(
                OBJECTS,
                CheckState::Warning,
                format!(
                    "{} {}.{} is not {}: {}",
                    problem.kind,
                    problem.name,
                    problem.namespace,
                    problem.condition,
                    problem.message
                ),
                format!("correct it; its status says the same ({})", problem.reason),
            ));
        }
        if problems.is_empty() {
            checks.push(Check::ok(OBJECTS, "every route and policy is in effect"));
        }
    }
}

fn check_node(node: &NodeStatus, namespace: &str) -> Check {
    let name = &node.name;
    if node.controller.is_none() {
        return Check::bad(
            NODES,
            CheckState::Failed,
            format!(
                "node {name}: its agent is not connected ({} workloads of the mesh are on it, and go on as they are)",
                node.workloads
            ),
            format!(
                "kubectl -n {namespace} get pods -o wide --field-selector spec.nodeName={name}"
            ),
        );
    }
    if !node.ready {
        return Check::bad(
            NODES,
            CheckState::Failed,
            format!("node {name} is not ready: {}", node.not_ready.join("; ")),
            format!("on the node: warren check; or the log of its agent in namespace {namespace}"),
        );
    }
    Check::bad(
        NODES,
        CheckState::Warning,
        format!("node {name} does not decide with the newest configuration yet"),
        "a moment; if it stays, the log of its agent says why",
    )
}
