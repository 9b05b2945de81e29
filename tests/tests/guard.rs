//! What a workload cannot do, whatever it tries: leave the node in clear, or take the capture away.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::capture::{Capture, MARKER};
use mesh_tests::cluster::node::{Node, hardware_address};
use mesh_tests::cluster::place::Place;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::host::namespace::Namespace;
use mesh_tests::host::requires::Need;
use mesh_tests::story::story;

const TCPDUMP: &[Need] = &[Need::Program("tcpdump")];

/// The mark that Warren's own deliveries carry. It is no secret, and gives nothing.
const DELIVERY_MARK: &str = "mark=22478849";

/// How long a dial that leads nowhere is waited for.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Tells what an attacker does, with captures on the wire and on the node's end of it; then looks for the marker, and for
/// a drop with this reason, in the counters and in the flows.
fn nothing_leaves(reason: &str, attack: impl FnOnce(&Cluster, &Shop) -> Result<()>) -> Result<()> {
    story(TCPDUMP, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let wire = Capture::start(cluster, cluster.wire())?;
        let exit = Capture::on(cluster, shop.a.namespace(), "eth0")?;
        for to in [shop.server.at(0), shop.server.at6(0)] {
            wire.prove(shop.client.namespace(), to)?;
            exit.prove(shop.client.namespace(), to)?;
        }
        let before = shop.a.kernel_count(reason)?;

        attack(cluster, &shop)?;

        shop.a.wait_kernel_count(reason, before + 1)?;
        shop.a
            .wait_flow(&format!("that says {reason}"), &[], |flow| {
                flow.transport == "kernel"
                    && flow
                        .rule
                        .as_deref()
                        .is_some_and(|rule| rule.contains(reason))
            })?;
        wire.assert_unreadable()?;
        exit.assert_unreadable()?;
        // The mesh still works after the attack.
        shop.client.session(shop.web4())?.echo("still here")?;
        Ok(())
    })
}

/// Forged packets of both families, from given sources, by both kinds of socket.
fn forge(node: &Node, from: &Place, sources: [std::net::SocketAddr; 2], to: &Place) -> Result<()> {
    let gateway = hardware_address(node.namespace(), "pods")?;
    for (source, to) in sources.into_iter().zip(to.both(8080)) {
        let (source, to) = (source.to_string(), to.to_string());
        let forge = [
            "forge",
            "--source",
            &source,
            "--to",
            &to,
            "--payload",
            MARKER,
        ];
        from.probe(&forge)?.run()?;
        from.probe(&[&forge[..], &["--interface", "eth0", "--hardware", &gateway]].concat())?
            .run()?;
    }
    Ok(())
}

#[test]
fn raw_and_packet_sockets() -> Result<()> {
    nothing_leaves("uncaptured_tcp", |_, shop| {
        forge(
            &shop.a,
            &shop.client,
            shop.client.both(40_000),
            &shop.server,
        )
    })
}

#[test]
fn spoofed_sources() -> Result<()> {
    nothing_leaves("spoofed_source", |_, shop| {
        let spoofed = ["10.1.0.77:40000".parse()?, "[fd00:1::77]:40000".parse()?];
        forge(&shop.a, &shop.client, spoofed, &shop.server)
    })
}

#[test]
fn a_process_outside_the_captured_cgroup() -> Result<()> {
    nothing_leaves("uncaptured_tcp", |cluster, shop| {
        let stray = shop.client.in_cgroup(Arc::clone(cluster.outside()));
        for to in shop.server.both(8080) {
            for way in ["plain", DELIVERY_MARK] {
                let report = stray.dial_within(to, way, MARKER, PATIENCE)?;
                ensure!(
                    report.error.is_some(),
                    "{way} to {to} must lead nowhere: {report:?}"
                );
            }
        }
        Ok(())
    })
}

