//! Warren in a real cluster: a namespace is labelled, and its pods are meshed, those that run and those to come.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::eventually::eventually;
use mesh_tests::kubernetes::kubectl::Kubectl;
use mesh_tests::kubernetes::manifests::{self, Servers, pod};
use mesh_tests::kubernetes::mesh::{Mesh, ROLLOUT, dial};
use mesh_tests::kubernetes::shop::{Shop, is_meshed, restarts};
use mesh_tests::kubernetes::story::story;
use serde_json::Value;

/// How long the load goes on before and after each change.
const WHILE: Duration = Duration::from_secs(2);

/// One pod with a name of its own.
fn database() -> String {
    let pods = Servers {
        kind: "StatefulSet",
        name: "db",
        spec: "serviceName: db",
        ..Servers::ECHO
    };
    let service = manifests::service("db", "db", 8080, "clusterIP: None");
    pods.manifest() + &service
}

#[test]
fn a_label_meshes_what_runs_and_nothing_fails() -> Result<()> {
    story("label", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        let load = shop.load()?;
        sleep(WHILE);
        mesh.enable(told)?;
        sleep(WHILE);
        let namespace = told.kubectl.namespace();
        let identity =
            |account: &str| format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        let flow = mesh.flow("encrypted, with both identities", namespace, &[], |flow| {
            is_meshed(flow) && flow["destination"]["identity"].is_string()
        })?;
        ensure!(
            flow["source"]["identity"] == identity("client").as_str()
                && flow["destination"]["identity"] == identity("server").as_str()
                && flow["tls"]
                    .as_str()
                    .is_some_and(|tls| tls.starts_with("TLSv1.3 ")),
            "{flow:#}"
        );
        mesh.flow(
            "told by the server's node, too",
            namespace,
            &["--direction=inbound"],
            is_meshed,
        )?;
        mesh.disable(told)?;
        shop.says("out of the mesh")?;
        sleep(WHILE);
        let paced = load.stop()?;
        ensure!(paced.failed() == 0, "{paced:?}\n{}", mesh.logs());
        ensure!(paced.requests > 300 && paced.connections > 60, "{paced:?}");
        ensure!(
            restarts(&told.kubectl)? == 0,
            "{}",
            told.kubectl.describe_pods()
        );
        Ok(())
    })
}

#[test]
fn the_first_packet_of_a_new_pod_is_captured() -> Result<()> {
    story("first", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        let errand = |what: &str| {
            let words = format!("warren-probe, dial, --to={}, --send={what}", shop.web);
            manifests::container(what, &words, "")
        };
        told.kubectl.apply(&format!(
            "
apiVersion: batch/v1
kind: Job
metadata: {{name: errand}}
spec:
  backoffLimit: 0
  template:
    metadata: {{labels: {{app: errand}}}}
    spec:
      restartPolicy: Never
      initContainers: [{}]
      containers: [{}]
",
            errand("first"),
            errand("then")
        ))?;
        told.kubectl
            .wait("condition=Complete", &["job/errand"], ROLLOUT)
            .with_context(|| mesh.logs())?;
        for container in ["first", "then"] {
            let said = told.kubectl.run(&["logs", "job/errand", "-c", container])?;
            ensure!(
                said.contains(&format!("\"received\":\"{container}\"")),
                "{said}"
            );
        }
        // Every connection of the pod, from its first on: none in clear, none outside the mesh.
        let namespace = told.kubectl.namespace();
        let of_errand = |flow: &Value| {
            flow["source"]["workload"]
                .as_str()
                .is_some_and(|name| name.starts_with("errand-"))
        };
        let flows = eventually("both connections", Duration::from_secs(20), || {
            let flows = mesh.flows(namespace, &["--direction=outbound"])?;
            let flows: Vec<Value> = flows.into_iter().filter(of_errand).collect();
            Ok((flows.len() >= 2).then_some(flows))
        })?;
        ensure!(flows.iter().all(is_meshed), "{flows:#?}");
        Ok(())
    })
}

