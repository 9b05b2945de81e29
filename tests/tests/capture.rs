//! Every way to dial is captured, and both applications see the truth.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::capture::{Capture, MARKER};
use mesh_tests::cluster::configuration::identity_of;
use mesh_tests::cluster::place::{Place, Server};
use mesh_tests::cluster::shop::Shop;
use mesh_tests::host::requires::Need;
use mesh_tests::story::story;

/// Dials with the marker, and checks everything that an application can see of it.
fn dial_and_check(
    client: &Place,
    to: SocketAddr,
    way: &str,
    application: &mut Server,
) -> Result<()> {
    let report = client.dial(to, way, MARKER)?;
    ensure!(report.error.is_none(), "{way} to {to}: {report:?}");
    ensure!(report.received == MARKER, "{way} to {to}: {report:?}");
    ensure!(
        report.peer == Some(to),
        "{way} to {to}: the application must see whom it dialled, and saw {:?}",
        report.peer
    );
    let canonical = SocketAddr::new(to.ip().to_canonical(), to.port());
    let own = client.beside(canonical);
    ensure!(
        report.local.map(|local| local.ip().to_canonical()) == Some(own),
        "{way} to {to}: the application must see its own address {own}, and saw {:?}",
        report.local
    );
    let seen = application.accepted()?;
    ensure!(
        seen.ip() == own,
        "{way} to {to}: the server must see {own}, and saw {seen}"
    );
    Ok(())
}

/// Tells one way's story: service and pod addresses, both families, nothing readable on the wire, everything counted.
fn way_is_captured(
    needs: &[Need],
    ways: impl FnOnce(&Place) -> Vec<(&'static str, String)>,
) -> Result<()> {
    let needs = [&[Need::Program("tcpdump")], needs].concat();
    story(&needs, |cluster: &mut Cluster| {
        let mut shop = Shop::open(cluster, &[])?;
        let capture = Capture::start(cluster, cluster.wire())?;
        capture.prove(shop.a.namespace(), (shop.b.address(), 0).into())?;
        let before = shop.a.kernel_count("captured")?;

        let mut dials = 0;
        for (family, way) in ways(&shop.client) {
            let targets = match family {
                "v4" => [shop.web4(), shop.server.at(8080)],
                "v6" => [shop.web6(), shop.server.at6(8080)],
                _ => [mapped(shop.web4()), mapped(shop.server.at(8080))],
            };
            for to in targets {
                dial_and_check(&shop.client, to, &way, &mut shop.application)?;
                dials += 1;
            }
        }

        let after = shop.a.wait_kernel_count("captured", before + dials)?;
        ensure!(
            after - before == dials,
            "{dials} dials were made, and {} captured",
            after - before
        );
        capture.assert_unreadable()?;
        let flow = shop.a.wait_flow("of a dial", &[], |flow| {
            flow.verdict == "allowed" && flow.bytes_sent > 0
        })?;
        ensure!(flow.transport == "mutual_tls", "{flow:?}");
        ensure!(
            flow.source.identity.as_deref() == Some(&identity_of(&shop.client)),
            "{flow:?}"
        );
        ensure!(
            flow.destination.identity.as_deref() == Some(&identity_of(&shop.server)),
            "{flow:?}"
        );
        Ok(())
    })
}

/// An IPv4 address as a program on an IPv6 socket dials it.
fn mapped(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(address) => SocketAddr::new(address.to_ipv6_mapped().into(), to.port()),
        IpAddr::V6(_) => to,
    }
}

/// One way in every family in which it exists.
fn families(way: &str) -> Vec<(&'static str, String)> {
    ["v4", "v6", "mapped"]
        .into_iter()
        .map(|family| (family, way.to_owned()))
        .collect()
}

#[test]
fn plain_connect() -> Result<()> {
    way_is_captured(&[], |_| families("plain"))
}

#[test]
fn non_blocking_connect() -> Result<()> {
    way_is_captured(&[], |_| families("nonblocking"))
}

