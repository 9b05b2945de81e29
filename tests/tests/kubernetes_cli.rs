//! The command line in a real cluster: what it tells an administrator, and what it tells somebody who may look into one
//! namespace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::host::binary;
use mesh_tests::kubernetes::layout::folder;
use mesh_tests::kubernetes::mesh::Mesh;
use mesh_tests::kubernetes::shop::{Shop, is_meshed};
use mesh_tests::kubernetes::story::{Story, story};
use serde_json::{Value, json};

/// Somebody who may look into the story's namespace.
const VIEWER: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: viewer}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: viewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: viewer}]
";

#[test]
fn it_tells_what_there_is() -> Result<()> {
    story("told", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        shop.says("so that there is a flow")?;
        let namespace = told.kubectl.namespace();

        let status = mesh.json(&["status"])?;
        let nodes = status["nodes"].as_array().map_or(0, Vec::len);
        ensure!(nodes == 2 && status["leader"].is_string(), "{status:#}");
        let listed = |kind: &str| mesh.warren(&["get", kind, "--namespace", namespace]);
        for (kind, names) in [
            ("workloads", &["client", "web-"][..]),
            ("services", &["web"]),
            ("certs", &["sa/client", "sa/server"]),
        ] {
            let said = listed(kind)?;
            ensure!(
                names.iter().all(|name| said.contains(name)),
                "{kind}: {said}"
            );
        }
        let explain =
            |source: &str| mesh.json(&["explain", "--namespace", namespace, source, "svc/web"]);
        let explained = explain("pod/client")?;
        let steps = explained["steps"].as_array().context("steps")?;
        ensure!(
            explained["verdict"] == "allowed" && steps.iter().any(|step| step["step"] == "mtls"),
            "{explained:#}"
        );
        let nobody = explain("pod/nobody");
        ensure!(nobody.is_err(), "nobody would be {nobody:?}");
        mesh.flow("across nodes", namespace, &[], is_meshed)?;

        // As kubectl runs it.
        let plugin = folder().join("kubectl-warren");
        symlink(binary::warren()?, &plugin).context("name it as a plugin")?;
        let said = told
            .cluster
            .kubectl()
            .launch(&plugin)
            .args(["status", "--output=json"])
            .run();
        fs::remove_file(&plugin).context("remove the plugin")?;
        let by_plugin: Value = serde_json::from_str(&said?).context("read what it printed")?;
        ensure!(
            by_plugin["nodes"].as_array().map_or(0, Vec::len) == nodes,
            "{by_plugin:#}"
        );
        Ok(())
    })
}

/// A kubeconfig of the viewer's, from an administrator's.
fn viewer(told: &Story<'_>) -> Result<PathBuf> {
    told.kubectl.apply(VIEWER)?;
    let request = folder().join("token-request.json");
    let asked =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    fs::write(&request, asked.to_string()).context("write the request")?;
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/viewer/token",
        told.kubectl.namespace()
    );
    let file = request.display().to_string();
    let said = told
        .cluster
        .kubectl()
        .run(&["create", "--raw", &path, "--filename", &file])?;
    let answer: Value = serde_json::from_str(&said).with_context(|| format!("read {said}"))?;
    let view = ["config", "view", "--raw", "--output=json"];
    let mut kubeconfig: Value = serde_json::from_str(&told.cluster.kubectl().run(&view)?)?;
    kubeconfig["users"][0]["user"] = json!({"token": answer["status"]["token"]});
    // What it refers to is beside it.
    let kubectl = told.cluster.kubectl();
    let file = kubectl.kubeconfig().with_file_name("viewer.kubeconfig");
    fs::write(&file, kubeconfig.to_string()).context("write the kubeconfig")?;
    Ok(file)
}

#[test]
fn it_tells_everybody_what_they_may_know() -> Result<()> {
    story("viewer", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        shop.says("so that there is a flow")?;
        let namespace = told.kubectl.namespace();
        mesh.flow("it is there", namespace, &[], is_meshed)?;

        let kubeconfig = viewer(told)?;
        let ask = |words: &[&str]| {
            told.cluster
                .kubectl()
                .launch(binary::warren()?)
                .args(["--kubeconfig".as_ref(), kubeconfig.as_os_str()])
                .args(words)
                .output()
        };
        let (status, said) = ask(&["flows", "--namespace", namespace, "--last=5"])?;
        ensure!(status.success() && said.contains("client"), "{said}");
        let (status, said) = ask(&["get", "workloads", "--namespace", namespace])?;
        ensure!(status.success() && said.contains("client"), "{said}");
        for words in [
            &["flows", "--namespace", "kube-system", "--last=5"][..],
            &["flows", "--all-namespaces", "--last=5"],
            &["get", "certs", "--all-namespaces"],
        ] {
            let (status, said) = ask(words)?;
            ensure!(!status.success(), "{words:?} is told to the viewer: {said}");
            ensure!(!said.contains("client"), "{said}");
        }
        Ok(())
    })
}
