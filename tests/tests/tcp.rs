//! Connections behave as TCP does: half-close, resets, refusals, who speaks first, silence, volume, slow readers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::place::Place;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::cluster::{mariadb, nginx, service_addresses};
use mesh_tests::eventually::{eventually, until};
use mesh_tests::host::requires::Need;
use mesh_tests::story::story;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

#[test]
fn the_client_finishes_first() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &["8081=sink"])?;
        for to in shop.server.both(8081) {
            let mut session = shop.client.session(to)?;
            session.must("send 100000")?;
            session.must("finish")?;
            // The answer comes after the server has seen the end, over the direction that is still open.
            ensure!(session.must("line")?.text == "100000 true");
            ensure!(session.must("end")?.end, "an orderly end");
        }
        Ok(())
    })
}

#[test]
fn the_server_finishes_first() -> Result<()> {
    story(&[], |cluster| {
        let mut shop = Shop::open(cluster, &["8083=farewell"])?;
        for to in shop.server.both(8083) {
            let mut session = shop.client.session(to)?;
            let farewell = session.must("end")?;
            ensure!(farewell.end && farewell.text == "bye\n", "{farewell:?}");
            // The other direction is still open.
            session.must("send 100000")?;
            session.must("finish")?;
            let (bytes, _, error) = shop.application.closed()?;
            ensure!(
                bytes == 100_000 && error.is_none(),
                "{bytes} bytes, {error:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn the_client_resets() -> Result<()> {
    story(&[], |cluster| {
        let mut shop = Shop::open(cluster, &[])?;
        for to in [shop.web4(), shop.web6()] {
            let mut session = shop.client.session(to)?;
            session.echo("hello")?;
            session.reset()?;
            let (_, _, error) = shop.application.closed()?;
            ensure!(
                error.as_deref() == Some("ECONNRESET"),
                "the server saw {error:?}"
            );
        }
        shop.a
            .wait_flow("that says so", &[], |flow| flow.reason == "client_reset")
            .map(drop)
    })
}

#[test]
fn the_server_resets() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &["8084=reset:5"])?;
        for to in shop.server.both(8084) {
            let mut session = shop.client.session(to)?;
            session.must("say hell")?;
            let answer = session.tell("end")?;
            ensure!(
                answer.error.as_deref() == Some("ECONNRESET"),
                "the client saw {answer:?}"
            );
        }
        shop.a
            .wait_flow("that says so", &[], |flow| flow.reason == "server_reset")
            .map(drop)
    })
}

#[test]
fn a_refused_connection_is_a_reset() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        for to in shop.server.both(4444) {
            let report = shop.client.dial(to, "plain", "")?;
            ensure!(
                matches!(report.error.as_deref(), Some("ECONNREFUSED" | "ECONNRESET")),
                "{to}: nobody listens there: {report:?}"
            );
        }
        let flow = shop
            .a
            .wait_flow("that says so", &["--verdict", "failed"], |flow| {
                flow.reason == "connection_refused"
            })?;
        ensure!(
            flow.destination.workload.as_deref() == Some("server.shop"),
            "{flow:?}"
        );
        Ok(())
    })
}

/// The best of a number of times until the first byte: what the way costs, without what else happens on the machine.
/// Looks on for a while when the best is not yet below `enough`, in microseconds, if that is given.
fn best_first_byte(from: &Place, to: std::net::SocketAddr, enough: Option<u64>) -> Result<u64> {
    let (mut best, mut looked) = (u64::MAX, 0);
    let deadline = Instant::now() + Duration::from_secs(30);
    while looked < 40 || (enough.is_some_and(|enough| best >= enough) && Instant::now() < deadline)
    {
        let report = from.dial(to, "plain", "QUIT\r\n")?;
        ensure!(report.received.starts_with("220 "), "{report:?}");
        best = best.min(report.first_byte_micros);
        looked += 1;
    }
    Ok(best)
}

#[test]
fn a_server_that_speaks_first_is_heard_at_once() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &["25=greet:220 mail.shop ESMTP"])?;
        let direct = best_first_byte(&shop.client, shop.server.at(25), None)?;
        cluster.start(&[&shop.client, &shop.server])?;
        let meshed = best_first_byte(&shop.client, shop.server.at(25), Some(direct + 1_000))?;
        eprintln!("first byte: {direct} µs without the mesh, {meshed} µs with it");
        ensure!(
            meshed < direct + 1_000,
            "the mesh adds {} µs to the first byte of a server that speaks first",
            meshed - direct
        );
        // Heard although the client never says a word.
        let mut session = shop.client.session(shop.server.at6(25))?;
        ensure!(session.must("line")?.text == "220 mail.shop ESMTP");
        Ok(())
    })
}

