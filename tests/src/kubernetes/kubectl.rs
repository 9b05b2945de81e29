//! The cluster as its users see it: through `kubectl`. Errors have the command, and what it said.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cache::Cache;
use super::layout::{CONTROL, folder, kubeconfig};
use crate::eventually::eventually_every;
use crate::host::command::{feed, finish};
use crate::host::process::{Launch, Process};

/// Between two looks at an object.
const INTERVAL: Duration = Duration::from_millis(200);

/// How to run `kubectl`, and in which namespace of the cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// Where the API server can be reached; everywhere, when absent.
    network: Option<&'static str>,
    /// Objects that name none are in `default`, when absent.
    namespace: Option<String>,
}

impl Kubectl {
    /// For the cluster on this machine.
    pub(super) fn of_machine(cache: &Cache) -> Self {
        Self {
            program: cache.component("kubectl"),
            kubeconfig: kubeconfig(),
            network: Some(CONTROL),
            namespace: None,
        }
    }

    /// For a cluster somewhere, with the `kubectl` that is installed.
    pub(super) fn of_file(kubeconfig: &Path) -> Self {
        Self {
            program: "kubectl".into(),
            kubeconfig: kubeconfig.to_owned(),
            network: None,
            namespace: None,
        }
    }

    /// The same in another namespace.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self.clone()
        }
    }

    /// The namespace in which it works.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// The kubeconfig of an administrator, for other programs.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A program that can reach the API server, with `KUBECONFIG` set.
    pub fn launch(&self, program: impl AsRef<std::ffi::OsStr>) -> Launch {
        let launch = Launch::new(program).env("KUBECONFIG", &self.kubeconfig);
        match self.network {
            Some(network) => launch.namespace(network),
            None => launch,
        }
    }

    fn launch_kubectl(&self, arguments: &[&str]) -> Launch {
        // With the flag, objects of other namespaces would be refused.
        let namespace = self.namespace.iter().flat_map(|name| ["--namespace", name]);
        self.launch(&self.program)
            .args(["--cache-dir".as_ref(), folder().join("kubectl").as_os_str()])
            .args(namespace)
            .args(arguments)
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        self.launch_kubectl(arguments).command()
    }

    /// Runs it; gives its standard output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(arguments)?
            .stdin(Stdio::null())
            .output()
            .context("start kubectl")?;
        finish(&format!("kubectl {}", arguments.join(" ")), output)
    }

    /// Starts it and lets it run, e.g. `port-forward`.
    pub fn start(&self, arguments: &[&str]) -> Result<Process> {
        self.launch_kubectl(arguments).start()
    }

    /// Creates or changes objects.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let words = format!("kubectl apply -f - <<EOF\n{manifest}\nEOF");
        feed(&mut self.command(&["apply", "-f", "-"])?, &words, manifest).map(drop)
    }

    /// Deletes objects and waits until they are gone; those that do not exist are no fault.
    pub fn delete(&self, arguments: &[&str]) -> Result<()> {
        self.run(&[&["delete", "--ignore-not-found", "--wait"], arguments].concat())
            .map(drop)
    }

    /// Objects as JSON: `["pods", "-l", "app=web"]` gives a list, `["pod", "web-0"]` one.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        self.get_as(arguments)
    }

    /// The same, read into a type.
    pub fn get_as<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let text = self.run(&[&["get", "--output=json"], arguments].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("read what `kubectl get {}` printed", arguments.join(" ")))
    }

    /// A text in an object, e.g. `at(&["pod", "web"], "/status/podIP")`.
    pub fn at(&self, arguments: &[&str], pointer: &str) -> Result<String> {
        let object = self.get(arguments)?;
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("{} has no text at {pointer}: {object}", arguments.join(" ")))
    }

    /// Objects of a list.
    pub fn list(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        match self.get(arguments)?["items"].take() {
            Value::Array(items) => Ok(items),
            other => Err(anyhow!("{} is no list: {other}", arguments.join(" "))),
        }
    }

    /// Looks at objects until something is found in them.
    pub fn eventually<T>(
        &self,
        what: &str,
        within: Duration,
        arguments: &[&str],
        mut find: impl FnMut(&Value) -> Option<T>,
    ) -> Result<T> {
        let mut last = Value::Null;
        let found = eventually_every(INTERVAL, what, within, || {
            last = self.get(arguments)?;
            Ok(find(&last))
        });
        found.with_context(|| format!("the last look at {}: {last}", arguments.join(" ")))
    }

    /// Looks until a condition holds, where a look is a run of kubectl or several.
    pub fn until(
        &self,
        what: &str,
        within: Duration,
        mut holds: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        eventually_every(INTERVAL, what, within, || Ok(holds(self)?.then_some(())))
            .with_context(|| self.describe_pods())
    }

    /// Waits until a Deployment, DaemonSet or StatefulSet has rolled out.
    pub fn rolled_out(&self, workload: &str, within: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", within.as_secs());
        self.run(&["rollout", "status", workload, &timeout])
            .with_context(|| self.describe_pods())
            .map(drop)
    }

    /// Waits for a condition, as `kubectl wait` does: `wait("condition=Ready", &["pod", "web"], …)`.
    pub fn wait(&self, condition: &str, objects: &[&str], within: Duration) -> Result<()> {
        let condition = format!("--for={condition}");
        let timeout = format!("--timeout={}s", within.as_secs());
        self.run(&[&["wait", &condition, &timeout], objects].concat())
            .with_context(|| self.describe_pods())
            .map(drop)
    }

    /// Runs a program in a pod; gives its standard output.
    pub fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        self.run(&[&["exec", pod, "--"], words].concat())
    }

    /// What a pod has written.
    pub fn logs(&self, pod: &str) -> Result<String> {
        self.run(&["logs", pod])
    }

    /// Names of ready pods that a selector picks, and their nodes.
    pub fn ready_pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let pods = self.list(&["pods", "--selector", selector])?;
        Ok(pods.iter().filter_map(Pod::ready).collect())
    }

    /// What is the matter with the pods of this namespace: for errors.
    pub fn describe_pods(&self) -> String {
        [
            &["get", "pods", "--output=wide"][..],
            &["get", "events", "--sort-by=.lastTimestamp"],
        ]
        .iter()
        .map(|arguments| {
            self.run(arguments)
                .unwrap_or_else(|error| format!("{error:#}\n"))
        })
        .collect()
    }

    /// Makes a namespace, with labels, and waits until it takes pods: only then is its service account there.
    pub fn create_namespace(&self, name: &str, labels: &Value) -> Result<Self> {
        let manifest = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        });
        self.apply(&manifest.to_string())?;
        let within = self.within(name);
        within.wait_for_account()?;
        Ok(within)
    }

    /// A new namespace refuses pods until its default service account is there.
    pub(super) fn wait_for_account(&self) -> Result<()> {
        let account = ["serviceaccount", "default"];
        self.eventually(
            "the namespace takes pods",
            Duration::from_secs(30),
            &account,
            |found| {
                // The releases of today need no Secret for that any more.
                let is_old = self.network.is_some();
                (found["secrets"].is_array() || !is_old).then_some(())
            },
        )
    }
}

