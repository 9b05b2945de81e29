//! What ends in a real cluster, and what goes on meanwhile: servers are rolled over, nodes of the mesh are updated or lost,
//! controllers are away, the root is replaced.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::kubernetes::load::{Load, Pace};
use mesh_tests::kubernetes::manifests::{self, Servers, pod};
use mesh_tests::kubernetes::mesh::{AGENTS, CONTROLLERS, Mesh, ROLLOUT, SYSTEM, UPDATE, service};
use mesh_tests::kubernetes::shop::{LONGEST, Shop, is_meshed};
use mesh_tests::kubernetes::story::{Story, story};

/// 200 requests per second, on new connections and on kept ones, which end well before whatever serves them must.
const BUSY: Pace = Pace {
    requests: 160,
    kept: 4,
    age: Some(Duration::from_secs(2)),
    connections: 40,
};

/// Beside something that takes minutes.
const STEADY: Pace = Pace {
    requests: 40,
    kept: 4,
    age: Some(Duration::from_secs(5)),
    connections: 20,
};

/// Ends a load of which nothing may have failed.
fn nothing_failed(load: Load, mesh: &Mesh<'_>, least: u64) -> Result<()> {
    let paced = load.stop()?;
    ensure!(
        paced.failed() == 0,
        "{paced:?}\n{}\n{}",
        mesh.troubles(),
        mesh.logs()
    );
    ensure!(paced.connections > least, "{paced:?}");
    Ok(())
}

fn controllers(mesh: &Mesh<'_>, count: &str) -> Result<()> {
    mesh.system
        .run(&["scale", "deployment/warren-controller", count])
        .map(drop)
}

#[test]
fn servers_are_rolled_over_and_nothing_fails() -> Result<()> {
    story("rollover", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        let kubectl = &told.kubectl;
        // They finish what they have accepted, without a hook: the listener is closed at once, as most servers do.
        let patient = Servers {
            name: "patient",
            spec: "replicas: 2
                   strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}",
            pod: "serviceAccountName: server, terminationGracePeriodSeconds: 20",
            words: "warren-probe, serve, --finish, 8080=echo",
            ..Servers::ECHO
        };
        kubectl.apply(&patient.manifest())?;
        kubectl.apply(&manifests::service("patient", "patient", 80, ""))?;
        kubectl.rolled_out("deployment/patient", ROLLOUT)?;
        mesh.enable(told)?;
        let patient = service(kubectl, "patient")?;
        let load = Load::start(shop.kubectl, "client", patient, BUSY, LONGEST)?;
        for _ in 0..5 {
            kubectl.run(&["rollout", "restart", "deployment/patient"])?;
            kubectl.rolled_out("deployment/patient", ROLLOUT)?;
        }
        // The last that go are still going.
        sleep(Duration::from_secs(5));
        nothing_failed(load, &mesh, 500)
    })
}

#[test]
fn nodes_are_updated_and_nothing_fails() -> Result<()> {
    story("update", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        let before = [mesh.agent("node1")?.name, mesh.agent("node2")?.name];
        let load = Load::start(shop.kubectl, "client", shop.web, STEADY, LONGEST)?;
        mesh.system
            .run(&["rollout", "restart", "daemonset/warren-node"])?;
        // Also a load that begins while there is no agent to ask for anything.
        mesh.system.until("an agent has gone", UPDATE, |_| {
            Ok(mesh.agent("node1").is_err() || mesh.agent("node2").is_err())
        })?;
        let late = Load::start(shop.kubectl, "client", shop.web, STEADY, LONGEST)?;
        mesh.system.rolled_out("daemonset/warren-node", UPDATE)?;
        let after = [mesh.agent("node1")?.name, mesh.agent("node2")?.name];
        ensure!(
            before.iter().all(|old| !after.contains(old)),
            "{before:?} and {after:?}"
        );
        shop.says("under new agents")?;
        nothing_failed(load, &mesh, 200)?;
        nothing_failed(late, &mesh, 50)?;
        mesh.flow(
            "meshed as before",
            told.kubectl.namespace(),
            &["--direction=outbound"],
            is_meshed,
        )
        .map(drop)
    })
}

