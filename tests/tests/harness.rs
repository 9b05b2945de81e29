//! The cluster itself, without the mesh: what the other stories rely on must hold before it is taken away. In particular
//! a capture must find the marker when it does pass in clear.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::cluster::capture::{Capture, MARKER};
use mesh_tests::cluster::{mariadb, nginx};
use mesh_tests::eventually::until;
use mesh_tests::host::requires::Need;
use mesh_tests::probe::Event;
use mesh_tests::story::story;

#[test]
fn pods_reach_each_other_in_both_families() -> Result<()> {
    story(&[], |cluster| {
        let (a, b) = cluster.two_nodes()?;
        let (client, neighbour, server) = (a.pod("client")?, a.pod("neighbour")?, b.pod("server")?);
        let outsider = cluster.outsider()?;
        let service = b.host_service("service", &[9000])?;
        let mut echo = server.serve(&["8080=echo"])?;
        let _local = neighbour.serve(&["8080=echo"])?;
        let _host = service.serve(&["9000=echo"])?;

        for (place, to) in [
            (&client, server.at(8080)),
            (&client, server.at6(8080)),
            (&client, neighbour.at(8080)),
            (&client, neighbour.at6(8080)),
            (&outsider, server.at(8080)),
            (&outsider, server.at6(8080)),
            (&client, service.at(9000)),
            (&client, service.at6(9000)),
        ] {
            let report = place.dial(to, "plain", "hello")?;
            ensure!(
                report.error.is_none(),
                "{} to {to}: {report:?}",
                place.name()
            );
            ensure!(
                report.received == "hello",
                "{} to {to}: {report:?}",
                place.name()
            );
        }
        ensure!(echo.accepted()?.ip() == client.v4);
        Ok(())
    })
}

#[test]
fn a_capture_finds_what_passes_in_clear() -> Result<()> {
    story(&[Need::Program("tcpdump")], |cluster| {
        let (a, b) = cluster.two_nodes()?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let _echo = server.serve(&["8080=echo"])?;
        let capture = Capture::start(cluster, cluster.wire())?;
        capture.prove(client.namespace(), server.at(0))?;
        capture.prove(client.namespace(), server.at6(0))?;

        let report = client.dial(server.at(8080), "plain", MARKER)?;
        ensure!(report.received == MARKER, "{report:?}");
        capture.assert_readable()
    })
}

#[test]
fn forged_packets_arrive_where_nothing_guards() -> Result<()> {
    story(&[Need::Program("tcpdump")], |cluster| {
        let (a, b) = cluster.two_nodes()?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let gateway = mesh_tests::cluster::node::hardware_address(a.namespace(), "pods")?;
        for (source, to) in [
            (client.at(4000), server.at(8080)),
            (client.at6(4000), server.at6(8080)),
        ] {
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
            for more in [&[][..], &["--interface", "eth0", "--hardware", &gateway]] {
                let capture = Capture::start(cluster, cluster.wire())?;
                // Also resolves the neighbours, without which the first packets would wait for an answer.
                capture.prove(client.namespace(), server.at(0))?;
                capture.prove(client.namespace(), server.at6(0))?;
                client.probe(&[&forge, more].concat())?.run()?;
                until(
                    &format!("the forged packet to {to} {more:?}"),
                    Duration::from_secs(5),
                    || Ok(capture.count(MARKER)? > 0),
                )?;
                capture.assert_readable()?;
            }
        }
        Ok(())
    })
}

#[test]
fn every_way_to_dial_and_every_behaviour_works() -> Result<()> {
    story(&[Need::Mptcp, Need::IoUring], |cluster| {
        let (a, b) = cluster.two_nodes()?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let mut echo = server.serve(&[
            "8080=echo",
            "8081=sink",
            "8082=source",
            "8083=farewell",
            "8084=reset:3",
        ])?;
        let source = format!("source={}", client.v4);
        for way in [
            "plain",
            "nonblocking",
            "fast-open",
            "fast-open-connect",
            "mptcp",
            "device=eth0",
            &source,
            "io-uring",
            "mark=7",
        ] {
            let report = client.dial(server.at(8080), way, "hello")?;
            ensure!(report.received == "hello", "{way}: {report:?}");
        }
        ensure!(matches!(echo.event()?, Event::Accepted { port: 8080, .. }));

        let mut up = client.session(server.at(8081))?;
        up.must("send 3000000")?;
        up.must("finish")?;
        ensure!(up.must("line")?.text == "3000000 true");

        let mut down = client.session(server.at(8082))?;
        down.must("say 3000000")?;
        let received = down.must("receive 3000000")?;
        ensure!(
            received.intact && received.bytes == 3_000_000,
            "{received:?}"
        );
        ensure!(down.must("end")?.end);

        let mut reset = client.session(server.at(8084))?;
        reset.must("say abc")?;
        ensure!(reset.tell("end")?.error.as_deref() == Some("ECONNRESET"));

        let refused = client.dial(server.at(1), "plain", "")?;
        ensure!(
            refused.error.as_deref() == Some("ECONNREFUSED"),
            "{refused:?}"
        );
        Ok(())
    })
}

#[test]
fn real_applications_run() -> Result<()> {
    story(
        &[Need::Program("nginx"), Need::Program("mariadbd")],
        |cluster| {
            let (a, b) = cluster.two_nodes()?;
            let (client, server) = (a.pod("client")?, b.pod("server")?);
            let _nginx = nginx::start(cluster, &server, "v1")?;
            let count = client.load_saying(server.at(8080), "GET /\r\n", 20, 4)?;
            ensure!(count.answers.get("v1") == Some(&20), "{count:?}");

            let _mariadb = mariadb::start(cluster, &server)?;
            until("the database greets", Duration::from_secs(40), || {
                let report = client.dial(server.at6(3306), "plain", "")?;
                Ok(report.received.contains("MariaDB"))
            })
        },
    )
}