/// A namespace inside the pod, with a veth pair to it and forwarding through it.
fn nested(cluster: &Cluster, shop: &Shop, addresses: [&str; 2]) -> Result<Place> {
    let namespace = Namespace::create(&format!("{}-nested", cluster.name()))?;
    let pod = shop.client.namespace();
    for (setting, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        // A privileged workload can allow its own address as a source from elsewhere.
        ("net/ipv4/conf/all/accept_local", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
    ] {
        pod.sysctl(setting, value)?;
    }
    pod.ip(&format!(
        "link add inner type veth peer name eth0 netns {}\naddr add 192.168.9.1/24 dev inner\n\
         addr add fd09::1/64 dev inner nodad\nlink set inner up",
        namespace.name()
    ))?;
    pod.sysctl("net/ipv4/conf/inner/accept_local", "1")?;
    pod.sysctl("net/ipv4/conf/inner/rp_filter", "0")?;
    namespace.ip(&format!(
        "addr add {}/32 dev eth0\naddr add {}/128 dev eth0 nodad\nlink set eth0 up\n\
         route add 192.168.9.1 dev eth0\nroute add default via 192.168.9.1 src {}\n\
         route add fd09::1 dev eth0\nroute add default via fd09::1",
        addresses[0], addresses[1], addresses[0]
    ))?;
    // Commands inside run where the workload's own do.
    Ok(shop.client.in_namespace(Arc::new(namespace)))
}

#[test]
fn a_nested_namespace_with_addresses_of_its_own() -> Result<()> {
    nothing_leaves("spoofed_source", |cluster, shop| {
        let inner = nested(cluster, shop, ["192.168.9.2", "fd09::2"])?;
        for to in shop.server.both(8080) {
            let report = inner.dial_within(to, "plain", MARKER, PATIENCE)?;
            ensure!(
                report.error.is_some(),
                "to {to} must lead nowhere: {report:?}"
            );
        }
        for (source, to) in ["192.168.9.2:40000", "[fd09::2]:40000"]
            .iter()
            .zip(shop.server.both(8080))
        {
            inner
                .probe(&[
                    "forge",
                    "--source",
                    source,
                    "--to",
                    &to.to_string(),
                    "--payload",
                    MARKER,
                ])?
                .run()?;
        }
        Ok(())
    })
}

#[test]
fn a_nested_namespace_with_the_workloads_own_address() -> Result<()> {
    nothing_leaves("ownerless_tcp", |cluster, shop| {
        let own = shop.client.v4.to_string();
        let inner = nested(cluster, shop, [&own, "fd09::2"])?;
        let (source, to) = (
            shop.client.at(40_000).to_string(),
            shop.server.at(8080).to_string(),
        );
        inner
            .probe(&[
                "forge",
                "--source",
                &source,
                "--to",
                &to,
                "--payload",
                MARKER,
                "--count",
                "20",
            ])?
            .run()?;
        let report = inner.dial_within(shop.server.at(8080), "plain", MARKER, PATIENCE)?;
        ensure!(report.error.is_some(), "must lead nowhere: {report:?}");
        Ok(())
    })
}

#[test]
fn denied_udp() -> Result<()> {
    story(TCPDUMP, |cluster| {
        let shop = Shop::build(cluster, &[])?;
        cluster
            .configuration()
            .enrol_with(&shop.client, serde_json::json!({"udp": "deny"}));
        cluster.configuration().enrol(&shop.server);
        cluster.start(&[])?;
        let wire = Capture::start(cluster, cluster.wire())?;
        wire.prove(shop.a.namespace(), shop.server.at(0))?;
        for (source, to) in shop.client.both(40_000).iter().zip(shop.server.both(5_353)) {
            shop.client
                .probe(&[
                    "forge",
                    "--udp",
                    "--source",
                    &source.to_string(),
                    "--to",
                    &to.to_string(),
                    "--payload",
                    MARKER,
                ])?
                .run()?;
        }
        shop.a.wait_kernel_count("udp_denied", 2)?;
        wire.assert_unreadable().map(drop)
    })
}

#[test]
fn a_privileged_workload_cannot_remove_capture() -> Result<()> {
    // What a container with these two capabilities can do to its own namespace.
    const TAMPER: &str = "tc qdisc del dev eth0 clsact; tc qdisc del dev eth0 ingress; tc filter del dev eth0 ingress; \
        tc qdisc add dev eth0 clsact; tc filter del dev eth0 egress; \
        ip rule del priority 150; ip -6 rule del priority 150; \
        ip route flush table 15008; ip -6 route flush table 15008; \
        ip rule flush; ip rule add priority 32766 lookup main; ip rule add priority 0 lookup local; \
        ip link set eth0 down; ip link set eth0 up; \
        ip route add default via 10.1.0.1; ip -6 route add default via fd00:1::1; true";
    story(TCPDUMP, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        shop.client.session(shop.web4())?.echo("before")?;
        let wire = Capture::start(cluster, cluster.wire())?;
        wire.prove(shop.a.namespace(), shop.server.at(0))?;

        shop.client
            .program("sh")
            .args(["-c", TAMPER])
            .capabilities("net_admin,net_raw")
            .run()?;
        // An address that was lost with the interface is put back, as such a container could.
        shop.client.namespace().ip(&format!(
            "addr replace {}/24 dev eth0\naddr replace {}/64 dev eth0 nodad",
            shop.client.v4, shop.client.v6
        ))?;

        let before = shop.a.kernel_count("captured")?;
        for to in [
            shop.web4(),
            shop.web6(),
            shop.server.at(8080),
            shop.server.at6(8080),
        ] {
            shop.client.dial_within(to, "plain", MARKER, PATIENCE)?;
        }
        shop.a
            .wait_kernel_count("captured", before + 4)
            .context("dials are still captured after the tampering")?;
        let stray = shop.client.in_cgroup(Arc::clone(cluster.outside()));
        let report = stray.dial_within(shop.server.at(8080), "plain", MARKER, PATIENCE)?;
        ensure!(report.error.is_some(), "the guard still stands: {report:?}");
        wire.assert_unreadable()?;
        Ok(())
    })
}

