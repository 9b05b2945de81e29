//! Whatever dies, nothing leaves in clear; and what can go on goes on.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::cluster::capture::{Captures, MARKER};
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::eventually::until;
use mesh_tests::host::requires::Need;
use mesh_tests::story::story;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TCPDUMP: &[Need] = &[Need::Program("tcpdump")];

/// How long a dial may hang.
const PATIENCE: Duration = Duration::from_millis(1_500);

fn signal(process: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(process), signal).with_context(|| format!("signal process {process}"))
}

/// Dials every address of the service and of the server, with the marker; gives errors and answers.
fn dial_all(shop: &Shop) -> Result<Vec<(SocketAddr, Option<String>, String)>> {
    [
        shop.web4(),
        shop.web6(),
        shop.server.at(8080),
        shop.server.at6(8080),
    ]
    .into_iter()
    .map(|to| {
        let report = shop.client.dial_within(to, "plain", MARKER, PATIENCE)?;
        Ok((to, report.error, report.received))
    })
    .collect()
}

fn assert_all_work(shop: &Shop) -> Result<()> {
    for (to, error, received) in dial_all(shop)? {
        ensure!(
            error.is_none() && received == MARKER,
            "{to}: {error:?}, {received:?}"
        );
    }
    Ok(())
}

#[test]
fn before_the_proxys_first_start() -> Result<()> {
    story(TCPDUMP, |cluster| {
        let shop = Shop::build(cluster, &[])?;
        cluster
            .configuration()
            .enrol(&shop.client)
            .enrol(&shop.server);
        cluster.write()?;
        shop.b.start()?;
        shop.b.wait_ready()?;
        let captures = Captures::start(cluster, &shop)?;

        // The worker of node a is stopped as soon as there is one, long before it can serve.
        shop.a.start()?;
        let worker = stop_first_worker(&shop.a)?;
        shop.a.wait_status(
            "the client is being enrolled",
            Duration::from_secs(20),
            |status| status.workloads.preparing > 0 && status.workloads.enrolled == 0,
        )?;
        for (to, error, received) in dial_all(&shop)? {
            ensure!(
                error.is_some() && received.is_empty(),
                "nothing serves yet, but {to} answered {received:?}"
            );
        }
        signal(worker, Signal::SIGCONT)?;
        shop.a.wait_ready()?;
        assert_all_work(&shop)?;
        captures.assert_unreadable()
    })
}

fn stop_first_worker(node: &Node) -> Result<i32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        // Before it has become the worker it is the agent's own fork, for which the agent waits.
        let is_worker = |process: &&i32| {
            fs::read_to_string(format!("/proc/{process}/cmdline"))
                .is_ok_and(|line| line.split('\0').any(|word| word == "proxy"))
        };
        if let Some(worker) = node.worker_ids().iter().find(is_worker) {
            signal(*worker, Signal::SIGSTOP)?;
            return Ok(*worker);
        }
        thread::yield_now();
    }
    bail!("no worker was started")
}

#[test]
fn the_proxy_is_dead() -> Result<()> {
    story(TCPDUMP, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        assert_all_work(&shop)?;
        let captures = Captures::start(cluster, &shop)?;

        // The agent would start another at once, so it is held while the proxy is dead.
        let agent = shop.a.agent_id()?;
        signal(agent, Signal::SIGSTOP)?;
        shop.a.kill_workers()?;
        let mut waiting = shop.client.session(shop.web4())?;
        ensure!(
            waiting.opened.error.is_none(),
            "the agent holds the listener, so the dial is queued: {:?}",
            waiting.opened
        );
        waiting.must(&format!("say {MARKER}"))?;
        for (to, error, received) in dial_all(&shop)? {
            ensure!(
                received.is_empty(),
                "{to} answered without a proxy: {error:?} {received:?}"
            );
        }
        signal(agent, Signal::SIGCONT)?;

        let answer = waiting.must("line")?;
        ensure!(
            answer.text == MARKER,
            "the queued connection is served by the next proxy: {answer:?}"
        );
        shop.a.wait_ready()?;
        assert_all_work(&shop)?;
        captures.assert_unreadable()
    })
}

#[test]
fn the_servers_proxy_is_dead() -> Result<()> {
    story(TCPDUMP, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        assert_all_work(&shop)?;
        let captures = Captures::start(cluster, &shop)?;
        let agent = shop.b.agent_id()?;
        signal(agent, Signal::SIGSTOP)?;
        shop.b.kill_workers()?;
        for (to, error, received) in dial_all(&shop)? {
            ensure!(
                received.is_empty(),
                "{to} answered without a proxy: {error:?} {received:?}"
            );
        }
        signal(agent, Signal::SIGCONT)?;
        shop.b.wait_ready()?;
        until("everything works again", Duration::from_secs(10), || {
            Ok(assert_all_work(&shop).is_ok())
        })?;
        captures.assert_unreadable()
    })
}

