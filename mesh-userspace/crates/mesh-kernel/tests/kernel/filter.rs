//! Kernels without tcx links, played on one that has them: clsact filters do the same, and can be put back.

use std::io::Write;

use anyhow::{Result, ensure};
use mesh_kernel::{Kernel, ListenerKind, Part};

use crate::node::{Node, accept, isolated, listener, run};

fn ingress_works(node: &Node, prepared: &mesh_kernel::Prepared) -> Result<()> {
    for address in node.pods[1].addresses {
        let asked = std::net::SocketAddr::new(address, 8080);
        let mut client = node.start(0, &format!("dial {asked}"))?;
        let arrived = listener(prepared, ListenerKind::Plaintext, address.is_ipv6())?;
        accept(arrived)?.write_all(b"proxied")?;
        client.says()?;
        ensure!(client.says()? == "got proxied");
    }
    Ok(())
}

fn repair_all(kernel: &mut Kernel) -> Result<()> {
    for fault in kernel.verify() {
        kernel.repair(&fault)?;
    }
    ensure!(kernel.verify().is_empty(), "{:?}", kernel.verify());
    Ok(())
}

#[test]
fn filters_do_what_links_do() {
    isolated("filter::filters_do_what_links_do", |node| {
        mesh_kernel::without_tcx();
        let mut kernel = node.open()?;
        let before = (node.pods[1].state()?, run("tc qdisc show dev wk2")?);
        let prepared = node.enrol(&mut kernel, 1)?;
        ensure!(kernel.verify().is_empty(), "{:?}", kernel.verify());
        let filters = node.pods[1].run("tc filter show dev eth0 ingress")?;
        ensure!(filters.contains("direct-action"), "{filters}");
        ingress_works(node, &prepared)?;
        // The guard holds back what is not the proxy's.
        let mut server = node.start(0, "serve [::]:8080")?;
        server.says()?;
        let dial = format!("dial {}:8080", node.pods[0].addresses[0]);
        let mut rogue = node.pods[1].start(&node.elsewhere, &dial)?;
        ensure!(rogue.says()?.starts_with("failed TimedOut"));
        // A workload with NET_ADMIN takes its filter away; the watchdog puts it back.
        node.pods[1].run("tc filter del dev eth0 ingress")?;
        let faults = kernel.verify();
        ensure!(
            faults
                .iter()
                .any(|fault| matches!(fault.part, Part::Link(_))),
            "{faults:?}"
        );
        repair_all(&mut kernel)?;
        node.pods[1].run("tc qdisc del dev eth0 clsact")?;
        repair_all(&mut kernel)?;
        ingress_works(node, &prepared)?;
        // A new agent finds the filters again.
        drop(kernel);
        let mut kernel = node.open()?;
        let prepared = node.enrol(&mut kernel, 1)?;
        ensure!(prepared.adopted);
        ensure!(kernel.verify().is_empty(), "{:?}", kernel.verify());
        ingress_works(node, &prepared)?;
        kernel.unenrol(prepared.id)?;
        kernel.release(prepared.id)?;
        let after = (node.pods[1].state()?, run("tc qdisc show dev wk2")?);
        ensure!(before == after, "{before:#?}\n{after:#?}");
        // And so does an uninstall without an agent.
        node.enrol(&mut kernel, 1)?;
        drop(kernel);
        let removed = mesh_kernel::uninstall(&node.options)?;
        ensure!(removed.left.is_empty() && removed.links == 9, "{removed:?}");
        ensure!(before == (node.pods[1].state()?, run("tc qdisc show dev wk2")?));
        Ok(())
    });
}