#[test]
fn a_real_database_that_speaks_first() -> Result<()> {
    story(
        &[Need::Program("mariadbd"), Need::Program("mariadb")],
        |cluster| {
            let (a, b) = cluster.two_nodes()?;
            let (client, server) = (a.pod("client")?, b.pod("database")?);
            let _database = mariadb::start(cluster, &server)?;
            let addresses = service_addresses(1);
            cluster
                .configuration()
                .service("database", addresses, (3306, 3306), &[&server]);
            cluster.start(&[&client, &server])?;

            for host in addresses {
                let query = || {
                    client
                        .program("mariadb")
                        .args([
                            "--no-defaults",
                            "--protocol=tcp",
                            "--connect-timeout=5",
                            "--skip-column-names",
                        ])
                        .args(["--user", mariadb::USER])
                        .args(["--host", &host.to_string(), "--execute"])
                        .args(["select concat('answer ', 6 * 7, ' to ', user())"])
                        .output()
                };
                let answer = eventually("the database answers", Duration::from_secs(40), || {
                    let (status, output) = query()?;
                    Ok(status.success().then_some(output))
                })?;
                let own = client.beside((host, 0).into());
                ensure!(
                    answer.trim() == format!("answer 42 to {}@{own}", mariadb::USER),
                    "the database must see the client's own address {own}: {answer:?}"
                );
            }
            Ok(())
        },
    )
}

#[test]
fn a_real_web_server_under_a_real_load_generator() -> Result<()> {
    story(&[Need::Program("nginx"), Need::Program("wrk")], |cluster| {
        let (a, b) = cluster.two_nodes()?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let _nginx = nginx::start(cluster, &server, "hello from nginx\n")?;
        let addresses = service_addresses(1);
        cluster
            .configuration()
            .service("web", addresses, (80, 8080), &[&server]);
        cluster.start(&[&client, &server])?;
        for url in [
            format!("http://{}/", addresses[0]),
            format!("http://[{}]/", addresses[1]),
        ] {
            let output = client
                .program("wrk")
                .args([
                    "--threads",
                    "2",
                    "--connections",
                    "32",
                    "--duration",
                    "4s",
                    "--timeout",
                    "2s",
                    &url,
                ])
                .run()?;
            ensure!(
                !output.contains("Socket errors") && !output.contains("Non-2xx"),
                "{output}"
            );
            ensure!(output.contains("Requests/sec"), "{output}");
        }
        Ok(())
    })
}

#[test]
fn a_silent_client_for_half_a_minute() -> Result<()> {
    story(&[], |cluster| {
        let mut shop = Shop::open(cluster, &[])?;
        let mut session = shop.client.session(shop.web4())?;
        // The server hears of the connection although nothing was said.
        ensure!(shop.application.accepted()?.ip() == shop.client.v4);
        let silence = session.tell("line 30000")?;
        ensure!(
            matches!(
                silence.error.as_deref(),
                Some("EAGAIN" | "EWOULDBLOCK" | "ETIMEDOUT")
            ) && !silence.end,
            "nothing happens for 30 s: {silence:?}"
        );
        session.echo("and then it speaks")?;
        Ok(())
    })
}

#[test]
fn a_gibibyte_up_is_byte_exact() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &["8081=sink"])?;
        let mut session = shop.client.session(shop.server.at(8081))?;
        let sent = session.tell_within(&format!("send {GIB}"), Duration::from_secs(100))?;
        ensure!(sent.error.is_none() && sent.bytes == GIB, "{sent:?}");
        session.must("finish")?;
        ensure!(session.must("line")?.text == format!("{GIB} true"));
        eprintln!("up: {} MiB/s", GIB / MIB * 1_000_000 / sent.micros.max(1));
        Ok(())
    })
}

#[test]
fn a_gibibyte_down_is_byte_exact() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &["8082=source"])?;
        let mut session = shop.client.session(shop.server.at6(8082))?;
        session.must(&format!("say {GIB}"))?;
        let received = session.tell_within(&format!("receive {GIB}"), Duration::from_secs(100))?;
        ensure!(
            received.error.is_none() && received.bytes == GIB && received.intact,
            "{received:?}"
        );
        ensure!(session.must("end")?.end);
        drop(session);
        eprintln!(
            "down: {} MiB/s",
            GIB / MIB * 1_000_000 / received.micros.max(1)
        );
        let flow = shop.a.wait_flow("that counts the bytes", &[], |flow| {
            flow.bytes_received == GIB && flow.reason != "open"
        })?;
        ensure!(flow.reason == "finished", "{flow:?}");
        Ok(())
    })
}

