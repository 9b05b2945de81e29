//! The mesh of a cluster in one object.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mesh_distribution::relay::FleetNode;
use mesh_kubernetes::lease;

use super::{Answers, Scope};
use crate::api::cluster::{
    ClusterStatus, ControllerStatus, NodeStatus, ObjectCounts, ObjectProblem,
};

impl Answers {
    /// The whole, or what of it concerns a namespace.
    pub(super) async fn tell_status(&self, scope: Scope) -> ClusterStatus {
        let (known, (connected, unheard)) = tokio::join!(self.knowledge.now(), self.fleet.nodes());
        let bundle = self.keys.bundle();
        let status = ClusterStatus {
            api_version: crate::api::VERSION.to_owned(),
            kind: "ClusterStatus".to_owned(),
            trust_domain: self.keys.identity.trust_domain().to_string(),
            trusted_roots: bundle.roots().len(),
            root_not_after: bundle
                .roots()
                .iter()
                .filter_map(|root| Timestamp::try_from(root.not_after()).ok())
                .min(),
            leader: lease::holder(
                &self.client,
                &self.namespace,
                mesh_kubernetes::names::CONTROLLER,
            )
            .await
            .ok()
            .flatten(),
            controllers: self.controllers(&connected, &unheard),
            problems: self.object_problems(&scope),
            ..ClusterStatus::default()
        };
        let world = &known.snapshot.world;
        let Some(namespace) = scope else {
            let mut workloads: BTreeMap<&str, u32> = BTreeMap::new();
            for workload in &world.workloads {
                *workloads.entry(workload.node.as_str()).or_default() += 1;
            }
            return ClusterStatus {
                nodes: self.nodes(connected, &workloads),
                objects: known.counts.clone(),
                warnings: self.warnings(),
                ..status
            };
        };
        // What other namespaces have, and how the nodes are, is not for everybody.
        let of = |found: &str| found == namespace;
        ClusterStatus {
            objects: ObjectCounts {
                meshed_namespaces: usize::from(self.is_meshed(&namespace)),
                workloads: world
                    .workloads
                    .iter()
                    .filter(|one| of(&one.name.namespace))
                    .count(),
                services: world
                    .services
                    .iter()
                    .filter(|one| of(&one.name.namespace))
                    .count(),
                routes: world
                    .routes
                    .iter()
                    .filter(|one| of(&one.name.namespace))
                    .count(),
                policies: world
                    .policies
                    .iter()
                    .filter(|one| of(&one.name.namespace))
                    .count(),
                mtls_exceptions: world
                    .mtls
                    .iter()
                    .filter(|one| of(&one.name.namespace))
                    .count(),
            },
            controllers: status
                .controllers
                .into_iter()
                .map(|controller| ControllerStatus {
                    refusals: BTreeMap::new(),
                    ..controller
                })
                .collect(),
            ..status
        }
    }

    fn is_meshed(&self, namespace: &str) -> bool {
        use mesh_control::facts::{Fact, FactKey};
        let fact = self.health.hub.fact(&FactKey::of_namespace(namespace));
        matches!(fact, Some(Fact::Namespace(spec)) if spec.meshed || spec.pods_opt_in)
    }

    /// This controller, then the others.
    fn controllers(&self, connected: &[FleetNode], unheard: &[String]) -> Vec<ControllerStatus> {
        let not_ready = self.health.not_ready();
        let served = |replica: Option<&str>| {
            let nodes = connected.iter();
            nodes
                .filter(|node| node.replica.as_deref() == replica)
                .count()
        };
        let own = ControllerStatus {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(self.started_at),
            ready: not_ready.is_empty(),
            not_ready,
            nodes: served(None),
            refusals: self.refusals(),
        };
        let others = self.others.borrow();
        let others = others.iter().map(|name| {
            let why: Vec<String> = unheard
                .iter()
                .filter(|why| why.contains(name.as_str()))
                .cloned()
                .collect();
            ControllerStatus {
                name: name.clone(),
                ready: why.is_empty(),
                not_ready: why,
                nodes: served(Some(name)),
                ..ControllerStatus::default()
            }
        });
        std::iter::once(own).chain(others).collect()
    }

    /// What was refused, by kind; what never was is left out.
    fn refusals(&self) -> BTreeMap<String, u64> {
        let signing = self.keys.registrar.refusals();
        let signing =
            signing.map(|(reason, count)| (format!("certificate {}", reason.label()), count));
        // Mistakes of those who ask are no refusals.
        let asking = self.refused.counts();
        let asking = asking
            .filter(|(label, _)| ["nobody", "forbidden", "not-now"].contains(label))
            .map(|(label, count)| (format!("question {label}"), count));
        signing
            .chain(asking)
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// Every node of the cluster, and any other that is connected.
    pub(super) fn nodes(
        &self,
        connected: Vec<FleetNode>,
        workloads: &BTreeMap<&str, u32>,
    ) -> Vec<NodeStatus> {
        let mut names: BTreeSet<String> = self.view.nodes();
        let mut by_name = BTreeMap::new();
        for node in connected {
            names.insert(node.name.clone());
            by_name.insert(node.name.clone(), node);
        }
        let count = |name: &str| workloads.get(name).copied().unwrap_or(0);
        names
            .into_iter()
            .map(|name| match by_name.remove(&name) {
                Some(node) => self.connected_node(node, count(&name)),
                None => NodeStatus {
                    workloads: count(&name),
                    name,
                    ..NodeStatus::default()
                },
            })
            .collect()
    }

    fn connected_node(&self, node: FleetNode, workloads: u32) -> NodeStatus {
        let FleetNode {
            name,
            version,
            connected: _,
            current,
            report,
            replica,
        } = node;
        let report = report.unwrap_or_default();
        let mut not_ready = Vec::new();
        if !report.ready {
            not_ready.push(match report.message.is_empty() {
                true => "its agent has not said yet how it is".to_owned(),
                false => report.message,
            });
        }
        NodeStatus {
            name,
            controller: Some(replica.unwrap_or_else(|| self.name.clone())),
            ready: report.ready,
            not_ready,
            version: Some(version),
            current,
            enrolled: report.enforcing,
            workloads,
        }
    }

    /// Objects that are not, or not wholly, in effect.
    pub(super) fn object_problems(&self, scope: &Scope) -> Vec<ObjectProblem> {
        self.view
            .object_problems()
            .into_iter()
            .filter(|problem| {
                scope
                    .as_ref()
                    .is_none_or(|namespace| problem.name.namespace == *namespace)
            })
            .map(|problem| ObjectProblem {
                kind: problem.kind.to_owned(),
                namespace: problem.name.namespace,
                name: problem.name.name,
                condition: problem.condition.to_owned(),
                reason: problem.reason.to_owned(),
                message: problem.message,
            })
            .collect()
    }

    /// Whatever else a person should see to.
    pub(super) fn warnings(&self) -> Vec<String> {
        let observed = self.view.problems();
        let observed = observed
            .into_iter()
            .map(|problem| format!("{}: {}", problem.about, problem.message));
        let refused = self.told.refused();
        let refused = refused
            .into_iter()
            .map(|(fact, why)| format!("{fact} cannot be told to nodes: {why}"));
        self.keys
            .problems()
            .into_iter()
            .chain(observed)
            .chain(refused)
            .collect()
    }
}
