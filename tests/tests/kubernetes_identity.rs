//! Identities in a real cluster: what is signed for whom, whatever was stolen.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::eventually::eventually;
use mesh_tests::kubernetes::kubectl::Pod;
use mesh_tests::kubernetes::machine::Machine;
use mesh_tests::kubernetes::mesh::{Mesh, service};
use mesh_tests::kubernetes::shop::Shop;
use mesh_tests::kubernetes::story::{Story, story};
use mesh_tests::kubernetes::thief::Thief;

/// What a thief tries.
const TRIES: usize = 1000;

/// As many of them in one call as an agent would ask for.
const AT_ONCE: usize = 50;

/// The token of a pod that a node's kubelet keeps in a volume.
fn token(machine: &Machine, pod: &Pod, volume: &str) -> Result<String> {
    let volumes = format!("/var/lib/kubelet/pods/{}/volumes", pod.uid);
    let file = machine.path(&format!("{volumes}/{volume}"));
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

/// Requests for certificates that the controllers have refused, for a reason.
fn refused(told: &Story<'_>, mesh: &Mesh<'_>, reason: &str) -> Result<usize> {
    let machine = told.cluster.machine("node1")?;
    let label = format!("reason=\"{reason}\"");
    let mut count = 0;
    for pod in mesh
        .system
        .ready_pods("app.kubernetes.io/component=controller")?
    {
        let (code, text) = machine.http_get(SocketAddr::new(pod.address, 15020), "/metrics")?;
        ensure!(code == 200, "metrics answered {code}: {text}");
        let lines = text
            .lines()
            .filter(|line| line.contains("certificates_refused") && line.contains(&label));
        for line in lines {
            let number = line.rsplit(' ').next().unwrap_or_default();
            count += number.parse::<f64>().with_context(|| line.to_owned())? as usize;
        }
    }
    Ok(count)
}

#[test]
fn a_stolen_token_gets_no_identity_of_another_node() -> Result<()> {
    story("thief", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        let namespace = told.kubectl.namespace();
        let domain = mesh
            .system
            .at(&["configmap", "warren-trust"], "/data/trust-domain")?;
        let identity = |account: &str| format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
        let controller = service(&mesh.system, "warren-controller")?;
        let there = told.cluster.machine("node2")?;
        let thief = Thief::on(there, controller)?;
        let stolen = token(
            &there,
            &mesh.agent("node2")?,
            "kubernetes.io~projected/token/warren-controller",
        )?;

        // A token is good for its own node only, and no other one is good for any.
        let other = thief.enrol(&stolen, "node1")?;
        ensure!(
            other.as_ref().is_err_and(|why| why.contains("node2")),
            "{other:?}"
        );
        let servers = shop.servers()?;
        let server = servers
            .iter()
            .find(|pod| pod.node == "node2")
            .context("a server on node2")?;
        let account = told
            .kubectl
            .at(&["pod", &server.name], "/spec/volumes/0/name")?;
        let wrong = token(
            &there,
            server,
            &format!("kubernetes.io~secret/{account}/token"),
        )?;
        for token in [wrong.as_str(), "", "garbage"] {
            let outcome = thief.enrol(token, "node2")?;
            ensure!(outcome.is_err(), "{token}: {outcome:?}");
        }
        let nothing = thief.sign(&[&identity("server")]);
        ensure!(nothing.is_err(), "without a certificate: {nothing:?}");

        // With it, the thief has what the node has.
        let chain = thief.enrol(&stolen, "node2")?;
        ensure!(chain.is_ok(), "{chain:?}");
        let own = thief.sign(&[&identity("server")])?;
        ensure!(own[0].is_ok(), "one that runs on the node: {own:?}");

        // And nothing else: the client runs on the other node.
        let before = refused(told, &mesh, "not-on-node")?;
        let victims = [
            identity("client"),
            identity("nobody"),
            format!("spiffe://{domain}/ns/{namespace}-other/sa/server"),
            format!("spiffe://{domain}/ns/warren-system/sa/warren-controller"),
        ];
        let wanted: Vec<&str> = victims
            .iter()
            .map(String::as_str)
            .cycle()
            .take(TRIES)
            .collect();
        for identities in wanted.chunks(AT_ONCE) {
            for (identity, outcome) in identities.iter().zip(thief.sign(identities)?) {
                ensure!(outcome.is_err(), "{identity} was given away");
            }
        }
        eventually("all are counted", Duration::from_secs(10), || {
            let count = refused(told, &mesh, "not-on-node")? - before;
            Ok((count >= TRIES).then_some(()))
        })?;
        shop.says("nothing has come of it")
    })
}
