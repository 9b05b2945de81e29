//! What nodes say about their own workloads and certificates, put together with what the controller knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use mesh_distribution::question::Question;
use serde::de::DeserializeOwned;

use super::{Answers, Scope, within};
use crate::agent::describe;
use crate::api::objects::{Certificate, List, Workload};
use crate::api::query::escaped;

/// How long a node is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Nodes that are asked at the same time.
const AT_ONCE: usize = 64;

/// Largest answer of one node.
const LARGEST: usize = 4 << 20;

impl Answers {
    /// Every workload, with how far its node is with it.
    pub(super) async fn tell_workloads(&self, scope: Scope) -> List<Workload> {
        let known = self.knowledge.now().await;
        let mut workloads = describe::workloads(&known.snapshot.world, &BTreeMap::new(), &[]);
        workloads.retain(within(&scope));
        let mut nodes: BTreeSet<String> = workloads
            .iter()
            .map(|workload| workload.node.clone())
            .collect();
        // Those whose pods have just left the mesh may still have something to say about them.
        nodes.extend(self.connected().await);
        nodes.remove("");
        let path = match &scope {
            Some(namespace) => {
                format!("/v1/workloads?local=true&namespace={}", escaped(namespace))
            }
            None => "/v1/workloads?local=true".to_owned(),
        };
        let (said, notices) = self.ask_all::<List<Workload>>(nodes, &path).await;
        let mut by_name: BTreeMap<(String, String), Workload> = workloads
            .into_iter()
            .map(|workload| {
                (
                    (workload.namespace.clone(), workload.name.clone()),
                    workload,
                )
            })
            .collect();
        for (node, list) in said {
            for said in list.items.into_iter().filter(within(&scope)) {
                take(&mut by_name, &node, said);
            }
        }
        List {
            notices,
            ..List::new(by_name.into_values().collect())
        }
    }

    /// Every certificate that nodes hold for their workloads.
    pub(super) async fn tell_certificates(&self, scope: Scope) -> List<Certificate> {
        let nodes = match &scope {
            None => self.connected().await,
            Some(namespace) => {
                let known = self.knowledge.now().await;
                let workloads = known.snapshot.world.workloads.iter();
                workloads
                    .filter(|workload| workload.name.namespace == *namespace)
                    .map(|workload| workload.node.clone())
                    .filter(|node| !node.is_empty())
                    .collect()
            }
        };
        let (said, notices) = self.ask_all::<List<Certificate>>(nodes, "/v1/certs").await;
        let mut certificates = Vec::new();
        for (node, list) in said {
            for mut certificate in list.items.into_iter().filter(within(&scope)) {
                certificate.node = Some(node.clone());
                certificates.push(certificate);
            }
        }
        certificates.sort_by(|a, b| (&a.identity, &a.node).cmp(&(&b.identity, &b.node)));
        List {
            notices,
            ..List::new(certificates)
        }
    }

    async fn connected(&self) -> BTreeSet<String> {
        let (nodes, _) = self.fleet.nodes().await;
        nodes.into_iter().map(|node| node.name).collect()
    }

    /// Asks nodes the same; gives what they said, and in words what is missing.
    pub(super) async fn ask_all<T: DeserializeOwned>(
        &self,
        nodes: BTreeSet<String>,
        path: &str,
    ) -> (Vec<(String, T)>, Vec<String>) {
        let mut answers = stream::iter(nodes)
            .map(async |node| {
                let said = self.ask::<T>(&node, path).await;
                (node, said)
            })
            .buffer_unordered(AT_ONCE);
        let (mut said, mut missing) = (Vec::new(), Vec::new());
        while let Some((node, answer)) = answers.next().await {
            match answer {
                Ok(answer) => said.push((node, answer)),
                Err(why) => missing.push(format!("{why}: what node {node} knows is missing")),
            }
        }
        said.sort_by(|(a, _), (b, _)| a.cmp(b));
        missing.sort_unstable();
        (said, missing)
    }

    async fn ask<T: DeserializeOwned>(&self, node: &str, path: &str) -> Result<T, String> {
        let ask = async {
            let answer = self
                .fleet
                .ask(node, Question::get(path))
                .await
                .map_err(|error| error.to_string())?;
            let status = answer.status;
            let body = answer
                .bytes(LARGEST)
                .await
                .map_err(|error| error.to_string())?;
            if status != 200 {
                return Err(format!("node {node} refuses (HTTP status {status})"));
            }
            serde_json::from_slice(&body).map_err(|error| {
                format!(
                    "node {node} says what is not understood ({error}); is it of another version?"
                )
            })
        };
        tokio::time::timeout(PATIENCE, ask)
            .await
            .unwrap_or_else(|_late| Err(format!("node {node} did not answer within {PATIENCE:?}")))
    }
}

/// Takes what a node says about a workload: of its own ones only. One that the controller does not know any more is about to
/// leave.
fn take(workloads: &mut BTreeMap<(String, String), Workload>, node: &str, said: Workload) {
    let key = (said.namespace.clone(), said.name.clone());
    match workloads.get_mut(&key) {
        Some(known) if known.node == node => {
            known.enrolment = said.enrolment;
            known.certificate_not_after = said.certificate_not_after;
        }
        Some(_) => {}
        None => {
            let mut said = said;
            node.clone_into(&mut said.node);
            workloads.insert(key, said);
        }
    }
}
