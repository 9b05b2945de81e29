//! The shop of the stories about the mesh in a real cluster: servers on both nodes, a client, a service.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::kubectl::{Kubectl, Pod};
use super::load::{Load, Pace};
use super::manifests::{self, SPREAD, Servers};
use super::mesh::{ROLLOUT, dial, service};
use super::story::Story;

/// Long enough for whatever a story does under load; it is told to stop.
pub const LONGEST: Duration = Duration::from_secs(360);

/// Two servers, one per node, that echo; a client on the first node; a service, and one without an address.
fn manifest() -> String {
    let spread = format!("serviceAccountName: server, terminationGracePeriodSeconds: 1, {SPREAD}");
    let web = Servers {
        spec: "replicas: 2",
        pod: &spread,
        words: "warren-probe, serve, 8080=echo, 9090=echo",
        container: "livenessProbe: {exec: {command: [/bin/true]}, periodSeconds: 1}",
        ..Servers::ECHO
    };
    [
        manifests::accounts(&["server", "client"]),
        web.manifest(),
        manifests::pod_as("client", "node1", "sleep, infinity", "client"),
        manifests::service("web", "web", 80, ""),
        manifests::service("headless", "web", 8080, "clusterIP: None"),
    ]
    .concat()
}

/// The shop, running.
pub struct Shop<'a> {
    /// `kubectl` in its namespace.
    pub kubectl: &'a Kubectl,
    /// Its service.
    pub web: SocketAddr,
}

impl<'a> Shop<'a> {
    /// Brings it up.
    pub fn open(told: &'a Story<'_>) -> Result<Self> {
        let kubectl = &told.kubectl;
        kubectl.apply(&manifest())?;
        kubectl.rolled_out("deployment/web", ROLLOUT)?;
        kubectl.wait("condition=Ready", &["pod/client"], ROLLOUT)?;
        let web = service(kubectl, "web")?;
        Ok(Self { kubectl, web })
    }

    /// The servers that are ready.
    pub fn servers(&self) -> Result<Vec<Pod>> {
        self.kubectl.ready_pods("app=web")
    }

    /// Load from the client to the service, until it is told to stop.
    pub fn load(&self) -> Result<Load> {
        Load::start(self.kubectl, "client", self.web, Pace::GENTLE, LONGEST)
    }

    /// Asks the service from the client; an error unless it answers.
    pub fn says(&self, what: &str) -> Result<()> {
        let report = dial(self.kubectl, "client", self.web)?;
        ensure!(report.received == "hello", "{what}: {report:?}");
        ensure!(report.peer == Some(self.web), "{what}: {report:?}");
        Ok(())
    }
}

/// How often the containers of a namespace were started again.
pub fn restarts(kubectl: &Kubectl) -> Result<u64> {
    let pods = kubectl.list(&["pods"])?;
    let containers = pods
        .iter()
        .filter_map(|pod| pod["status"]["containerStatuses"].as_array())
        .flatten();
    Ok(containers
        .filter_map(|container| container["restartCount"].as_u64())
        .sum())
}

/// Whether a flow was carried under mutual TLS.
pub fn is_meshed(flow: &Value) -> bool {
    flow["transport"] == "mutual_tls" && flow["verdict"] == "allowed"
}
