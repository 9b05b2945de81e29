//! The real cluster itself, without the mesh: what the other cluster stories rely on must hold before it is taken away.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::eventually::eventually;
use mesh_tests::kubernetes::kubectl::{Kubectl, Pod};
use mesh_tests::kubernetes::load::{Load, Pace};
use mesh_tests::kubernetes::manifests::{self, SPREAD, Servers};
use mesh_tests::kubernetes::story::story;
use mesh_tests::probe::Report;
use serde_json::json;

/// From a manifest to pods that are ready, beside whatever else the machine does.
const ROLLOUT: Duration = Duration::from_secs(90);

/// Two replicas that echo on port 8080, one per node; a client on the first node; a service, and one without an address.
fn shop() -> String {
    let spread = format!("terminationGracePeriodSeconds: 1, {SPREAD}");
    let web = Servers {
        spec: "replicas: 2",
        pod: &spread,
        ..Servers::ECHO
    };
    [
        web.manifest(),
        manifests::pod("client", "node1", "sleep, infinity"),
        manifests::service("web", "web", 80, ""),
        manifests::service("headless", "web", 8080, "clusterIP: None"),
    ]
    .concat()
}

/// Brings the shop up; gives the replicas.
fn open(kubectl: &Kubectl) -> Result<Vec<Pod>> {
    kubectl.apply(&shop())?;
    kubectl.rolled_out("deployment/web", ROLLOUT)?;
    kubectl.wait("condition=Ready", &["pod/client"], ROLLOUT)?;
    kubectl.ready_pods("app=web")
}

fn service(kubectl: &Kubectl) -> Result<SocketAddr> {
    let address: IpAddr = kubectl
        .at(&["service", "web"], "/spec/clusterIP")?
        .parse()
        .context("read the address of the service")?;
    Ok(SocketAddr::new(address, 80))
}

fn dial(kubectl: &Kubectl, to: SocketAddr) -> Result<Report> {
    let to = format!("--to={to}");
    let said = kubectl.exec("client", &["warren-probe", "dial", &to, "--send=hello"])?;
    serde_json::from_str(&said).with_context(|| format!("read {said:?}"))
}

