//! What is on stage: nodes, workloads, and the configuration as a person would write it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::capture::{Capture, MARKER};
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::observe::Flow;
use mesh_tests::cluster::place::{Place, Server};
use mesh_tests::cluster::{Cluster, nginx};
use mesh_tests::host::process::Process;
use std::net::SocketAddr;

use crate::show::{flow_line, say};

/// The request of the oldest HTTP: the answer is the page alone.
const REQUEST: &str = "GET /\r\n";

/// How many connections a share is counted over.
const CONNECTIONS: u64 = 200;

pub(crate) struct Scene {
    pub(crate) a: Arc<Node>,
    pub(crate) b: Arc<Node>,
    pub(crate) client: Place,
    pub(crate) stranger: Place,
    pub(crate) v1: Place,
    pub(crate) v2: Place,
    // Ended when the scene is.
    _servers: [Process; 2],
    _echo: Server,
}

/// What the configuration says at one time.
pub(crate) struct Mesh {
    weights: (u32, u32),
    policy: bool,
}

impl Mesh {
    pub(crate) fn new(weights: (u32, u32)) -> Self {
        Self {
            weights,
            policy: false,
        }
    }

    pub(crate) fn with_policy(self) -> Self {
        Self {
            policy: true,
            ..self
        }
    }
}

impl Scene {
    pub(crate) fn build(cluster: &mut Cluster) -> Result<Self> {
        let (a, b) = cluster.two_nodes()?;
        let (client, stranger) = (a.pod("client")?, a.pod("stranger")?);
        let (v1, v2) = (b.pod("web-v1")?, b.pod("web-v2")?);
        let servers = [
            nginx::start(cluster, &v1, "v1")?,
            nginx::start(cluster, &v2, "v2")?,
        ];
        let echo = v1.serve(&["9000=echo"])?;
        for (place, node) in [(&client, &a), (&stranger, &a), (&v1, &b), (&v2, &b)] {
            say(&format!(
                "  {:9} on node {}   {}  {}",
                place.name(),
                node.name(),
                place.v4,
                place.v6
            ));
        }
        Ok(Self {
            a,
            b,
            client,
            stranger,
            v1,
            v2,
            _servers: servers,
            _echo: echo,
        })
    }

    /// The service's address.
    pub(crate) fn web(&self) -> SocketAddr {
        ([10, 200, 0, 1], 80).into()
    }

    /// A server that sends everything back.
    pub(crate) fn echo(&self) -> SocketAddr {
        self.v1.at(9000)
    }

    /// Without a mesh, whoever is in between reads along.
    pub(crate) fn in_clear(&self, cluster: &Cluster) -> Result<()> {
        let capture = Capture::start(cluster, cluster.wire())?;
        capture.prove(self.client.namespace(), self.v1.at(0))?;
        let report = self.client.dial(self.echo(), "plain", MARKER)?;
        ensure!(report.received == MARKER, "{report:?}");
        capture.assert_readable()?;
        say("  between the nodes, everything is readable");
        Ok(())
    }

    /// Writes the configuration that all nodes share, and waits until those that run decide with it.
    pub(crate) fn configure(&self, cluster: &Cluster, mesh: &Mesh) -> Result<()> {
        cluster.apply_text(&self.configuration(cluster, mesh))
    }

