//! Warren in the real cluster, put there as its users do it: with the objects that `warren install` prints, and a label.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::cluster::Cluster;
use super::kubectl::{Kubectl, Pod};
use super::story::Story;
use crate::eventually::eventually_every;
use crate::host::binary;
use crate::probe::Report;

/// The mesh's own namespace.
pub const SYSTEM: &str = "warren-system";

/// From a manifest to pods that are ready, beside whatever else the machine does.
pub const ROLLOUT: Duration = Duration::from_secs(90);

/// From the old pods of the mesh itself to new ones, node after node: an old kubelet takes most of a minute to let go of a pod
/// whose container has ended.
pub const UPDATE: Duration = Duration::from_secs(200);

/// The pods of its agents, for kubectl.
pub const AGENTS: [&str; 2] = ["pods", "--selector=app.kubernetes.io/component=node"];

/// Those of its controllers.
pub const CONTROLLERS: [&str; 2] = ["pods", "--selector=app.kubernetes.io/component=controller"];

/// Between two looks through the command line.
const INTERVAL: Duration = Duration::from_millis(300);

/// The installed mesh.
#[derive(Debug)]
pub struct Mesh<'a> {
    cluster: &'a Cluster,
    /// In the mesh's own namespace.
    pub system: Kubectl,
}

impl<'a> Mesh<'a> {
    /// Installs it, or finds it installed, and waits until every part of it is ready.
    pub fn install(cluster: &'a Cluster) -> Result<Self> {
        let image = cluster.import_warren()?;
        let mesh = Self {
            cluster,
            system: cluster.kubectl().within(SYSTEM),
        };
        let (repository, tag) = image.rsplit_once(':').context("an image without a tag")?;
        mesh.apply(&["install", "--crds"])?;
        mesh.apply(&[
            "install",
            &format!("--set=image.repository={repository}"),
            &format!("--set=image.tag={tag}"),
            "--set=image.pullPolicy=Never",
            "--set=node.paths.cniBin=/usr/lib/cni",
        ])?;
        mesh.ready()?;
        Ok(mesh)
    }

    /// Waits until every part of it is ready.
    pub fn ready(&self) -> Result<()> {
        self.system
            .rolled_out("deployment/warren-controller", UPDATE)
            .and_then(|()| self.system.rolled_out("daemonset/warren-node", UPDATE))
            .with_context(|| self.logs())
    }

    /// The agent's pod on a node; an error unless it is ready.
    pub fn agent(&self, node: &str) -> Result<Pod> {
        let pods = self.system.ready_pods("app.kubernetes.io/component=node")?;
        let pod = pods.into_iter().find(|pod| pod.node == node);
        pod.with_context(|| format!("{node} has no agent that is ready"))
    }

    /// Waits until none of these pods is left.
    pub fn none_left(&self, pods: &[&str]) -> Result<()> {
        self.system
            .eventually("none of them is left", UPDATE, pods, |list| {
                list["items"].as_array()?.is_empty().then_some(())
            })
    }

    /// Waits until an agent's container, which was started again, is as it should be.
    pub fn restarted(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
        self.system.eventually(what, ROLLOUT, &AGENTS, |list| {
            let mut pods = list["items"].as_array()?.iter();
            pods.any(|pod| {
                let container = &pod["status"]["containerStatuses"][0];
                container["restartCount"].as_u64() > Some(0) && is(container)
            })
            .then_some(())
        })
    }

    fn apply(&self, words: &[&str]) -> Result<()> {
        let manifest = self.warren(words)?;
        self.cluster.kubectl().apply(&manifest)
    }

    /// Runs `warren` as an administrator of the cluster; gives its standard output.
    pub fn warren(&self, words: &[&str]) -> Result<String> {
        self.cluster
            .kubectl()
            .launch(binary::warren()?)
            .args(words)
            .run()
    }

    /// The same, read as JSON.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let text = self.warren(&[words, &["--output=json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("read what warren printed: {text}"))
    }

    /// Flows of a namespace, the newest last.
    pub fn flows(&self, namespace: &str, words: &[&str]) -> Result<Vec<Value>> {
        let asked = ["flows", "--ns", namespace, "--last=400", "--output=json"];
        let text = self.warren(&[&asked[..], words].concat())?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("read the flow {line}")))
            .collect()
    }

    /// Waits for a flow that is as it should be.
    pub fn flow(
        &self,
        what: &str,
        namespace: &str,
        words: &[&str],
        is: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = Vec::new();
        let found = eventually_every(INTERVAL, what, Duration::from_secs(20), || {
            last = self.flows(namespace, words)?;
            Ok(last.iter().find(|flow| is(flow)).cloned())
        });
        found.with_context(|| format!("the flows were {last:#?}"))
    }

    /// Makes a story's namespace one of the mesh, and waits until its pods are in it.
    pub fn enable(&self, story: &Story<'_>) -> Result<()> {
        let namespace = format!("ns/{}", story.kubectl.namespace());
        self.warren(&["enable", &namespace, "--wait", "--timeout=60s"])
            .map(drop)
    }

    /// Takes a story's namespace out of the mesh.
    pub fn disable(&self, story: &Story<'_>) -> Result<()> {
        let namespace = format!("ns/{}", story.kubectl.namespace());
        self.warren(&["disable", &namespace, "--wait", "--timeout=60s"])
            .map(drop)
    }

    /// Connections of the last minute that did not go well: for errors.
    pub fn troubles(&self) -> String {
        let words = ["flows", "-A", "--since=1m", "--not", "--verdict=allowed"];
        let said = self.warren(&words);
        said.unwrap_or_else(|error| format!("{error:#}\n"))
    }

    /// What its parts have written last: for errors.
    pub fn logs(&self) -> String {
        let mut text = self.system.describe_pods();
        for part in ["controller", "node"] {
            let selector = format!("--selector=app.kubernetes.io/component={part}");
            let said = self
                .system
                .run(&["logs", "--prefix", "--tail=40", &selector]);
            text.push_str(&said.unwrap_or_else(|error| format!("{error:#}\n")));
        }
        text
    }
}

/// The address and first port of a service.
pub fn service(kubectl: &Kubectl, name: &str) -> Result<SocketAddr> {
    let object = kubectl.get(&["service", name])?;
    let address: IpAddr = object["spec"]["clusterIP"]
        .as_str()
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("the service {name} has no address: {object}"))?;
    let port = object["spec"]["ports"][0]["port"].as_u64().unwrap_or(0);
    Ok(SocketAddr::new(address, u16::try_from(port)?))
}

/// Dials from a pod, says hello, and tells what came of it.
pub fn dial(kubectl: &Kubectl, pod: &str, to: SocketAddr) -> Result<Report> {
    let to = format!("--to={to}");
    let said = kubectl.exec(pod, &["warren-probe", "dial", &to, "--send=hello"])?;
    serde_json::from_str(&said).with_context(|| format!("read {said:?}"))
}