/// A pod that serves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: std::net::IpAddr,
    /// The node on which it runs.
    pub node: String,
    /// Its unique id.
    pub uid: String,
}

impl Pod {
    /// A pod from its object, if it is ready and not about to end.
    fn ready(object: &Value) -> Option<Self> {
        let is_ready = object["status"]["conditions"]
            .as_array()?
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        let ends = !object["metadata"]["deletionTimestamp"].is_null();
        if !is_ready || ends {
            return None;
        }
        Some(Self {
            name: object["metadata"]["name"].as_str()?.to_owned(),
            address: object["status"]["podIP"].as_str()?.parse().ok()?,
            node: object["spec"]["nodeName"].as_str()?.to_owned(),
            uid: object["metadata"]["uid"].as_str()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Pod;

    #[test]
    fn only_ready_pods_that_stay_count() {
        let mut pod = json!({
            "metadata": {"name": "web", "uid": "u"},
            "spec": {"nodeName": "node1"},
            "status": {"podIP": "10.244.1.2", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let ready = Pod::ready(&pod).unwrap();
        assert_eq!((ready.name.as_str(), ready.node.as_str()), ("web", "node1"));
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(Pod::ready(&pod), None);
        pod["metadata"]["deletionTimestamp"] = json!(null);
        pod["status"]["conditions"][0]["status"] = json!("False");
        assert_eq!(Pod::ready(&pod), None);
    }
}