    fn configuration(&self, cluster: &Cluster, mesh: &Mesh) -> String {
        let mut text = format!(
            "apiVersion: warren.dev/v1alpha1\n\
             node: {{drain: 5s}}\n\
             trustDomain: demo.warren\n\
             identity: {{directory: {}, certificateLifetime: 24h}}\n\
             mtls: {{mode: strict}}\n\
             workloads:\n",
            cluster.folder().join("authority").display()
        );
        for (place, node, version) in [
            (&self.client, "a", "none"),
            (&self.stranger, "a", "none"),
            (&self.v1, "b", "v1"),
            (&self.v2, "b", "v2"),
        ] {
            text += &format!(
                "  - name: {}\n    namespace: shop\n    node: {node}\n    addresses: [{}, \"{}\"]\n    labels: {{version: \"{version}\"}}\n    \
                 select: {{networkNamespace: {}}}\n    udp: allow\n",
                place.name(),
                place.v4,
                place.v6,
                place.namespace().path().display()
            );
        }
        let (v1, v2) = mesh.weights;
        text += &format!(
            "services:\n\
             \x20 - name: web\n    namespace: shop\n    addresses: [10.200.0.1, \"fd00:200::1\"]\n    ports: [{{port: 80, targetPort: 8080}}]\n    \
             endpoints: [{{workload: web-v1}}, {{workload: web-v2}}]\n    subsets: {{v1: {{version: v1}}, v2: {{version: v2}}}}\n\
             routes:\n\
             \x20 - name: web-canary\n    namespace: shop\n    service: web\n    rules:\n      - name: split\n        port: 80\n        \
             backends: [{{subset: v1, weight: {v1}}}, {{subset: v2, weight: {v2}}}]\n"
        );
        if mesh.policy {
            text += "policies:\n\
                \x20 - name: web-callers\n    namespace: shop\n    target: {service: web}\n    rules:\n      \
                - {name: client-only, action: allow, from: [{serviceAccount: shop/client}]}\n";
        }
        text
    }

    pub(crate) fn show_flows(&self) -> Result<()> {
        let follow = self
            .a
            .cli_command(&["flows", "--follow", "--last", "0", "-o", "json"])?
            .start()?;
        let mut shown = 0;
        for _ in 0..50 {
            let report = self.client.dial(self.web(), "plain", REQUEST)?;
            ensure!(report.error.is_none(), "{report:?}");
            while let Ok(line) = follow.line(Duration::from_millis(100)) {
                let flow: Flow = serde_json::from_str(&line).with_context(|| line.clone())?;
                say(&flow_line(&flow));
                shown += 1;
            }
            if shown >= 3 {
                return Ok(());
            }
        }
        anyhow::bail!("no flow was shown")
    }

    pub(crate) fn show_shares(&self, weights: (u32, u32)) -> Result<()> {
        let count = self
            .client
            .load_saying(self.web(), REQUEST, CONNECTIONS, 4)?;
        ensure!(count.failed() == 0, "connections failed: {count:?}");
        let share = |name: &str| {
            count.answers.get(name).copied().unwrap_or_default() as f64 * 100.0 / count.done as f64
        };
        let (v1, v2) = (share("v1"), share("v2"));
        say(&format!(
            "  v1 {:3} v2 {:3}     v1 {v1:5.1} % {:20} v2 {v2:5.1} %",
            weights.0,
            weights.1,
            "▓".repeat((v1 / 5.0) as usize)
        ));
        ensure!(
            (v1 - f64::from(weights.0)).abs() <= 1.0,
            "configured {weights:?}, observed {v1} to {v2}"
        );
        Ok(())
    }

    pub(crate) fn show_denial(&self) -> Result<()> {
        let allowed = self.client.dial(self.web(), "plain", REQUEST)?;
        ensure!(
            allowed.error.is_none(),
            "the client must be allowed: {allowed:?}"
        );
        let denied = self.stranger.dial(self.web(), "plain", REQUEST)?;
        ensure!(
            denied.received.is_empty(),
            "the stranger must be denied: {denied:?}"
        );
        let flow = self.b.wait_flow(
            "that denies the stranger",
            &["--verdict", "denied"],
            |flow| flow.source.workload.as_deref() == Some("stranger.shop"),
        )?;
        say(&flow_line(&flow));
        let explained = self.a.cli(&["explain", "stranger.shop", "web.shop:80"])?;
        say("$ warren explain stranger.shop web.shop:80");
        say(explained.stdout.trim_end());
        Ok(())
    }

    /// Takes all workloads out of the configuration.
    pub(crate) fn leave(&self, cluster: &Cluster) -> Result<()> {
        cluster.write_text(&format!(
            "apiVersion: warren.dev/v1alpha1\ntrustDomain: demo.warren\nidentity: {{directory: {}}}\n",
            cluster.folder().join("authority").display()
        ))?;
        for node in [&self.a, &self.b] {
            node.wait_status("all have left", Duration::from_secs(10), |status| {
                status.workloads.enrolled == 0
            })?;
        }
        let report = self.client.dial(self.echo(), "plain", "hello")?;
        ensure!(report.received == "hello", "{report:?}");
        Ok(())
    }
}
