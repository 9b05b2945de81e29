//! Weights in a real cluster: a route of the Gateway API whose parent is a Service splits its connections.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::eventually::eventually;
use mesh_tests::kubernetes::kubectl::Kubectl;
use mesh_tests::kubernetes::manifests::pod;
use mesh_tests::kubernetes::mesh::{Mesh, ROLLOUT, service};
use mesh_tests::kubernetes::story::story;
use mesh_tests::probe::load::Count;
use serde_json::Value;

/// The kind of the Gateway API, its schema cut down to what a server of 1.20 needs to know.
const KIND: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: tcproutes.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: 'https://github.com/kubernetes-sigs/gateway-api/pull/2997'}
spec:
  group: gateway.networking.k8s.io
  names: {kind: TCPRoute, listKind: TCPRouteList, plural: tcproutes, singular: tcproute}
  scope: Namespaced
  versions:
  - name: v1alpha2
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web-v1}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v1}
spec: {selector: {app: web-v1}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2}
spec: {selector: {app: web-v2}, ports: [{port: 80, targetPort: 8080}]}
";

fn route(first: u32, second: u32) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{group: '', kind: Service, name: web}}]
  rules:
  - backendRefs: [{{name: web-v1, port: 80, weight: {first}}}, {{name: web-v2, port: 80, weight: {second}}}]
"
    )
}

/// How many of 100 connections each version answered.
fn shares(kubectl: &Kubectl, web: SocketAddr) -> Result<(u64, u64)> {
    let to = format!("--to={web}");
    let words = [
        "warren-probe",
        "load",
        &to,
        "--connections=100",
        "--parallel=4",
        "--millis=30000",
    ];
    let said = kubectl.exec("client", &words)?;
    let count: Count = serde_json::from_str(&said).with_context(|| format!("read {said:?}"))?;
    let of = |name: &str| count.answers.get(name).copied().unwrap_or(0);
    ensure!(of("v1") + of("v2") == 100, "{count:?}");
    Ok((of("v1"), of("v2")))
}

fn condition(object: &Value, kind: &str) -> Option<Value> {
    let conditions = object["status"]["parents"][0]["conditions"].as_array()?;
    let is = |condition: &&Value| condition["type"] == kind && condition["status"] == "True";
    conditions.iter().find(is).cloned()
}

#[test]
fn a_route_splits_the_connections_of_a_service() -> Result<()> {
    story("routes", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let kubectl = &told.kubectl;
        kubectl.apply(KIND)?;
        kubectl.apply(SERVICES)?;
        kubectl.apply(&pod(
            "web-v1",
            "node1",
            "warren-probe, serve, '8080=name:v1'",
        ))?;
        kubectl.apply(&pod(
            "web-v2",
            "node2",
            "warren-probe, serve, '8080=name:v2'",
        ))?;
        kubectl.apply(&pod("client", "node1", "sleep, infinity"))?;
        kubectl.wait(
            "condition=Ready",
            &["pod/web-v1", "pod/web-v2", "pod/client"],
            ROLLOUT,
        )?;
        mesh.enable(told)?;
        let web = service(kubectl, "web")?;
        ensure!(shares(kubectl, web)? == (100, 0), "without a route");

        for (first, second) in [(90, 10), (50, 50), (0, 100)] {
            kubectl.apply(&route(first, second))?;
            let mut last = (0, 0);
            let near = |share: u64, weight: u32| share.abs_diff(u64::from(weight)) <= 1;
            eventually(
                "the shares are as they should",
                Duration::from_secs(30),
                || {
                    last = shares(kubectl, web)?;
                    Ok((near(last.0, first) && near(last.1, second)).then_some(()))
                },
            )
            .with_context(|| format!("{last:?} for {first}/{second}"))?;
        }
        kubectl.eventually(
            "the route has a status",
            Duration::from_secs(20),
            &["tcproute", "web"],
            |object| condition(object, "Accepted").and_then(|_| condition(object, "Programmed")),
        )?;
        kubectl.delete(&["tcproute", "web"])?;
        eventually("without it", Duration::from_secs(30), || {
            Ok((shares(kubectl, web)? == (100, 0)).then_some(()))
        })
    })
}