#[test]
fn every_kind_of_destination_works() -> Result<()> {
    story("kinds", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        let outside = told.another_namespace("outside", &serde_json::json!({}))?;
        outside.apply(&pod("stranger", "node2", "warren-probe, serve, 8080=echo"))?;
        outside.wait("condition=Ready", &["pod/stranger"], ROLLOUT)?;
        mesh.enable(told)?;
        let kubectl = &told.kubectl;
        let at = |kubectl: &Kubectl, pod: &str, port: u16| -> Result<SocketAddr> {
            let address = kubectl.at(&["pod", pod], "/status/podIP")?;
            Ok(SocketAddr::new(address.parse()?, port))
        };

        shop.says("the address of a service")?;
        let servers = shop.servers()?;
        for server in &servers {
            let to = SocketAddr::new(server.address, 8080);
            let report = dial(kubectl, "client", to)?;
            ensure!(
                report.received == "hello" && report.peer == Some(to),
                "{server:?}: {report:?}"
            );
            // The server sees the client itself, whichever node it is on.
            let client = report.local.context("the client has no address")?;
            let seen = kubectl.logs(&server.name)?;
            ensure!(
                seen.contains(&format!("\"peer\":\"{}:", client.ip())),
                "{client}: {seen}"
            );
            // One's own service, which may pick oneself.
            for _ in 0..4 {
                let report = dial(kubectl, &server.name, shop.web)?;
                ensure!(
                    report.received == "hello",
                    "to one's own service: {report:?}"
                );
            }
        }
        // Names that have no address of their own: of a headless service, and of one pod of a StatefulSet.
        kubectl.apply(&database())?;
        kubectl.rolled_out("statefulset/db", ROLLOUT)?;
        let addresses = |name: &str| -> Result<BTreeSet<IpAddr>> {
            let said = kubectl.exec("client", &["warren-probe", "resolve", name])?;
            serde_json::from_str(&said).with_context(|| format!("read {said:?}"))
        };
        let database = at(kubectl, "db-0", 8080)?;
        eventually("the names are known", Duration::from_secs(30), || {
            let all = servers.iter().map(|server| server.address).collect();
            let known = addresses("headless")? == all
                && addresses("db-0.db")? == BTreeSet::from([database.ip()]);
            Ok(known.then_some(()))
        })?;
        let report = dial(kubectl, "client", database)?;
        ensure!(
            report.received == "hello" && report.peer == Some(database),
            "to a pod of a StatefulSet: {report:?}"
        );
        let stranger = at(&outside, "stranger", 8080)?;
        let report = dial(kubectl, "client", stranger)?;
        ensure!(report.received == "hello", "to the outside: {report:?}");
        let report = dial(&outside, "stranger", shop.web)?;
        ensure!(
            report.received == "hello",
            "from the outside, while it is permitted: {report:?}"
        );
        mesh.flow(
            "in clear, and told so",
            kubectl.namespace(),
            &["--transport=plaintext"],
            |flow| flow["direction"] == "inbound",
        )?;
        // The API server answers whoever speaks no TLS in clear.
        let asking = [
            "warren-probe",
            "dial",
            "--to=10.96.0.1:443",
            "--send=GET / HTTP/1.0\r\n\r\n",
        ];
        let said = kubectl.exec("client", &asking)?;
        ensure!(said.contains("HTTPS server"), "to the API server: {said}");

        let server = &servers.first().context("a server")?.name;
        ensure!(kubectl.exec(server, &["hostname"])?.trim() == server);
        let mut forward = kubectl.start(&["port-forward", "deployment/web", "18081:8080"])?;
        let line = forward.line(Duration::from_secs(20))?;
        ensure!(
            line.starts_with("Forwarding from 127.0.0.1:18081"),
            "{line}"
        );
        let report = kubectl
            .launch(mesh_tests::host::binary::helper("warren-probe")?)
            .args(["dial", "--to=127.0.0.1:18081", "--send=hello"])
            .run()?;
        ensure!(report.contains("\"received\":\"hello\""), "{report}");
        forward.kill().map(drop)
    })
}

#[test]
fn a_label_that_flaps_ends_as_it_says() -> Result<()> {
    story("flap", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        let namespace = told.kubectl.namespace();
        for _ in 0..25 {
            for label in ["warren.dev/mesh=enabled", "warren.dev/mesh-"] {
                told.cluster.kubectl().run(&[
                    "label",
                    "--overwrite",
                    "namespace",
                    namespace,
                    label,
                ])?;
            }
        }
        mesh.enable(told)?;
        shop.says("meshed in the end")?;
        mesh.flow("it is", namespace, &[], is_meshed)?;
        ensure!(
            restarts(&told.kubectl)? == 0,
            "{}",
            told.kubectl.describe_pods()
        );
        Ok(())
    })
}
