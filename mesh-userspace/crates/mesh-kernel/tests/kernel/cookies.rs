//! Connections under a flood: the kernel answers with SYN cookies and remembers nothing until the handshake ends.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use mesh_core::workload::WorkloadId;
use mesh_kernel::{ListenerKind, Reason};

use crate::node::{Node, TUNNEL_PORT, accept, counter, isolated, listener};

#[test]
fn a_connection_that_a_syn_cookie_opened_reaches_the_proxy() {
    isolated(
        "cookies::a_connection_that_a_syn_cookie_opened_reaches_the_proxy",
        |node| {
            // Always, rather than under a flood only.
            node.pods[1].run("sysctl -qw net.ipv4.tcp_syncookies=2")?;
            let mut kernel = node.open()?;
            let prepared = node.enrol(&mut kernel, 1)?;
            // The application's own listener, which must not be found instead.
            let mut server = node.start(1, "serve [::]:8080")?;
            server.says()?;
            for (port, kind) in [
                (TUNNEL_PORT, ListenerKind::Tunnel),
                (8080, ListenerKind::Plaintext),
            ] {
                for address in node.pods[1].addresses {
                    let asked = SocketAddr::new(address, port);
                    let mut client = node.start(0, &format!("dial {asked}"))?;
                    let mut accepted = accept(listener(&prepared, kind, address.is_ipv6())?)
                        .with_context(|| format!("accept what dialled {asked}"))?;
                    ensure!(
                        accepted.local_addr()? == asked,
                        "the accepted socket's address"
                    );
                    accepted.write_all(b"proxied")?;
                    drop(accepted);
                    client.says()?;
                    ensure!(client.says()? == "got proxied");
                }
            }
            ensure!(cookies_received(node)? == 4, "the kernel used no cookies");
            // The answers to the SYNs come from no socket; the guard must not take them for a nested namespace's.
            ensure!(counter(&kernel, WorkloadId(2), Reason::OwnerlessTcp) == 0);
            Ok(())
        },
    );
}

/// `SyncookiesRecv` of the enrolled pod.
fn cookies_received(node: &Node) -> Result<u64> {
    let statistics = node.pods[1].run("cat /proc/net/netstat")?;
    let mut lines = statistics
        .lines()
        .filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = lines
        .next()
        .zip(lines.next())
        .context("read the statistics of TCP")?;
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find_map(|(name, value)| (name == "SyncookiesRecv").then(|| value.parse().ok()))
        .flatten()
        .context("find SyncookiesRecv")
}
