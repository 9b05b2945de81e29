//! `warren-demo [--keep]`, run by `cargo xtask demo`: the product in two minutes, on a cluster of two nodes made of
//! namespaces. Everything that it shows is what really happened; it ends with an error when something did not.

mod scene;
mod show;

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::capture::{Capture, MARKER};
use mesh_tests::host::leak;
use mesh_tests::host::requires::{Need, met};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use scene::{Mesh, Scene};
use show::{say, step};

#[derive(Parser)]
#[command(name = "warren-demo", about = "Warren in two minutes")]
struct Arguments {
    /// Leave everything running at the end, and print commands to try.
    #[arg(long)]
    keep: bool,
}

/// The weights that the demo goes through.
const SHIFTS: [(u32, u32); 4] = [(100, 0), (90, 10), (50, 50), (0, 100)];

fn main() -> ExitCode {
    let Arguments { keep } = Arguments::parse();
    match demo(keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(keep: bool) -> Result<()> {
    if !met(&[
        Need::Root,
        Need::CgroupTree,
        Need::KernelTypes,
        Need::Program("tcpdump"),
        Need::Program("nginx"),
    ]) {
        bail!("this machine lacks something; see above");
    }
    let started = Instant::now();
    let mut cluster = Cluster::new()?;
    let name = cluster.name().to_owned();
    remove_on_signal(&name)?;

    let told = tell(&mut cluster, keep);
    if told.is_err() {
        eprintln!("{}", cluster.logs());
    }
    step("Nothing is left behind");
    cluster.remove()?;
    ensure!(leak::find(&name)?.is_empty(), "something is left behind");
    say("no namespace, cgroup, program, rule, route or process");
    told?;
    say(&format!(
        "\nDone in {:.0} s.",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn tell(cluster: &mut Cluster, keep: bool) -> Result<()> {
    step("Two nodes, a client, two versions of a web server (nginx), and a stranger; no mesh yet");
    let scene = Scene::build(cluster)?;
    scene.in_clear(cluster)?;
    let mut old = scene.client.session(scene.v1.at(9000))?;
    old.echo("opened before there was a mesh")?;

    step("They join the mesh while they run");
    let joined = Instant::now();
    scene.configure(cluster, &Mesh::new(SHIFTS[0]))?;
    for node in [&scene.a, &scene.b] {
        node.start()?;
    }
    cluster.wait_ready()?;
    say(&format!(
        "4 workloads enrolled in {:.1} s, none restarted",
        joined.elapsed().as_secs_f64()
    ));
    old.echo("still open")?;
    say("a connection from before goes on");
    let capture = Capture::start(cluster, cluster.wire())?;
    capture.prove(scene.client.namespace(), scene.v1.at(0))?;

    step("Live flows, with identities (warren flows --follow)");
    scene.show_flows()?;

    step("Weights move while traffic flows");
    say("  configured      observed over 200 connections");
    for (number, weights) in SHIFTS.into_iter().enumerate() {
        if number > 0 {
            scene.configure(cluster, &Mesh::new(weights))?;
        }
        scene.show_shares(weights)?;
    }

    step("A stranger is denied, and the record names the rule");
    scene.configure(cluster, &Mesh::new((50, 50)).with_policy())?;
    scene.show_denial()?;

    step("What somebody between the nodes has seen");
    let secret = scene.client.dial(scene.echo(), "plain", MARKER)?;
    ensure!(
        secret.received == MARKER,
        "the secret did not come back: {secret:?}"
    );
    let bytes = capture.assert_unreadable()?;
    say(&format!(
        "{bytes} bytes captured; {MARKER:?}, which went there and back, is in none of them"
    ));

    if keep {
        show::keep(cluster, &scene)?;
        loop {
            thread::sleep(Duration::from_secs(3_600));
        }
    }

    step("They leave the mesh while they run");
    scene.leave(cluster)?;
    old.echo("still open")?;
    say("the connection from before goes on, new ones go in clear");
    for node in [&scene.a, &scene.b] {
        node.uninstall()
            .with_context(|| format!("uninstall on node {}", node.name()))?;
    }
    Ok(())
}

/// Ctrl-C takes everything away.
fn remove_on_signal(name: &str) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("listen for signals")?;
    let name = name.to_owned();
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("\ncleaning up …");
            let code = match leak::sweep(&name) {
                Ok(()) => 130,
                Err(error) => {
                    eprintln!("{error:#}");
                    1
                }
            };
            std::process::exit(code);
        }
    });
    Ok(())
}