#[test]
fn pods_on_both_nodes_reach_each_other() -> Result<()> {
    story("reach", |told| {
        let kubectl = &told.kubectl;
        let pods = open(kubectl)?;
        let mut nodes: Vec<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
        nodes.sort_unstable();
        ensure!(nodes == ["node1", "node2"], "{pods:?}");

        for pod in &pods {
            let report = dial(kubectl, SocketAddr::new(pod.address, 8080))?;
            ensure!(report.received == "hello", "{pod:?}: {report:?}");
            // No address translation between pods: the server sees the client itself.
            let client = report.local.context("the client has no address")?;
            let seen = kubectl.logs(&pod.name)?;
            ensure!(
                seen.contains(&format!("\"peer\":\"{client}\"")),
                "{client}: {seen}"
            );
        }

        let report = dial(kubectl, service(kubectl)?)?;
        ensure!(report.received == "hello", "{report:?}");

        let endpoints = kubectl.get(&["endpoints", "headless"])?;
        let mut found: Vec<IpAddr> = endpoints["subsets"][0]["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|address| address["ip"].as_str()?.parse().ok())
            .collect();
        let mut expected: Vec<IpAddr> = pods.iter().map(|pod| pod.address).collect();
        found.sort_unstable();
        expected.sort_unstable();
        ensure!(found == expected, "{endpoints}");
        names(kubectl, &expected)
    })
}

/// The same by name, in every form that a pod may use.
fn names(kubectl: &Kubectl, pods: &[IpAddr]) -> Result<()> {
    let service = service(kubectl)?.ip();
    let namespace = kubectl.namespace();
    for (name, expected) in [
        ("web".to_owned(), &[service][..]),
        (format!("web.{namespace}"), &[service]),
        (format!("web.{namespace}.svc.cluster.local."), &[service]),
        ("headless".to_owned(), pods),
    ] {
        let what = format!("{name} leads to {expected:?}");
        kubectl.until(&what, ROLLOUT, |kubectl| {
            let said = kubectl.exec("client", &["warren-probe", "resolve", &name])?;
            let mut found: Vec<IpAddr> = serde_json::from_str(&said)?;
            found.sort_unstable();
            Ok(found == expected)
        })?;
    }
    let nobody = kubectl.exec("client", &["warren-probe", "resolve", "nobody"]);
    ensure!(
        nobody.is_err(),
        "a name that nobody has leads to {nobody:?}"
    );
    Ok(())
}

#[test]
fn a_pod_can_be_looked_into() -> Result<()> {
    story("look", |told| {
        let kubectl = &told.kubectl;
        let pods = open(kubectl)?;
        for pod in &pods {
            let name = kubectl.exec(&pod.name, &["hostname"])?;
            ensure!(name.trim() == pod.name, "{pod:?}: {name:?}");
            let log = kubectl.logs(&pod.name)?;
            ensure!(
                log.starts_with("{\"event\":\"listening\"}"),
                "{pod:?}: {log}"
            );
        }

        // The process is the last of this machine's that knows the port, so it runs where the API server can be reached.
        let forward = ["port-forward", "deployment/web", "18080:8080"];
        let mut forward = kubectl.start(&forward)?;
        let line = forward.line(Duration::from_secs(20))?;
        ensure!(
            line.starts_with("Forwarding from 127.0.0.1:18080"),
            "{line}"
        );
        let report = kubectl
            .launch(mesh_tests::host::binary::helper("warren-probe")?)
            .args(["dial", "--to=127.0.0.1:18080", "--send=hello"])
            .run()?;
        ensure!(report.contains("\"received\":\"hello\""), "{report}");
        forward.kill()
    })
}

#[test]
fn every_failure_under_load_is_counted() -> Result<()> {
    story("load", |told| {
        let kubectl = &told.kubectl;
        open(kubectl)?;
        let to = service(kubectl)?;
        let time = Duration::from_secs(3);
        let paced = Load::start(kubectl, "client", to, Pace::GENTLE, time)?
            .finish(time + Duration::from_secs(20))?;
        ensure!(paced.failed() == 0, "{paced:?}");
        // The machine may be busy: half of what was asked for is proof enough that there was load.
        ensure!(paced.requests > 150 && paced.connections > 30, "{paced:?}");

        let mut load = Load::start(
            kubectl,
            "client",
            to,
            Pace::GENTLE,
            Duration::from_secs(100),
        )?;
        kubectl.run(&["scale", "deployment/web", "--replicas=0"])?;
        kubectl.until("the replicas are gone", ROLLOUT, |kubectl| {
            Ok(kubectl.list(&["pods", "--selector=app=web"])?.is_empty())
        })?;
        ensure!(load.goes_on()?, "the load ended by itself");
        let paced = load.stop()?;
        ensure!(
            paced.failed() > 0,
            "nobody serves, and nothing failed: {paced:?}"
        );
        Ok(())
    })
}

#[test]
fn what_a_node_runs_is_started_again() -> Result<()> {
    story("restart", |told| {
        for name in ["node1", "node2"] {
            let machine = told.cluster.machine(name)?;
            let before = machine.run(&["pidof", "kubelet"])?;
            machine.kill("kubelet")?;
            let after = eventually("a new kubelet", Duration::from_secs(20), || {
                Ok(Some(machine.run(&["pidof", "kubelet"])?).filter(|now| *now != before))
            })?;
            ensure!(
                machine.is_running(),
                "{name} has ended; its kubelet was {after}"
            );
        }
        open(&told.kubectl).map(drop)
    })
}

#[test]
fn a_node_comes_back_after_a_loss_of_power() -> Result<()> {
    story("power", |told| {
        let kubectl = &told.kubectl;
        open(kubectl)?;
        told.cluster.reboot("node2")?;
        // Its pods are taken for ready until its kubelet has looked; then they are started once more.
        kubectl.until("the shop is whole again", ROLLOUT, |kubectl| {
            let pods = kubectl.ready_pods("app=web")?;
            let again = kubectl.list(&["pods", "--selector=app=web"])?;
            let again = again
                .iter()
                .filter(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1);
            Ok(
                again.count() == 1
                    && pods.len() == 2
                    && pods.iter().all(|pod| serves(kubectl, pod)),
            )
        })
    })
}

fn serves(kubectl: &Kubectl, pod: &Pod) -> bool {
    dial(kubectl, SocketAddr::new(pod.address, 8080)).is_ok_and(|said| said.received == "hello")
}

#[test]
fn the_product_can_be_put_on_every_node() -> Result<()> {
    story("product", |told| {
        let image = told.cluster.import_warren()?;
        for node in told.cluster.nodes() {
            let name = node.name();
            let pod = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": format!("warren-{name}")},
                "spec": {
                    "nodeName": name,
                    "restartPolicy": "Never",
                    "containers": [{
                        "name": "warren",
                        "image": image,
                        "imagePullPolicy": "Never",
                        "args": ["--version"],
                    }],
                },
            });
            told.kubectl.apply(&pod.to_string())?;
        }
        told.kubectl
            .until("it has said its version", ROLLOUT, |kubectl| {
                let pods = kubectl.list(&["pods"])?;
                Ok(pods.iter().all(|pod| pod["status"]["phase"] == "Succeeded"))
            })?;
        for node in told.cluster.nodes() {
            let said = told.kubectl.logs(&format!("warren-{}", node.name()))?;
            ensure!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
        }
        Ok(())
    })
}

/// The pod speaks no TLS, so the API server's complaint tells whom it has asked: the pod, at the pod's address.
#[test]
fn an_aggregated_api_is_asked_at_its_pods() -> Result<()> {
    const API: &str = "
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.harness.warren.dev}
spec:
  group: harness.warren.dev
  version: v1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: web, namespace: story-aggregation, port: 80}
";
    story("aggregation", |told| {
        let pods = open(&told.kubectl)?;
        told.kubectl.apply(API)?;
        let api = ["apiservice", "v1.harness.warren.dev"];
        let said = told
            .kubectl
            .eventually("an answer", ROLLOUT, &api, |object| {
                let conditions = object["status"]["conditions"].as_array()?;
                let message = conditions.first()?["message"].as_str()?;
                message.contains("https://").then(|| message.to_owned())
            });
        told.kubectl.delete(&api)?;
        let said = said?;
        let asked = pods
            .iter()
            .any(|pod| said.contains(&format!("https://{}:8080/", pod.address)));
        ensure!(asked, "{said}: {pods:?}");
        Ok(())
    })
}
