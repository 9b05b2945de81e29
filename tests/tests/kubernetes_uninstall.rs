//! Warren leaves a real cluster: links, pins, filters, rules, routes, CNI files, kinds of object and namespaces are as before, and
//! nobody notices.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::delivery::{file, helm};
use mesh_tests::kubernetes::kubectl::Kubectl;
use mesh_tests::kubernetes::load::{Load, Pace};
use mesh_tests::kubernetes::manifests::{self, Servers};
use mesh_tests::kubernetes::mesh::{Mesh, ROLLOUT, SYSTEM, dial, service};
use mesh_tests::kubernetes::story::{Story, nobody_leaves, story};
use mesh_tests::kubernetes::traces::Traces;

const LONGEST: Duration = Duration::from_secs(240);

/// Every request comes over a connection of its own: those that were open end with the mesh, after a while.
const NEW: Pace = Pace {
    requests: 1,
    kept: 0,
    age: None,
    connections: 20,
};

/// A server on each node, and a client on the first.
fn shop() -> String {
    let web = Servers {
        kind: "DaemonSet",
        ..Servers::ECHO
    };
    [
        web.manifest(),
        manifests::pod("client", "node1", "sleep, infinity"),
        manifests::service("web", "web", 80, ""),
    ]
    .concat()
}

/// Of a kind that goes with its definition.
const POLICY: &str = "
apiVersion: warren.dev/v1alpha1
kind: MeshPolicy
metadata: {name: strict}
spec: {mtls: {mode: strict}}
";

/// The shop, in a cluster without Warren.
fn open(told: &Story<'_>) -> Result<(SocketAddr, Traces)> {
    // Earlier stories leave it installed.
    warren(told, &["uninstall", "--kubernetes", "--crds"])?;
    nobody_leaves(told.cluster)?;
    told.kubectl.apply(&shop())?;
    told.kubectl.rolled_out("daemonset/web", ROLLOUT)?;
    told.kubectl
        .wait("condition=Ready", &["pod/client"], ROLLOUT)?;
    let web = service(&told.kubectl, "web")?;
    Ok((web, Traces::take(told.cluster)?))
}

fn warren(told: &Story<'_>, words: &[&str]) -> Result<String> {
    let program = mesh_tests::host::binary::warren()?;
    told.cluster.kubectl().launch(program).args(words).run()
}

/// The label is the user's, Warren's namespace is not, and the shop goes on.
fn is_gone(told: &Story<'_>, web: SocketAddr) -> Result<()> {
    let kubectl = told.cluster.kubectl();
    let label = kubectl.at(
        &["namespace", told.kubectl.namespace()],
        "/metadata/labels/warren.dev~1mesh",
    )?;
    ensure!(label == "enabled", "the label is {label:?}");
    let left = kubectl.run(&["get", "namespace", SYSTEM, "--ignore-not-found"])?;
    ensure!(left.is_empty(), "{left}");
    says_hello(&told.kubectl, web)
}

fn says_hello(kubectl: &Kubectl, web: SocketAddr) -> Result<()> {
    let report = dial(kubectl, "client", web)?;
    ensure!(report.received == "hello", "{report:?}");
    Ok(())
}

#[test]
fn everything_is_as_before_and_nobody_notices() -> Result<()> {
    story("uninstall", |told| {
        let (web, before) = open(told)?;
        let mesh = Mesh::install(told.cluster)?;
        told.kubectl.apply(POLICY)?;
        mesh.enable(told)?;
        says_hello(&told.kubectl, web)?;

        let load = Load::start(&told.kubectl, "client", web, NEW, LONGEST)?;
        let said = mesh.warren(&["uninstall", "--kubernetes", "--crds"])?;
        let paced = load.stop()?;
        ensure!(paced.failed() == 0, "{paced:?}\n{said}");
        ensure!(paced.connections > 50, "{paced:?}");
        // Whoever leaves dials in clear: nobody may be strict any more.
        let at =
            |what: &str| -> Vec<usize> { said.match_indices(what).map(|(at, _)| at).collect() };
        let (open, clean) = (at(" refuses nobody."), at(" is clean."));
        ensure!(
            open.len() == 2 && clean.len() == 2 && open.last() < clean.first(),
            "{said}"
        );

        is_gone(told, web)?;
        Traces::take(told.cluster)?.as_before(&before)?;
        // Once more: there is nothing to do, and that is no fault.
        warren(told, &["uninstall", "--kubernetes"])?;
        Ok(())
    })
}

