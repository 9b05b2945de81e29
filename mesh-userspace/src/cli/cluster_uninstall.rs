//! `warren uninstall --kubernetes`: takes Warren out of a cluster, with the caller's own rights.
//!
//! The order matters. First everything that would repair what is taken away ends: the controllers, and with them the API that
//! the API server would go on asking. Then the nodes are cleaned, by pods that the cluster runs on each of them ([`nodes`]),
//! while connections go on. Then the objects go ([`objects`]), and what was written into those of others ([`traces`]).
//! Labels stay: they are people's, and mean the same when Warren comes back. Every step can be taken again.

use std::time::Duration;

use serde_json::Value;

use super::args::ClusterUninstallArgs;
use super::output::clean;
use super::{CliError, Context, Exit};
use crate::api::client::{ClientError, Cluster};

mod nodes;
mod objects;
mod traces;

#[cfg(test)]
mod tests;

/// How often the cluster is asked whether something has happened.
const LOOK: Duration = Duration::from_millis(500);

/// A cluster in which every request has a deadline.
struct Api<'c> {
    cluster: &'c Cluster,
    timeout: Duration,
    /// The namespace of the mesh itself.
    namespace: String,
}

/// Does what was asked.
pub(crate) async fn run(
    context: &mut Context<'_>,
    args: &ClusterUninstallArgs,
    timeout: Duration,
) -> Result<Exit, CliError> {
    let Some(cluster) = context.client.cluster() else {
        return Err(CliError::Usage("--kubernetes asks a cluster".to_owned()));
    };
    let api = Api {
        cluster,
        timeout,
        namespace: args.namespace.clone(),
    };
    let mut say = |line: String| -> Result<(), CliError> {
        writeln!(context.out, "{}", clean(&line))?;
        Ok(context.out.flush()?)
    };

    for line in objects::end_controllers(&api).await? {
        say(line)?;
    }
    let unclean = nodes::clean(&api, args, &mut say).await?;
    // They go while nodes are cleaned; what they have written can be removed once they cannot write it again.
    api.until_gone("controller", objects::PATIENCE).await?;
    for line in traces::remove_taints(&api).await? {
        say(line)?;
    }
    for line in traces::clear_routes(&api).await? {
        say(line)?;
    }
    for line in objects::remove_made(&api).await? {
        say(line)?;
    }
    if !args.before_helm {
        for line in objects::remove_installed(&api, args.crds).await? {
            say(line)?;
        }
    }
    if unclean.is_empty() {
        return Ok(Exit::Ok);
    }
    say(format!(
        "Not cleaned: {}. What is in their kernels goes with their next reboot; the network configuration of their pods names \
         the CNI plugin warren-cni until `warren uninstall` has run there.",
        unclean.join(", ")
    ))?;
    Ok(Exit::No)
}

impl Api<'_> {
    async fn find(&self, path: &str) -> Result<Option<Value>, ClientError> {
        self.in_time(self.cluster.find(path)).await
    }

    async fn create(&self, path: &str, object: &Value) -> Result<Value, ClientError> {
        self.in_time(self.cluster.create(path, object)).await
    }

    async fn merge(&self, path: &str, patch: &Value) -> Result<Value, ClientError> {
        self.in_time(self.cluster.merge(path, patch)).await
    }

    async fn remove(&self, path: &str) -> Result<bool, ClientError> {
        self.in_time(self.cluster.remove(path)).await
    }

    /// The items of a list; none of a kind that the cluster does not have.
    async fn list(&self, path: &str) -> Result<Vec<Value>, ClientError> {
        let list = self.find(path).await?;
        Ok(match list {
            Some(Value::Object(mut list)) => match list.remove("items") {
                Some(Value::Array(items)) => items,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        })
    }

    fn daemon_sets(&self) -> String {
        format!("/apis/apps/v1/namespaces/{}/daemonsets", self.namespace)
    }

    fn daemon_set(&self, name: &str) -> String {
        format!("{}/{name}", self.daemon_sets())
    }

    /// Pods of ours, by their component.
    async fn pods(&self, component: &str) -> Result<Vec<Value>, ClientError> {
        let selector = format!(
            "app.kubernetes.io%2Fname%3Dwarren%2Capp.kubernetes.io%2Fcomponent%3D{component}"
        );
        self.list(&format!(
            "/api/v1/namespaces/{}/pods?labelSelector={selector}",
            self.namespace
        ))
        .await
    }

    /// Waits until no pod of a component is left.
    async fn until_gone(&self, component: &str, longest: Duration) -> Result<(), CliError> {
        let deadline = tokio::time::Instant::now() + longest;
        loop {
            let pods = self.pods(component).await?;
            if pods.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                let names: Vec<String> = pods
                    .iter()
                    .map(|pod| {
                        let text = |at: &str| pod.pointer(at).and_then(Value::as_str);
                        format!(
                            "{} on {}",
                            text("/metadata/name").unwrap_or("?"),
                            text("/spec/nodeName").unwrap_or("no node")
                        )
                    })
                    .collect();
                return Err(CliError::TimedOut(format!(
                    "still there after {longest:?}: {}; when its node is back or removed from the cluster, run this again",
                    names.join(", ")
                )));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        tokio::time::timeout(self.timeout, work)
            .await
            .unwrap_or_else(|_late| {
                Err(ClientError::ClusterTimedOut {
                    server: self.cluster.server().to_owned(),
                    after: self.timeout,
                })
            })
    }
}