#[test]
fn the_proxys_own_ports_lead_nowhere() -> Result<()> {
    story(&[Need::Program("ss")], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        let outsider = cluster.outsider()?;
        cluster.start(&[&shop.client, &shop.server])?;
        shop.client.session(shop.web4())?.echo("the mesh works")?;

        let listening = shop
            .client
            .namespace()
            .enter(|| mesh_tests::host::command::run("ss", &["-ltnH"]))??;
        let mut ports: Vec<u16> = listening
            .lines()
            .filter_map(|line| {
                line.split_whitespace()
                    .nth(3)?
                    .rsplit(':')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        ensure!(
            ports.len() >= 3,
            "outbound and plaintext listeners are among {ports:?}"
        );

        // The tunnel port itself: nobody is bound to it, the kernel hands its connections to one of the above.
        ports.push(15_008);
        for port in ports {
            for from in [&shop.client, &shop.server, &outsider] {
                for to in shop.client.both(port) {
                    let report =
                        from.dial_within(to, "plain", "GET / HTTP/1.0\r\n\r\n", PATIENCE)?;
                    // The tunnel's answer to what is no TLS is an alert.
                    ensure!(
                        report.received.is_empty() || report.received.starts_with('\u{15}'),
                        "{} reached something at {to}: {report:?}",
                        from.name()
                    );
                }
            }
        }
        // No loop: few connections were made, so few are told of.
        let flows = shop.a.flows(&[])?.len();
        ensure!(flows < 200, "{flows} flows came of a few dials");
        shop.client.session(shop.web4())?.echo("it still works")?;
        Ok(())
    })
}

#[test]
fn a_mark_gives_no_privilege() -> Result<()> {
    story(TCPDUMP, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let wire = Capture::start(cluster, cluster.wire())?;
        wire.prove(shop.client.namespace(), shop.server.at(0))?;
        // Warren's own, and the one by which other meshes know their proxy.
        let mut dials = 0;
        for way in [DELIVERY_MARK, "mark=1337"] {
            for to in [
                shop.web4(),
                shop.web6(),
                shop.server.at(8080),
                shop.server.at6(8080),
            ] {
                shop.client.dial_within(to, way, MARKER, PATIENCE)?;
                dials += 1;
            }
        }
        shop.a
            .wait_kernel_count("captured", dials)
            .context("they are captured as any other")?;
        wire.assert_unreadable()?;
        Ok(())
    })
}