#[test]
fn a_node_without_a_working_agent_is_cleaned_too() -> Result<()> {
    story("uninstall-broken", |told| {
        let (web, before) = open(told)?;
        let mesh = Mesh::install(told.cluster)?;
        mesh.enable(told)?;
        // Capture stays in the kernel; the agent does not come back.
        let broken = r#"[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--no-such-flag"}]"#;
        mesh.system.run(&[
            "patch",
            "daemonset/warren-node",
            "--type=json",
            "--patch",
            broken,
        ])?;
        mesh.restarted("an agent that does not start", |_| true)?;

        mesh.warren(&["uninstall", "--kubernetes", "--crds"])?;
        is_gone(told, web)?;
        Traces::take(told.cluster)?.as_before(&before)
    })
}

/// Where a node has its bpffs in the story about Helm.
const ELSEWHERE: &str = "/opt/bpf";

#[test]
fn helm_installs_and_uninstalls_the_same() -> Result<()> {
    let Some(helm) = helm()? else {
        return Ok(());
    };
    story("uninstall-helm", |told| {
        let (web, before) = open(told)?;
        let image = told.cluster.import_warren()?;
        let (repository, tag) = image.rsplit_once(':').context("an image without a tag")?;
        let run = |words: &[&str]| told.cluster.kubectl().launch(&helm).args(words).run();
        for machine in told.cluster.machines()? {
            machine.run(&["mkdir", "--parents", ELSEWHERE])?;
            machine.run(&["mount", "-t", "bpf", "bpf", ELSEWHERE])?;
        }
        let charts = ["deploy/helm/warren-crds", "deploy/helm/warren"]
            .map(|chart| file(chart).display().to_string());
        run(&["install", "warren-crds", &charts[0], "--wait"])?;
        run(&[
            "install",
            "warren",
            &charts[1],
            "--namespace=warren-system",
            "--create-namespace",
            // Servers before 1.22 cannot apply every kind by themselves.
            "--server-side=false",
            &format!("--set=image.repository={repository}"),
            &format!("--set=image.tag={tag}"),
            "--set=image.pullPolicy=Never",
            "--set=node.paths.cniBin=/usr/lib/cni",
            &format!("--set=node.paths.bpf={ELSEWHERE}"),
            "--wait",
            "--timeout=120s",
        ])?;
        warren(
            told,
            &[
                "enable",
                &format!("ns/{}", told.kubectl.namespace()),
                "--wait",
            ],
        )?;
        says_hello(&told.kubectl, web)?;
        warren(told, &["check"])?;
        for machine in told.cluster.machines()? {
            let pins = machine.run(&["ls", ELSEWHERE])?;
            ensure!(pins.contains("warren"), "capture is kept there: {pins}");
        }

        run(&["uninstall", "warren", "--namespace=warren-system", "--wait"])?;
        run(&["uninstall", "warren-crds", "--wait"])?;
        told.cluster
            .kubectl()
            .delete(&["namespace", "warren-system"])?;
        is_gone(told, web)?;
        for machine in told.cluster.machines()? {
            let pins = machine.run(&["ls", ELSEWHERE])?;
            ensure!(!pins.contains("warren"), "left there: {pins}");
            machine.run(&["umount", ELSEWHERE])?;
        }
        Traces::take(told.cluster)?.as_before(&before)
    })
}
