//! Workloads come into the mesh and leave it while they run, agents come and go, and in the end nothing is left.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::cluster::capture::{Capture, MARKER};
use mesh_tests::cluster::node::{Node, attached_programs};
use mesh_tests::cluster::place::Place;
use mesh_tests::cluster::service_addresses;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::eventually::until;
use mesh_tests::host::namespace::Namespace;
use mesh_tests::host::requires::Need;
use mesh_tests::story::story;

/// The routing table and the priority of the rule by which replies come back to the proxy.
const TABLE: &str = "15008";
const PRIORITY: &str = "150:";

#[test]
fn enrolment_breaks_no_established_connection() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &["8081=sink"])?;
        let mut open = Vec::new();
        for to in [shop.server.at(8080), shop.server.at6(8080)] {
            let mut session = shop.client.session(to)?;
            session.echo("before")?;
            open.push(session);
        }
        let mut bulk = shop.client.session(shop.server.at(8081))?;
        bulk.begin("send 200000000")?;

        cluster.start(&[&shop.client, &shop.server])?;

        for session in &mut open {
            session.echo("after enrolment")?;
        }
        let sent = bulk.answer(Duration::from_secs(60))?;
        ensure!(sent.error.is_none(), "{sent:?}");
        bulk.must("finish")?;
        ensure!(bulk.must("line")?.text == "200000000 true");
        shop.client
            .session(shop.web4())?
            .echo("new ones are meshed")?;
        for session in &mut open {
            session.echo("and old ones still open")?;
        }
        Ok(())
    })
}

#[test]
fn leaving_breaks_no_established_connection() -> Result<()> {
    story(&[], |cluster| {
        let mut shop = Shop::open(cluster, &[])?;
        let mut open = Vec::new();
        for to in [shop.web4(), shop.web6(), shop.server.at(8080)] {
            let mut session = shop.client.session(to)?;
            session.echo("in the mesh")?;
            ensure!(session.opened.peer == Some(to));
            ensure!(shop.application.accepted()?.ip() == shop.client.beside(to));
            open.push(session);
        }
        cluster
            .configuration()
            .remove_workload("client")
            .remove_workload("server")
            .set("services", serde_json::json!([]));
        cluster.apply()?;
        shop.a
            .wait_status("the client has left", Duration::from_secs(10), |status| {
                status.workloads.enrolled == 0
            })?;
        for session in &mut open {
            session.echo("still there")?;
        }
        // New ones go as if there had never been a mesh.
        let report = shop.client.dial(shop.server.at(8080), "plain", "hello")?;
        ensure!(report.received == "hello", "{report:?}");
        for session in &mut open {
            session.echo("still there")?;
        }
        drop(open);
        for (node, place) in [(&shop.a, &shop.client), (&shop.b, &shop.server)] {
            until(
                "routes and rules are taken away with the last connection",
                Duration::from_secs(15),
                || Ok(no_trace_in(place.namespace()).is_ok()),
            )
            .or_else(|_| no_trace_in(place.namespace()))?;
            ensure!(node.is_running());
        }
        Ok(())
    })
}

#[test]
fn enrolling_and_leaving_under_load_loses_nothing() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let load = shop
            .client
            .load_for(shop.server.at(8080), 4, Duration::from_secs(12))?;
        for _ in 0..2 {
            cluster
                .configuration()
                .remove_workload("client")
                .remove_workload("server")
                .set("services", serde_json::json!([]));
            cluster.apply()?;
            for node in [&shop.a, &shop.b] {
                node.wait_status("everybody has left", Duration::from_secs(10), |status| {
                    status.workloads.enrolled == 0
                })?;
            }
            cluster
                .configuration()
                .enrol(&shop.client)
                .enrol(&shop.server);
            cluster.apply()?;
            cluster.wait_ready()?;
        }
        let count = load.finish()?;
        ensure!(count.done > 100, "{count:?}");
        // Between a meshed and an unmeshed end a strict mesh refuses; that is policy. What must not happen is a hang or a
        // broken connection.
        let broken: u64 = count
            .errors
            .iter()
            .filter(|(error, _)| {
                !matches!(error.as_str(), "ECONNRESET" | "ECONNREFUSED" | "ENOTCONN")
            })
            .map(|(_, number)| number)
            .sum();
        ensure!(broken == 0, "{count:?}");
        Ok(())
    })
}