#[test]
fn fast_open() -> Result<()> {
    way_is_captured(&[], |_| {
        // Twice: the second time the kernel has a cookie, and puts the bytes into the SYN.
        [
            families("fast-open"),
            families("fast-open"),
            families("fast-open-connect"),
        ]
        .concat()
    })
}

#[test]
fn multipath() -> Result<()> {
    way_is_captured(&[Need::Mptcp], |_| families("mptcp"))
}

#[test]
fn bound_to_the_device() -> Result<()> {
    way_is_captured(&[], |_| families("device=eth0"))
}

#[test]
fn bound_source() -> Result<()> {
    way_is_captured(&[], |client| {
        vec![
            ("v4", format!("source={}", client.v4)),
            ("v6", format!("source={}", client.v6)),
            ("mapped", format!("source={}", client.v4.to_ipv6_mapped())),
        ]
    })
}

#[test]
fn io_uring() -> Result<()> {
    way_is_captured(&[Need::IoUring], |_| families("io-uring"))
}

#[test]
fn on_the_same_node() -> Result<()> {
    story(&[Need::Program("tcpdump")], |cluster| {
        let a = cluster.node("a")?;
        let (client, server) = (a.pod("client")?, a.pod("server")?);
        let mut application = server.serve(&["8080=echo"])?;
        cluster.start(&[&client, &server])?;
        // Between two pods of one node nothing touches the wire, but it touches the node.
        let capture = Capture::start(cluster, a.namespace())?;
        capture.prove(client.namespace(), server.at(0))?;
        for to in server.both(8080) {
            dial_and_check(&client, to, "plain", &mut application)?;
        }
        capture.assert_unreadable().map(drop)
    })
}

#[test]
fn host_services_at_both_ends() -> Result<()> {
    story(&[Need::Program("tcpdump")], |cluster| {
        let (a, b) = cluster.two_nodes()?;
        let client = a.host_service("batch", &[9999])?;
        let server = b.host_service("store", &[9000])?;
        let mut application = server.serve(&["9000=echo"])?;
        let addresses = mesh_tests::cluster::service_addresses(1);
        cluster
            .configuration()
            .service("store", addresses, (90, 9000), &[&server]);
        cluster.start(&[&client, &server])?;
        let capture = Capture::start(cluster, cluster.wire())?;
        capture.prove(a.namespace(), (b.address(), 0).into())?;

        for to in [
            SocketAddr::new(addresses[0], 90),
            SocketAddr::new(addresses[1], 90),
            server.at(9000),
            server.at6(9000),
        ] {
            let report = client.dial(to, "plain", MARKER)?;
            ensure!(
                report.received == MARKER && report.peer == Some(to),
                "{to}: {report:?}"
            );
            // The server shares its namespace with the whole node, so replies to the client's own address would not come
            // back to the proxy: it sees an address of its node.
            let seen = application.accepted()?.ip();
            ensure!(seen == server.beside(to), "{to}: the server saw {seen}");
        }
        capture.assert_unreadable()?;
        let flow = b.wait_flow("from batch", &[], |flow| {
            flow.direction == "inbound"
                && flow.source.identity.as_deref() == Some(&identity_of(&client))
        })?;
        ensure!(flow.transport == "mutual_tls", "{flow:?}");
        Ok(())
    })
}

#[test]
fn the_dialling_process_is_named() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let mut session = shop.client.session(shop.web4())?;
        session.echo("hello")?;
        let pid = session.process().id();
        drop(session);
        let flow = shop.a.wait_flow("of the session", &[], |flow| {
            flow.source
                .process
                .as_ref()
                .is_some_and(|process| process.pid == pid)
        })?;
        ensure!(
            flow.destination.service.as_deref() == Some("web.shop"),
            "{flow:?}"
        );
        ensure!(
            flow.destination.address.as_deref() == Some(&shop.web4().to_string()),
            "{flow:?}"
        );
        Ok(())
    })
}