#[test]
fn both_directions_at_once() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        // Echo sends back while it reads, so that sixteen streams fill both directions.
        let mut sessions = Vec::new();
        for number in 0..16 {
            sessions.push(shop.client.session(shop.web[number % 2])?);
        }
        for _ in 0..8 {
            for session in &mut sessions {
                session.begin("send 60000")?;
            }
            for session in &mut sessions {
                let sent = session.answer(Duration::from_secs(20))?;
                ensure!(sent.error.is_none() && sent.bytes == 60_000, "{sent:?}");
                let received = session.must("receive 60000")?;
                ensure!(received.bytes == 60_000 && received.intact, "{received:?}");
            }
        }
        Ok(())
    })
}

/// Resident memory of both nodes' workers, in KiB.
fn workers_memory(shop: &Shop) -> Result<u64> {
    let mut sum = 0;
    for worker in [shop.a.worker_ids(), shop.b.worker_ids()].concat() {
        sum += Node::memory_of(worker)?;
    }
    Ok(sum)
}

#[test]
fn a_slow_reader_holds_nobody_up_and_little_memory() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &["8085=hold"])?;
        let mut others = Vec::new();
        for _ in 0..4 {
            let mut other = shop.client.session(shop.web4())?;
            other.echo("hello")?;
            others.push(other);
        }
        let before = workers_memory(&shop)?;

        // Four streams into the tunnel to that very server, none of which is ever read.
        let mut stuck = Vec::new();
        for _ in 0..4 {
            let mut session = shop.client.session(shop.server.at(8085))?;
            session.begin(&format!("send {}", 512 * MIB))?;
            stuck.push(session);
        }
        let mut slowest = 0;
        for round in 0..200 {
            for other in &mut others {
                let answer = other
                    .echo("still quick")
                    .with_context(|| format!("round {round}: another stream is held up"))?;
                slowest = slowest.max(answer.micros);
            }
        }
        let full = workers_memory(&shop)?;
        let grown = full.saturating_sub(before);
        eprintln!("slowest answer beside slow readers: {slowest} µs; memory grown by {grown} KiB");
        ensure!(slowest < 500_000, "another stream waited {slowest} µs");
        // A stream's window is 4 MiB at most, and both proxies hold something of it.
        ensure!(
            grown < 4 * 16 * 1024,
            "four streams that nobody reads made the proxies grow by {grown} KiB"
        );
        for _ in 0..50 {
            for other in &mut others {
                other.echo("still quick")?;
            }
        }
        let further = workers_memory(&shop)?.saturating_sub(full);
        ensure!(
            further < 4 * 1024,
            "and they go on growing, by {further} KiB"
        );
        Ok(())
    })
}

#[test]
fn reused_addresses_and_ports_never_lead_astray() -> Result<()> {
    story(&[], |cluster| {
        let (a, b) = cluster.two_nodes()?;
        let client = a.pod("client")?;
        let servers = [b.pod("red")?, b.pod("blue")?];
        let _red = servers[0].serve(&["8080=name:red"])?;
        let _blue = servers[1].serve(&["8080=name:blue"])?;
        let (red, blue) = (service_addresses(1), service_addresses(2));
        cluster
            .configuration()
            .service("red", red, (80, 8080), &[&servers[0]])
            .service("blue", blue, (80, 8080), &[&servers[1]]);
        // So few ports that each is used again all the time, for either destination.
        client
            .namespace()
            .sysctl("net/ipv4/ip_local_port_range", "40000 40063")?;
        cluster.start(&[&client, &servers[0], &servers[1]])?;

        let time = Duration::from_secs(10);
        let loads = [
            (
                "red",
                client.load_with_resets((red[0], 80).into(), 3, time)?,
            ),
            (
                "blue",
                client.load_with_resets((blue[0], 80).into(), 3, time)?,
            ),
            (
                "red",
                client.load_with_resets((red[1], 80).into(), 3, time)?,
            ),
            (
                "blue",
                client.load_with_resets((blue[1], 80).into(), 3, time)?,
            ),
        ];
        for (name, load) in loads {
            let count = load.finish()?;
            ensure!(
                count.done > 200,
                "{name}: too few to prove anything: {count:?}"
            );
            ensure!(
                count.answers.keys().all(|answer| answer == name),
                "{name} was dialled, and somebody else answered: {count:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn many_connections_at_once() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let mut sessions = Vec::new();
        for number in 0..100 {
            sessions.push(shop.client.session(shop.web[number % 2])?);
        }
        for session in &mut sessions {
            session.echo("hello")?;
        }
        until("status counts them", Duration::from_secs(5), || {
            Ok(shop.a.status()?.traffic.open_outbound >= 100)
        })?;
        let status = shop.a.status()?;
        ensure!(
            status.traffic.tunnels_outbound < 50,
            "tunnels carry many connections each: {:?}",
            status.traffic
        );
        drop(sessions);
        until("status forgets them", Duration::from_secs(10), || {
            Ok(shop.a.status()?.traffic.open_outbound == 0)
        })
    })
}