#[test]
fn every_kind_of_destination_works() -> Result<()> {
    story(&[Need::Program("tcpdump")], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        let outsider = cluster.outsider()?;
        let mut outside = outsider.serve(&["7000=echo"])?;
        cluster.start(&[&shop.client, &shop.server])?;

        // One's own service, of which one is the only endpoint.
        for to in shop.web {
            let report = shop.server.dial(to, "plain", "to myself")?;
            ensure!(
                report.received == "to myself" && report.peer == Some(to),
                "{to}: {report:?}"
            );
        }
        shop.b.wait_flow("of the server to itself", &[], |flow| {
            flow.transport == "itself"
        })?;

        // One's own address, and loopback: not the mesh's business.
        for to in [
            shop.server.at(8080),
            shop.server.at6(8080),
            "127.0.0.1:8080".parse()?,
            "[::1]:8080".parse()?,
        ] {
            let report = shop.server.dial(to, "plain", "locally")?;
            ensure!(report.received == "locally", "{to}: {report:?}");
        }

        // A workload's address directly.
        for to in shop.server.both(8080) {
            shop.client.session(to)?.echo("directly")?;
        }

        // Outside the mesh: untouched, in clear, from one's own address.
        for to in outsider.both(7000) {
            let report = shop.client.dial(to, "plain", "to the outside")?;
            ensure!(
                report.received == "to the outside" && report.peer == Some(to),
                "{to}: {report:?}"
            );
            ensure!(outside.accepted()?.ip() == shop.client.beside(to));
        }
        Ok(())
    })
}

#[test]
fn a_service_with_an_endpoint_outside_the_mesh() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        let outsider = cluster.outsider()?;
        let _outside = outsider.serve(&["7000=name:outside"])?;
        let addresses = service_addresses(7);
        cluster.configuration().put(
            "services",
            serde_json::json!({
                "name": "legacy", "namespace": "shop", "addresses": addresses,
                "ports": [{"port": 70, "targetPort": 7000}],
                "endpoints": [{"address": outsider.v4, "port": 7000}],
            }),
        );
        cluster.start(&[&shop.client, &shop.server])?;
        let report = shop
            .client
            .dial(SocketAddr::new(addresses[0], 70), "plain", "hello")?;
        ensure!(report.received == "outside", "{report:?}");
        let flow = shop.a.wait_flow("in clear", &[], |flow| {
            flow.destination.service.as_deref() == Some("legacy.shop")
        })?;
        ensure!(
            flow.transport == "plaintext",
            "it is told for what it is: {flow:?}"
        );
        Ok(())
    })
}

#[test]
fn a_pod_that_comes_later() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        let late = shop.a.pod("late")?;
        let path = late.namespace().path();
        cluster.configuration().put(
            "workloads",
            serde_json::json!({
                "name": "ghost", "namespace": "shop", "node": "a", "addresses": ["10.1.0.200"],
                "select": {"networkNamespace": path.with_extension("none")},
            }),
        );
        cluster.write()?;
        for place in [&shop.client, &shop.server] {
            cluster.configuration().enrol(place);
        }
        cluster.write()?;
        shop.a.start()?;
        shop.b.start()?;
        shop.a.wait_status(
            "one waits, one is enrolled",
            Duration::from_secs(20),
            |status| status.workloads.waiting == 1 && status.workloads.enrolled == 1,
        )?;
        shop.b.wait_ready()?;
        shop.client
            .session(shop.web4())?
            .echo("others do not wait")?;

        cluster
            .configuration()
            .remove_workload("ghost")
            .enrol(&late);
        cluster.apply()?;
        cluster.wait_ready()?;
        late.session(shop.web4())?.echo("here I am")?;
        Ok(())
    })
}

#[test]
fn a_pod_that_goes_away() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        let short = shop.a.pod("short")?;
        cluster.start(&[&shop.client, &shop.server, &short])?;
        short.session(shop.web4())?.echo("hello")?;
        drop(short);
        shop.client.session(shop.web4())?.echo("others go on")?;
        shop.a
            .wait_status("it is missed", Duration::from_secs(15), |status| {
                status.workloads.enrolled == 1
            })?;
        Ok(())
    })
}

#[test]
fn a_restart_of_the_agent_under_load() -> Result<()> {
    story(&[Need::Program("tcpdump")], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let capture = Capture::start(cluster, cluster.wire())?;
        capture.prove(shop.a.namespace(), shop.server.at(0))?;
        let mut session = shop.client.session(shop.web4())?;
        session.echo(MARKER)?;
        let load = shop
            .client
            .load_for(shop.web4(), 4, Duration::from_secs(12))?;
        for node in [&shop.a, &shop.b] {
            node.stop_agent()?;
            node.start()?;
            node.wait_ready()?;
        }
        let count = load.finish()?;
        ensure!(
            count.failed() == 0,
            "a restart in order loses no connection: {count:?}"
        );
        ensure!(count.done > 100, "{count:?}");
        shop.client
            .session(shop.web6())?
            .echo("after the restart")?;
        capture.assert_unreadable().map(drop)
    })
}

#[test]
fn old_workers_end_after_their_drain() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let old = shop.a.worker_ids();
        shop.a.stop_agent()?;
        shop.a.start()?;
        shop.a.wait_ready()?;
        until("the old worker is gone", Duration::from_secs(15), || {
            Ok(!shop
                .a
                .worker_ids()
                .iter()
                .any(|worker| old.contains(worker)))
        })?;
        ensure!(!shop.a.worker_ids().is_empty());
        Ok(())
    })
}

