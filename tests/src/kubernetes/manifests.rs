//! Manifests of stories: pods of the probe's image, what makes several of them, and what finds them.

/// One pod per node, as far as there are nodes.
pub const SPREAD: &str = "topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, \
     whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}}]";

/// A probe that is ready as soon as its first port listens.
const READY: &str = "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}";

/// A container of the probe's image: in YAML's flow style, as everything that takes `more`, which is further fields.
pub fn container(name: &str, words: &str, more: &str) -> String {
    format!(
        "{{name: {name}, image: registry.local/probe:1, imagePullPolicy: Never, command: [{words}], {more}}}"
    )
}

/// A pod that does one thing on one node.
pub fn pod(name: &str, node: &str, words: &str) -> String {
    pod_as(name, node, words, "default")
}

/// The same, with a service account.
pub fn pod_as(name: &str, node: &str, words: &str, account: &str) -> String {
    let container = container("main", words, "");
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec: {{nodeName: {node}, serviceAccountName: {account}, terminationGracePeriodSeconds: 0, containers: [{container}]}}
"
    )
}

/// Pods that serve on port 8080 and maybe others.
#[derive(Clone, Copy, Debug)]
pub struct Servers<'a> {
    /// Deployment, DaemonSet or StatefulSet.
    pub kind: &'a str,
    /// Also of the pods' label `app`.
    pub name: &'a str,
    /// Further fields of the specification.
    pub spec: &'a str,
    /// Further fields of the pods' specification.
    pub pod: &'a str,
    /// The probe's words.
    pub words: &'a str,
    /// Further fields of the container.
    pub container: &'a str,
}

impl Servers<'_> {
    /// Pods that echo and need no time to end.
    pub const ECHO: Self = Self {
        kind: "Deployment",
        name: "web",
        spec: "",
        pod: "terminationGracePeriodSeconds: 1",
        words: "warren-probe, serve, 8080=echo",
        container: "",
    };

    /// The manifest.
    pub fn manifest(&self) -> String {
        let Self {
            kind,
            name,
            spec,
            pod,
            words,
            container: more,
        } = self;
        let container = container(name, words, &format!("{READY}, {more}"));
        format!(
            "
---
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{containers: [{container}], {pod}}}}}
{}",
            lines(spec)
        )
    }
}

/// A service of the pods with a label `app`; `more`: further fields of its specification.
pub fn service(name: &str, app: &str, port: u16, more: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {app}}}, ports: [{{name: main, port: {port}, targetPort: 8080}}], {more}}}
"
    )
}

/// Service accounts.
pub fn accounts(names: &[&str]) -> String {
    names
        .iter()
        .map(|name| {
            format!("\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n")
        })
        .collect()
}

/// Fields of a specification, one per line.
fn lines(fields: &str) -> String {
    fields
        .lines()
        .map(|line| format!("  {}\n", line.trim()))
        .collect()
}
