//! Waiting until the nodes have done what a label says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DISABLED, ENABLED, LABEL, Membership, Subject};
use crate::api::client::{Client, ClientError, Cluster};
use crate::api::objects::{EnrolmentState, List, Workload};
use crate::cli::CliError;
use crate::cli::output::{Style, lasted};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Pods that are named when time runs out.
const NAMED: usize = 5;

/// The pods that are waited for.
pub(super) struct Watched {
    subject: Subject,
    /// Restarts of each pod before the label was changed.
    restarts: BTreeMap<String, u64>,
    began: Instant,
}

/// A pod as far as it matters here.
struct Pod {
    name: String,
    label: Option<String>,
    host_network: bool,
    /// It has processes that the mesh could capture.
    running: bool,
    restarts: u64,
}

impl Watched {
    /// Notes what is, before anything is changed.
    pub(super) async fn begin(cluster: &Cluster, subject: &Subject) -> Result<Self, CliError> {
        let pods = pods(cluster, subject).await?;
        Ok(Self {
            subject: subject.clone(),
            restarts: pods
                .into_iter()
                .map(|pod| (pod.name, pod.restarts))
                .collect(),
            began: Instant::now(),
        })
    }

    /// Waits, and says what was done.
    pub(super) async fn until_done(
        self,
        client: &Client,
        cluster: &Cluster,
        wanted: Membership,
        longest: Duration,
    ) -> Result<String, CliError> {
        loop {
            let pods = pods(cluster, &self.subject).await?;
            let captured = captured(client, &self.subject).await?;
            let meant: Vec<&Pod> = pods
                .iter()
                .filter(|pod| pod.running && !pod.host_network && self.concerns(pod, wanted))
                .collect();
            let missing: Vec<&str> = meant
                .iter()
                .filter(|pod| {
                    let state = captured.get(&pod.name);
                    match wanted {
                        Membership::Enabled => state != Some(&EnrolmentState::Enrolled),
                        Membership::Disabled => {
                            state.is_some_and(|state| *state != EnrolmentState::Leaving)
                        }
                    }
                })
                .map(|pod| pod.name.as_str())
                .collect();
            if missing.is_empty() {
                return Ok(self.done(&pods, meant.len(), wanted));
            }
            if self.began.elapsed() >= longest {
                return Err(late(&missing, wanted, longest));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether the label of the subject decides about this pod.
    fn concerns(&self, pod: &Pod, wanted: Membership) -> bool {
        match (&self.subject, wanted) {
            (Subject::Pod { name, .. }, _) => pod.name == *name,
            // A pod's own label beats its namespace's.
            (Subject::Namespace(_), Membership::Enabled) => pod.label.as_deref() != Some(DISABLED),
            (Subject::Namespace(_), Membership::Disabled) => pod.label.as_deref() != Some(ENABLED),
        }
    }

    fn done(&self, pods: &[Pod], count: usize, wanted: Membership) -> String {
        let restarted: u64 = pods
            .iter()
            .filter_map(|pod| {
                let before = self.restarts.get(&pod.name)?;
                Some(pod.restarts.saturating_sub(*before))
            })
            .sum();
        let style = Style {
            color: false,
            ascii: true,
        };
        let mut words = format!(
            "{count} pod{} {} in {}, {restarted} restarted",
            if count == 1 { "" } else { "s" },
            match wanted {
                Membership::Enabled => "enrolled",
                Membership::Disabled => "released",
            },
            lasted(self.began.elapsed(), style),
        );
        let of_host: Vec<&str> = pods
            .iter()
            .filter(|pod| pod.host_network && pod.running && self.concerns(pod, wanted))
            .map(|pod| pod.name.as_str())
            .collect();
        if wanted == Membership::Enabled && !of_host.is_empty() {
            words.push_str(&format!(
                "; not meshed, because they use their node's network: {}",
                of_host.join(", ")
            ));
        }
        words
    }
}

fn late(missing: &[&str], wanted: Membership, longest: Duration) -> CliError {
    let mut named = missing
        .iter()
        .take(NAMED)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if missing.len() > NAMED {
        named.push_str(&format!(" and {} more", missing.len() - NAMED));
    }
    CliError::TimedOut(format!(
        "the label is set, but after {longest:?} these are not {}: {named}; what keeps them? run: warren check (wait longer: \
         --wait=5m)",
        match wanted {
            Membership::Enabled => "enrolled",
            Membership::Disabled => "released",
        }
    ))
}

/// The pods of the subject's namespace, or the pod itself.
async fn pods(cluster: &Cluster, subject: &Subject) -> Result<Vec<Pod>, ClientError> {
    let path = match subject {
        Subject::Namespace(name) => format!("/api/v1/namespaces/{name}/pods"),
        Subject::Pod { .. } => subject.path(),
    };
    let Some(found) = cluster.find(&path).await? else {
        return Ok(Vec::new());
    };
    Ok(match found["items"].as_array() {
        Some(items) => items.iter().map(pod).collect(),
        None => vec![pod(&found)],
    })
}

fn pod(object: &Value) -> Pod {
    let statuses = ["containerStatuses", "initContainerStatuses"];
    let restarts = statuses
        .iter()
        .flat_map(|key| object["status"][key].as_array().into_iter().flatten())
        .filter_map(|status| status["restartCount"].as_u64())
        .sum();
    Pod {
        name: object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        label: object["metadata"]["labels"][LABEL]
            .as_str()
            .map(str::to_owned),
        host_network: object["spec"]["hostNetwork"] == true,
        running: object["status"]["phase"] == "Running"
            && object["metadata"]["deletionTimestamp"].is_null(),
        restarts,
    }
}

/// How far the nodes are with the pods that they know.
async fn captured(
    client: &Client,
    subject: &Subject,
) -> Result<BTreeMap<String, EnrolmentState>, ClientError> {
    let (Subject::Namespace(namespace) | Subject::Pod { namespace, .. }) = subject;
    let list: List<Workload> = client.get("workloads", Some(namespace)).await?;
    Ok(list
        .items
        .into_iter()
        .filter_map(|workload| Some((workload.name, workload.enrolment?.state)))
        .collect())
}