/// No rule, route or program of ours in a namespace.
fn no_trace_in(namespace: &Namespace) -> Result<()> {
    for family in ["-4", "-6"] {
        let rules = namespace.ip_output(&[family, "rule", "show"])?;
        ensure!(
            !rules.contains(TABLE) && !rules.lines().any(|line| line.starts_with(PRIORITY)),
            "{}: a rule is left: {rules}",
            namespace.name()
        );
        let routes = namespace
            .ip_output(&[family, "route", "show", "table", TABLE])
            .unwrap_or_default();
        ensure!(
            routes.trim().is_empty(),
            "{}: a route is left: {routes}",
            namespace.name()
        );
    }
    let programs = attached_programs(namespace)?;
    for name in ["ingress", "guard"] {
        ensure!(
            !programs
                .lines()
                .any(|line| line.contains(&format!(" {name}"))),
            "{}: a program is left: {programs}",
            namespace.name()
        );
    }
    Ok(())
}

/// Nothing of ours on a node and in its places.
fn no_trace_on(node: &Node, places: &[&Place]) -> Result<()> {
    ensure!(
        node.bpf().pins().is_empty(),
        "pins are left: {:?}",
        node.bpf().pins()
    );
    ensure!(
        node.worker_ids().is_empty(),
        "processes are left: {:?}",
        node.worker_ids()
    );
    ensure!(
        !node.cgroup().path().join("mesh").exists(),
        "the mesh's cgroup is left"
    );
    let tree = mesh_tests::host::command::run(
        "bpftool",
        &["cgroup", "tree", &node.cgroup().path().to_string_lossy()],
    )?;
    for name in [
        "connect4",
        "connect6",
        "peername4",
        "peername6",
        "origin_",
        "origdst",
    ] {
        ensure!(!tree.contains(name), "programs are left at cgroups: {tree}");
    }
    no_trace_in(node.namespace())?;
    places
        .iter()
        .try_for_each(|place| no_trace_in(place.namespace()))
}

/// Kernel settings of a namespace that the mesh changes while a workload is enrolled.
fn settings(place: &Place) -> Result<Vec<String>> {
    place.namespace().enter(|| {
        [
            "ipv4/tcp_fwmark_accept",
            "ipv4/fwmark_reflect",
            "ipv6/fwmark_reflect",
            "ipv4/conf/all/rp_filter",
            "ipv4/conf/all/route_localnet",
            "ipv4/conf/lo/rp_filter",
            "ipv4/conf/eth0/rp_filter",
        ]
        .map(|name| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap_or_default())
        .to_vec()
    })
}

#[test]
fn uninstall_leaves_nothing() -> Result<()> {
    story(&[Need::Program("bpftool")], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        let service = shop.b.host_service("store", &[9000])?;
        let _store = service.serve(&["9000=echo"])?;
        let before = (settings(&shop.client)?, settings(&shop.server)?);
        cluster.start(&[&shop.client, &shop.server, &service])?;
        shop.client.session(shop.web4())?.echo("in the mesh")?;
        shop.client.session(service.at(9000))?.echo("in the mesh")?;
        ensure!(
            !shop.a.bpf().pins().is_empty(),
            "there is something to remove"
        );

        shop.a.uninstall()?;
        shop.b.uninstall()?;
        no_trace_on(&shop.a, &[&shop.client])?;
        no_trace_on(&shop.b, &[&shop.server])?;
        ensure!(
            (settings(&shop.client)?, settings(&shop.server)?) == before,
            "kernel settings are as they were"
        );
        let report = shop.client.dial(shop.server.at(8080), "plain", "hello")?;
        ensure!(report.received == "hello", "without the mesh: {report:?}");
        Ok(())
    })
}

#[test]
fn uninstall_without_a_running_agent_leaves_nothing() -> Result<()> {
    story(&[Need::Program("bpftool")], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        shop.client.session(shop.web4())?.echo("in the mesh")?;
        shop.a.kill_both()?;
        shop.b.stop_agent()?;
        shop.a.uninstall()?;
        shop.b.uninstall()?;
        no_trace_on(&shop.a, &[&shop.client])?;
        no_trace_on(&shop.b, &[&shop.server])?;
        let report = shop.client.dial(shop.server.at(8080), "plain", "hello")?;
        ensure!(report.received == "hello", "without the mesh: {report:?}");
        Ok(())
    })
}

#[test]
fn uninstall_under_load_breaks_no_dial() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        // Client and server on one node: otherwise one of them would leave the mesh before the other.
        let neighbour = shop.a.pod("neighbour")?;
        let _echo = neighbour.serve(&["8080=echo"])?;
        cluster.configuration().enrol(&neighbour);
        cluster.apply()?;
        cluster.wait_ready()?;
        let load = shop
            .client
            .load_for(neighbour.at(8080), 4, Duration::from_secs(8))?;
        shop.client
            .session(neighbour.at(8080))?
            .echo("in the mesh")?;
        shop.a.uninstall()?;
        let count = load.finish()?;
        ensure!(count.done > 100, "{count:?}");
        ensure!(
            count.failed() == 0,
            "leaving together, no dial is refused: {count:?}"
        );
        Ok(())
    })
}