#[test]
fn the_agent_is_dead() -> Result<()> {
    story(TCPDUMP, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let mut session = shop.client.session(shop.web4())?;
        session.echo("before")?;
        assert_all_work(&shop)?;
        let captures = Captures::start(cluster, &shop)?;

        shop.a.kill_agent()?;
        session.echo("established connections do not notice")?;
        assert_all_work(&shop).context("new connections go on while the agent is dead")?;

        shop.a.start()?;
        shop.a.wait_ready()?;
        session.echo("nor do they notice the next agent")?;
        assert_all_work(&shop)?;
        captures.assert_unreadable()
    })
}

#[test]
fn both_are_dead() -> Result<()> {
    story(TCPDUMP, |cluster| {
        let shop = Shop::build(cluster, &[])?;
        // The client also serves, so that inbound is seen too.
        let mut inbound = shop.client.serve(&["7000=echo"])?;
        cluster.start(&[&shop.client, &shop.server])?;
        assert_all_work(&shop)?;
        let captures = Captures::start(cluster, &shop)?;

        shop.a.kill_both()?;
        for (to, error, received) in dial_all(&shop)? {
            ensure!(
                error.as_deref() == Some("ECONNREFUSED"),
                "{to} must be refused at once: {error:?} {received:?}"
            );
        }
        // From the mesh, and from outside of it: the SYN is dropped, so that the client tries again.
        for to in shop.client.both(7_000) {
            let report = shop.server.dial_within(to, "plain", MARKER, PATIENCE)?;
            ensure!(report.received.is_empty(), "{to} answered: {report:?}");
        }

        shop.a.start()?;
        shop.a.wait_ready()?;
        assert_all_work(&shop).context("no pod had to be restarted")?;
        let report = shop.server.dial(shop.client.at(7_000), "plain", MARKER)?;
        ensure!(report.received == MARKER, "{report:?}");
        ensure!(inbound.accepted()?.ip() == shop.server.v4);
        captures.assert_unreadable()
    })
}

#[test]
fn nothing_leaves_while_agents_and_proxies_come_and_go() -> Result<()> {
    story(TCPDUMP, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let captures = Captures::start(cluster, &shop)?;
        let load = shop
            .client
            .load_for(shop.web4(), 4, Duration::from_secs(20))?;
        for round in 0..5 {
            match round % 3 {
                0 => shop.a.kill_workers()?,
                1 => {
                    shop.a.kill_agent()?;
                    shop.a.start()?;
                }
                _ => {
                    shop.a.kill_both()?;
                    shop.client
                        .dial_within(shop.web6(), "plain", MARKER, PATIENCE)?;
                    shop.a.start()?;
                }
            }
            shop.client
                .dial_within(shop.web4(), "plain", MARKER, PATIENCE)?;
            shop.a.wait_ready()?;
        }
        let count = load.finish()?;
        ensure!(count.done > 0, "{count:?}");
        assert_all_work(&shop)?;
        captures.assert_unreadable()
    })
}

#[test]
fn the_proxy_has_no_privilege() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        for worker in shop.a.worker_ids() {
            let status = fs::read_to_string(format!("/proc/{worker}/status"))?;
            let field = |name: &str| -> Result<String> {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                    .map(|value| value.trim().to_owned())
                    .with_context(|| format!("no {name} in the status of the worker"))
            };
            for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                let value = field(name)?;
                ensure!(
                    value.bytes().all(|digit| digit == b'0'),
                    "{name} is {value}"
                );
            }
            ensure!(field("NoNewPrivs")? == "1", "it could gain privileges");
            ensure!(field("Seccomp")? == "2", "it has no system call filter");
            let limits = fs::read_to_string(format!("/proc/{worker}/limits"))?;
            let core = limits
                .lines()
                .find(|line| line.starts_with("Max core file size"))
                .context("no limit of core files")?;
            ensure!(
                core.split_whitespace().nth(4) == Some("0"),
                "it could dump its memory: {core}"
            );
            for task in fs::read_dir(format!("/proc/{worker}/task"))? {
                let status = fs::read_to_string(task?.path().join("status"))?;
                ensure!(
                    status
                        .lines()
                        .any(|line| line.starts_with("Seccomp:") && line.ends_with('2')),
                    "a thread without a system call filter"
                );
            }
        }
        Ok(())
    })
}