#[test]
fn controllers_are_away_and_nothing_fails() -> Result<()> {
    story("alone", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        let load = Load::start(shop.kubectl, "client", shop.web, STEADY, LONGEST)?;
        let away = Instant::now();
        controllers(&mesh, "--replicas=0")?;
        mesh.none_left(&CONTROLLERS)?;
        // A new agent knows nothing but what the one before it left on disk.
        let old = mesh.agent("node1")?.name;
        mesh.system.run(&["delete", "pod", &old, "--wait=false"])?;
        mesh.system
            .until("another agent is ready", UPDATE, |_| {
                Ok(mesh.agent("node1").is_ok_and(|new| new.name != old))
            })
            .with_context(|| mesh.logs())?;
        shop.says("without any controller")?;
        sleep(Duration::from_secs(120).saturating_sub(away.elapsed()));
        nothing_failed(load, &mesh, 500)?;

        controllers(&mesh, "--replicas=2")?;
        mesh.ready()?;
        // What is decided from now on reaches the nodes again.
        mesh.disable(told)?;
        shop.says("out of the mesh")
    })
}

#[test]
fn an_agent_is_killed_and_its_pods_are_made_anew() -> Result<()> {
    story("killed", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        let kubectl = &told.kubectl;
        let load = Load::start(shop.kubectl, "client", shop.web, STEADY, LONGEST)?;
        // How many sockets a worker has ready goes by how many it has used.
        sleep(Duration::from_secs(5));
        let machine = told.cluster.machine("node1")?;
        machine.run(&["pkill", "-KILL", "--full", "^/warren node "])?;
        mesh.restarted("it is started again", |container| {
            container["ready"] == true
        })
        .with_context(|| mesh.logs())?;
        nothing_failed(load, &mesh, 50)?;

        kubectl.run(&["delete", "pods", "--selector=app=web", "--wait=false"])?;
        kubectl.run(&["delete", "pod", "client"])?;
        let shop = Shop::open(told)?;
        for server in shop.servers()? {
            let to = std::net::SocketAddr::new(server.address, 8080);
            let report = mesh_tests::kubernetes::mesh::dial(kubectl, "client", to)?;
            ensure!(report.received == "hello", "{server:?}: {report:?}");
        }
        mesh.flow(
            "meshed from the start",
            kubectl.namespace(),
            &["--direction=outbound", "--since=20s"],
            is_meshed,
        )
        .map(drop)
    })
}

#[test]
fn without_an_agent_pods_of_the_mesh_wait_and_others_do_not() -> Result<()> {
    story("waiting", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        let outside = told.another_namespace("outside", &serde_json::json!({}))?;
        let agents = |selector: &str| {
            let patch = format!(
                r#"{{"spec": {{"template": {{"spec": {{"nodeSelector": {selector}}}}}}}}}"#
            );
            mesh.system
                .run(&["patch", "daemonset/warren-node", "--patch", &patch])
        };
        let result = (|| {
            agents(r#"{"story": "nowhere"}"#)?;
            mesh.none_left(&AGENTS)?;
            shop.says("what runs goes on")?;
            told.kubectl
                .apply(&pod("late", "node1", "warren-probe, serve, 8080=echo"))?;
            outside.apply(&pod("other", "node1", "warren-probe, serve, 8080=echo"))?;
            outside.wait("condition=Ready", &["pod/other"], ROLLOUT)?;
            let late = told.kubectl.get(&["pod", "late"])?;
            ensure!(late["status"]["phase"] == "Pending", "{late}");
            // Kubelet says it when the plugin has lost its patience.
            let events = ["get", "events", "--output=json"];
            told.kubectl.until("somebody says why", ROLLOUT, |kubectl| {
                Ok(kubectl.run(&events)?.contains("warren"))
            })
        })();
        // Whatever came of it, later stories need agents.
        agents("null")?;
        mesh.ready()?;
        result?;
        told.kubectl
            .wait("condition=Ready", &["pod/late"], UPDATE)
            .with_context(|| mesh.logs())
    })
}

#[test]
fn the_root_is_replaced_and_a_lost_secret_comes_back() -> Result<()> {
    story("root", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        let load = Load::start(shop.kubectl, "client", shop.web, STEADY, LONGEST)?;
        for step in ["stage", "activate", "finish"] {
            mesh.warren(&["ca", "rotate", step, "--kubernetes"])?;
            // As the document has it: until every node has taken the step.
            sleep(Duration::from_secs(20));
        }
        shop.says("under the new root")?;
        nothing_failed(load, &mesh, 500)?;

        let key = |told: &Story<'_>| {
            let system = told.cluster.kubectl().within(SYSTEM);
            system
                .get(&["secret", "warren-ca"])
                .map(|secret| secret["data"].clone())
        };
        let before = key(told)?;
        mesh.system.delete(&["secret", "warren-ca"])?;
        mesh.system
            .until("the Secret is back", Duration::from_secs(30), |_| {
                Ok(key(told).is_ok_and(|now| now == before))
            })?;
        shop.says("as if nothing had been")
    })
}
