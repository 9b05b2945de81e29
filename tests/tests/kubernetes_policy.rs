//! Policies in a real cluster: strict mode and its exceptions, who may call whom, and what a bad object comes to.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::eventually::{always, eventually};
use mesh_tests::kubernetes::manifests::pod;
use mesh_tests::kubernetes::mesh::{Mesh, ROLLOUT, dial};
use mesh_tests::kubernetes::shop::{Shop, restarts};
use mesh_tests::kubernetes::story::story;

#[test]
fn strict_refuses_strangers_and_passes_probes() -> Result<()> {
    story("strict", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        let kubectl = &told.kubectl;
        kubectl.apply(&pod("stranger", "node1", "sleep, infinity"))?;
        kubectl.run(&["label", "pod", "stranger", "warren.dev/mesh=disabled"])?;
        kubectl.wait("condition=Ready", &["pod/stranger"], ROLLOUT)?;
        mesh.enable(told)?;
        kubectl.apply(
            "
apiVersion: warren.dev/v1alpha1
kind: MeshPolicy
metadata: {name: strict}
spec: {mtls: {mode: strict}}
---
apiVersion: warren.dev/v1alpha1
kind: MeshPolicy
metadata: {name: metrics}
spec: {mtls: {mode: permissive, ports: [9090]}}
",
        )?;
        let servers = shop.servers()?;
        let server = servers.first().context("a server")?;
        eventually("the stranger is refused", Duration::from_secs(20), || {
            let report = dial(kubectl, "stranger", SocketAddr::new(server.address, 8080))?;
            Ok((report.received != "hello").then_some(()))
        })?;
        let flow = mesh.flow(
            "that says why",
            kubectl.namespace(),
            &["--verdict=denied"],
            |_| true,
        )?;
        ensure!(flow["reason"].is_string(), "{flow:#}");
        let report = dial(kubectl, "stranger", SocketAddr::new(server.address, 9090))?;
        ensure!(report.received == "hello", "a permissive port: {report:?}");
        shop.says("the mesh itself")?;
        // Probes of every second go on for a while: not one may have failed.
        always("the servers stay ready", Duration::from_secs(6), || {
            Ok(shop.servers()?.len() == servers.len())
        })?;
        ensure!(restarts(kubectl)? == 0, "{}", kubectl.describe_pods());
        let accepted = kubectl.eventually(
            "the policy has a status",
            Duration::from_secs(20),
            &["meshpolicy", "strict"],
            |object| {
                let conditions = object["status"]["conditions"].as_array()?;
                conditions
                    .iter()
                    .find(|condition| condition["type"] == "Programmed")
                    .filter(|condition| condition["status"] == "True")
                    .cloned()
            },
        )?;
        ensure!(accepted["reason"].is_string(), "{accepted}");
        Ok(())
    })
}

#[test]
fn a_policy_denies_and_says_which_rule() -> Result<()> {
    story("policy", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        let kubectl = &told.kubectl;
        kubectl.apply(&pod("stranger", "node1", "sleep, infinity"))?;
        kubectl.wait("condition=Ready", &["pod/stranger"], ROLLOUT)?;
        mesh.enable(told)?;
        let report = dial(kubectl, "stranger", shop.web)?;
        ensure!(report.received == "hello", "before the policy: {report:?}");
        kubectl.apply(
            "
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-callers}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: ALLOW
  rules:
  - name: client-only
    sources: [{type: ServiceAccount, serviceAccount: {name: client}}]
",
        )?;
        eventually("the stranger is denied", Duration::from_secs(20), || {
            Ok((dial(kubectl, "stranger", shop.web)?.received != "hello").then_some(()))
        })?;
        shop.says("the client is allowed")?;
        mesh.flow(
            "with the policy's name",
            kubectl.namespace(),
            &["--verdict=denied"],
            |flow| {
                flow["rule"]
                    .as_str()
                    .is_some_and(|rule| rule.contains("web-callers"))
            },
        )?;

        // One bad object rejects only itself, and says so where it stands; whom it selects is closed until it is mended.
        kubectl.apply(
            "
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: bad}
spec:
  targetRefs: [{kind: Pod, selector: {matchLabels: {app: stranger}}}]
  action: DENY
  rules:
  - networkAttributes: {ports: [80, 80]}
",
        )?;
        let condition = kubectl.eventually(
            "the bad one is rejected",
            Duration::from_secs(20),
            &["authorizationpolicy", "bad"],
            |object| {
                let conditions = object["status"]["conditions"].as_array()?;
                conditions
                    .iter()
                    .find(|condition| condition["type"] == "Accepted")
                    .filter(|condition| condition["status"] == "False")
                    .cloned()
            },
        )?;
        ensure!(
            condition["message"]
                .as_str()
                .is_some_and(|text| text.contains("port 80 is given twice")),
            "{condition}"
        );
        shop.says("the good one still stands")
    })
}

#[test]
fn a_namespaces_owner_reaches_no_other_namespace() -> Result<()> {
    story("owner", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        let labels = serde_json::json!({"warren.dev/mesh": "enabled"});
        let other = told.another_namespace("other", &labels)?;
        other.apply(&pod("stranger", "node1", "sleep, infinity"))?;
        other.run(&["label", "pod", "stranger", "warren.dev/mesh=disabled"])?;
        // The strictest that there is, for names that are the shop's.
        other.apply(
            "
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: service}
spec:
  targetRefs: [{kind: Service, name: web}]
  action: DENY
  rules: [{name: everybody}]
---
apiVersion: warren.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: pods}
spec:
  targetRefs: [{kind: Pod, selector: {}}]
  action: DENY
  rules: [{name: everybody}]
---
apiVersion: warren.dev/v1alpha1
kind: MeshPolicy
metadata: {name: strict}
spec: {mtls: {mode: strict}}
",
        )?;
        other.wait(
            "condition=Programmed",
            &["authorizationpolicy/pods"],
            ROLLOUT,
        )?;
        other.wait("condition=Programmed", &["meshpolicy/strict"], ROLLOUT)?;
        other.wait("condition=Ready", &["pod/stranger"], ROLLOUT)?;
        shop.says("they are for another namespace")?;
        let report = dial(&other, "stranger", shop.web)?;
        ensure!(report.received == "hello", "so is strict: {report:?}");
        Ok(())
    })
}
