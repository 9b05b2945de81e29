//! What somebody takes away by hand is noticed, put back, and told of.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::cluster::capture::{Capture, MARKER};
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::host::command::run;
use mesh_tests::host::requires::Need;
use mesh_tests::story::story;

const NEEDS: &[Need] = &[Need::Program("bpftool"), Need::Program("tcpdump")];

/// A fault is noticed and repaired within this.
const REPAIR: Duration = Duration::from_secs(8);

/// The pins of links whose name begins so.
fn links(node: &Node, name: &str) -> Vec<PathBuf> {
    node.bpf()
        .pins()
        .into_iter()
        .filter(|pin| {
            let is_link = pin.components().any(|part| part.as_os_str() == "links");
            is_link
                && pin
                    .file_name()
                    .is_some_and(|file| file.to_string_lossy().starts_with(name))
        })
        .collect()
}

/// Takes something away on node a, and waits until it is repaired; then everything works and nothing is readable.
fn repaired(take_away: impl FnOnce(&Shop) -> Result<()>) -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        shop.client.session(shop.web4())?.echo("before")?;
        let before = shop.a.status()?.kernel.repaired;

        take_away(&shop)?;

        shop.a
            .wait_status("the watchdog has repaired it", REPAIR, |status| {
                status.kernel.repaired > before && status.kernel.faults.is_empty()
            })?;
        let capture = Capture::start(cluster, cluster.wire())?;
        capture.prove(shop.a.namespace(), shop.server.at(0))?;
        for to in [
            shop.web4(),
            shop.web6(),
            shop.server.at(8080),
            shop.server.at6(8080),
        ] {
            let report = shop.client.dial(to, "plain", MARKER)?;
            ensure!(report.received == MARKER, "{to}: {report:?}");
        }
        capture.assert_unreadable()?;
        Ok(())
    })
}

/// Detaches links as root can: through their pins.
fn detach(node: &Node, name: &str) -> Result<()> {
    let pins = links(node, name);
    ensure!(
        !pins.is_empty(),
        "no link {name} among {:?}",
        node.bpf().pins()
    );
    for pin in pins {
        run(
            "bpftool",
            &["link", "detach", "pinned", &pin.to_string_lossy()],
        )?;
    }
    Ok(())
}

#[test]
fn capture_was_detached() -> Result<()> {
    repaired(|shop| detach(&shop.a, "connect4"))
}

#[test]
fn capture_of_ipv6_was_detached() -> Result<()> {
    repaired(|shop| detach(&shop.a, "connect6"))
}

#[test]
fn the_guard_was_detached() -> Result<()> {
    repaired(|shop| detach(&shop.a, "guard"))
}

#[test]
fn the_origin_programs_were_detached() -> Result<()> {
    repaired(|shop| {
        detach(&shop.a, "origin_client")?;
        detach(&shop.a, "origin_proxy")?;
        detach(&shop.a, "origdst")
    })
}

#[test]
fn the_ingress_program_was_detached() -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        shop.client.session(shop.web4())?.echo("before")?;
        let before = shop.b.status()?.kernel.repaired;
        detach(&shop.b, "ingress")?;
        shop.b
            .wait_status("the watchdog has repaired it", REPAIR, |status| {
                status.kernel.repaired > before && status.kernel.faults.is_empty()
            })?;
        let report = shop.client.dial(shop.web4(), "plain", "hello")?;
        ensure!(report.received == "hello", "{report:?}");
        Ok(())
    })
}

#[test]
fn rules_and_routes_were_removed() -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        shop.client.session(shop.web4())?.echo("before")?;
        let before = shop.b.status()?.kernel.repaired;
        let pod = shop.server.namespace();
        for family in ["-4", "-6"] {
            pod.ip_output(&[family, "rule", "delete", "priority", "150"])?;
            pod.ip_output(&[family, "route", "flush", "table", "15008"])?;
        }
        shop.b
            .wait_status("the watchdog has repaired it", REPAIR, |status| {
                status.kernel.repaired > before && status.kernel.faults.is_empty()
            })?;
        for to in [shop.web4(), shop.web6()] {
            let report = shop.client.dial(to, "plain", "hello")?;
            ensure!(report.received == "hello", "{to}: {report:?}");
        }
        Ok(())
    })
}

#[test]
fn a_hanging_worker_is_replaced() -> Result<()> {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let old = shop.a.worker_ids();
        for worker in &old {
            kill(Pid::from_raw(*worker), Signal::SIGSTOP)?;
        }
        mesh_tests::eventually::until(
            "a worker that hangs is replaced",
            Duration::from_secs(20),
            || {
                Ok(shop
                    .a
                    .worker_ids()
                    .iter()
                    .any(|worker| !old.contains(worker))
                    && !shop
                        .a
                        .worker_ids()
                        .iter()
                        .any(|worker| old.contains(worker)))
            },
        )?;
        shop.a.wait_ready()?;
        shop.client.session(shop.web4())?.echo("works again")?;
        Ok(())
    })
}
