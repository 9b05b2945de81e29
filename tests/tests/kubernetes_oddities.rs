//! What happens to a real cluster that nobody has planned: another writer of the network configuration, a namespace that goes
//! with everything in it, pods that end slowly. The state afterwards is as Warren says.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::eventually::eventually;
use mesh_tests::kubernetes::load::{Load, Pace};
use mesh_tests::kubernetes::machine::Machine;
use mesh_tests::kubernetes::manifests::pod;
use mesh_tests::kubernetes::mesh::{Mesh, ROLLOUT, dial};
use mesh_tests::kubernetes::shop::{LONGEST, Shop, is_meshed};
use mesh_tests::kubernetes::story::story;
use serde_json::Value;

/// The network configuration of a node, of which there is one.
fn network_configuration(machine: &Machine) -> Result<PathBuf> {
    let folder = machine.path("/etc/cni/net.d");
    let files = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let paths: Vec<PathBuf> = files
        .filter_map(|file| file.ok().map(|file| file.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "conflist"))
        .collect();
    let [one] = &paths[..] else {
        anyhow::bail!("not one configuration: {paths:?}");
    };
    Ok(one.clone())
}

fn has_plugin(configuration: &Value) -> bool {
    configuration["plugins"]
        .as_array()
        .is_some_and(|plugins| plugins.iter().any(|plugin| plugin["type"] == "warren-cni"))
}

#[test]
fn another_writer_of_the_network_configuration_is_got_along_with() -> Result<()> {
    story("writer", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        mesh.enable(told)?;
        let machine = told.cluster.machine("node1")?;
        let file = network_configuration(&machine)?;
        let read = || -> Result<Value> { Ok(serde_json::from_slice(&fs::read(&file)?)?) };
        let before = read()?;
        ensure!(has_plugin(&before), "{before:#}");

        // As network plugins do when they start: the whole file anew, with what only they know.
        let mut others = before;
        let plugins = others["plugins"].as_array_mut().context("plugins")?;
        plugins.retain(|plugin| plugin["type"] != "warren-cni");
        others["story"] = "another writer".into();
        let aside = file.with_extension("new");
        fs::write(&aside, serde_json::to_vec_pretty(&others)?)?;
        fs::rename(&aside, &file)?;
        let repaired = eventually("it is chained again", Duration::from_secs(30), || {
            let now = read()?;
            Ok(has_plugin(&now).then_some(now))
        })?;
        ensure!(repaired["story"] == "another writer", "{repaired:#}");

        // A new pod is captured as ever.
        told.kubectl
            .apply(&pod("late", "node1", "sleep, infinity"))?;
        told.kubectl
            .wait("condition=Ready", &["pod/late"], ROLLOUT)?;
        let report = dial(&told.kubectl, "late", shop.web)?;
        ensure!(report.received == "hello", "{report:?}");
        mesh.flow("from the late one", told.kubectl.namespace(), &[], |flow| {
            is_meshed(flow) && flow["source"]["workload"] == "late.story-writer"
        })?;
        mesh.warren(&["check"])?;

        // As it was, for whoever comes next.
        let mut restored = repaired;
        restored
            .as_object_mut()
            .context("an object")?
            .remove("story");
        fs::write(&aside, serde_json::to_vec_pretty(&restored)?)?;
        fs::rename(&aside, &file).context("put it back")
    })
}

#[test]
fn a_namespace_goes_with_everything_in_it() -> Result<()> {
    story("going", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let going = told.another_namespace("first", &serde_json::json!({}))?;
        going.apply(&pod("server", "node1", "warren-probe, serve, 8080=echo"))?;
        going.apply(&pod("client", "node2", "sleep, infinity"))?;
        going.wait("condition=Ready", &["pod/server", "pod/client"], ROLLOUT)?;
        mesh.warren(&["enable", "ns/story-going-first", "--wait", "--timeout=60s"])?;
        let address = going.at(&["pod", "server"], "/status/podIP")?;
        let report = dial(&going, "client", SocketAddr::new(address.parse()?, 8080))?;
        ensure!(report.received == "hello", "{report:?}");

        going.run(&["delete", "namespace", "story-going-first", "--wait=false"])?;
        let names = |mesh: &Mesh<'_>| mesh.warren(&["get", "workloads", "--all-namespaces"]);
        eventually(
            "no workload of it is left",
            Duration::from_secs(120),
            || Ok((!names(&mesh)?.contains("story-going-first")).then_some(())),
        )
        .with_context(|| mesh.logs())?;
        eventually("nothing is said of it", Duration::from_secs(30), || {
            Ok((!mesh.warren(&["check"])?.contains("story-going-first")).then_some(()))
        })
    })
}

#[test]
fn pods_that_end_slowly_keep_their_connections() -> Result<()> {
    story("slowly", |told| {
        let mesh = Mesh::install(told.cluster)?;
        let shop = Shop::open(told)?;
        let kubectl = &told.kubectl;
        let mut slow = pod(
            "slow",
            "node2",
            "warren-probe, serve, --finish, '8080=echo'",
        );
        slow = slow.replace(
            "terminationGracePeriodSeconds: 0",
            "terminationGracePeriodSeconds: 60",
        );
        kubectl.apply(&slow)?;
        kubectl.wait("condition=Ready", &["pod/slow"], ROLLOUT)?;
        mesh.enable(told)?;
        let address = kubectl.at(&["pod", "slow"], "/status/podIP")?;
        let kept = Pace {
            requests: 40,
            kept: 4,
            age: None,
            connections: 0,
        };
        let to = SocketAddr::new(address.parse()?, 8080);
        let load = Load::start(kubectl, "client", to, kept, LONGEST)?;
        sleep(Duration::from_secs(2));
        kubectl.run(&["delete", "pod", "slow", "--wait=false"])?;
        sleep(Duration::from_secs(10));
        let paced = load.stop()?;
        ensure!(
            paced.failed() == 0 && paced.requests > 300,
            "{paced:?}\n{}",
            mesh.logs()
        );
        shop.says("everything else goes on")
    })
}
