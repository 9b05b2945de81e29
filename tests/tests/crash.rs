//! Crashes under load: 500 requests per second on 64 connections, one log line per request, and something dies.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::capture::{Captures, MARKER};
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::requests::{Rate, Requests};
use mesh_tests::cluster::shop::Shop;
use mesh_tests::eventually::{eventually, until};
use mesh_tests::host::binary;
use mesh_tests::host::command::run;
use mesh_tests::host::process::Launch;
use mesh_tests::host::requires::Need;
use mesh_tests::probe::rate::now;
use mesh_tests::story::story;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NEEDS: &[Need] = &[Need::Program("tcpdump"), Need::Program("bpftool")];

/// After a crash the first new request is answered within this.
const BACK: Duration = Duration::from_millis(300);

/// On a machine that is busy with other things a process takes longer to start, whoever starts it: then service may be
/// away for as long as so many starts of a program that does nothing. On an idle machine that is far less than [`BACK`].
const STARTS: u32 = 20;

/// Between the end of a worker and the moment when the other node's has heard of all its connections.
const HEARD: u64 = 20_000;

/// How often a worker is killed.
const KILLS: usize = 5;

/// Between two kills: a worker that ran for so long was not killed by its first request.
const BETWEEN: Duration = Duration::from_secs(2);

/// The load begins, and connections are made.
const WARM_UP: Duration = Duration::from_secs(2);

/// Reservoirs differ from moment to moment by a few sockets.
const SLACK: usize = 24;

/// From the end of a process's first thread to the end of the last, which closes its listeners: longer on a busy machine.
const GONE: u64 = 200_000;

/// What could leak, counted.
#[derive(Clone, Debug, PartialEq)]
struct Inventory {
    agent_descriptors: usize,
    worker_descriptors: usize,
    workers: usize,
    pins: usize,
    /// Entries of all maps but for counters and for dials under way.
    entries: usize,
}

impl Inventory {
    fn take(node: &Node) -> Result<Self> {
        let descriptors = |process: i32| -> Result<usize> {
            let path = format!("/proc/{process}/fd");
            let entries = fs::read_dir(&path).with_context(|| format!("read {path}"))?;
            Ok(entries.count())
        };
        let workers = node.worker_ids();
        let mut worker_descriptors = 0;
        for worker in &workers {
            worker_descriptors += descriptors(*worker)?;
        }
        let pins = node.bpf().pins();
        let mut entries = 0;
        for pin in &pins {
            let is_map = pin.components().any(|part| part.as_os_str() == "maps");
            let name = pin.file_name().unwrap_or_default().to_string_lossy();
            if is_map && !name.contains("COUNTER") && !name.contains("counter") {
                entries += entries_of(pin)?;
            }
        }
        Ok(Self {
            agent_descriptors: descriptors(node.agent_id()?)?,
            worker_descriptors,
            workers: workers.len(),
            pins: pins.len(),
            entries,
        })
    }

    /// Whether nothing was leaked since.
    fn is_no_more_than(&self, before: &Self) -> bool {
        self.agent_descriptors <= before.agent_descriptors + SLACK
            && self.worker_descriptors <= before.worker_descriptors + SLACK
            && self.workers == before.workers
            && self.pins <= before.pins
            && self.entries <= before.entries
    }
}

/// Entries of a pinned map; 0 for kinds that have none to list.
fn entries_of(pin: &Path) -> Result<usize> {
    let Ok(dump) = run(
        "bpftool",
        &["--json", "map", "dump", "pinned", &pin.to_string_lossy()],
    ) else {
        return Ok(0);
    };
    let entries: serde_json::Value = serde_json::from_str(&dump).unwrap_or_default();
    Ok(entries.as_array().map_or(0, Vec::len))
}

fn assert_nothing_leaked(node: &Node, before: &Inventory) -> Result<()> {
    let mut last = None;
    // The kernel half clears what is stale every half minute.
    eventually(
        "nothing is left of dead workers",
        Duration::from_secs(45),
        || {
            let now = Inventory::take(node)?;
            let done = now.is_no_more_than(before);
            last = Some(now);
            Ok(done.then_some(()))
        },
    )
    .with_context(|| format!("before: {before:?}\nnow: {last:?}"))
}

/// Moments of a crash: just before the signal, and when the process was gone.
struct Crash {
    from: u64,
    gone: u64,
}

/// Kills the workers of a node, and says when.
fn kill_workers(node: &Node) -> Result<Crash> {
    let from = now();
    node.kill_workers()?;
    Ok(Crash { from, gone: now() })
}

/// How long a program takes that does nothing.
fn time_of_a_start(shop: &Shop) -> Result<Duration> {
    let began = Instant::now();
    shop.a.cli(&["version"])?;
    Ok(began.elapsed())
}

/// Every figure that is promised of crashes of a worker.
fn assert_bearable(requests: &Requests, crashes: &[Crash], start: Duration) -> Result<()> {
    let allowed = BACK.max(start * STARTS);
    let errors = requests.errors();
    let back: Vec<Duration> = crashes
        .iter()
        .map(|crash| requests.back_after(crash.gone).unwrap_or(Duration::MAX))
        .collect();
    let in_flight: Vec<usize> = crashes
        .iter()
        .map(|crash| requests.in_flight(crash.from, crash.gone + HEARD))
        .collect();
    eprintln!(
        "{} requests, {} failed {errors:?}; in flight at the kills {in_flight:?}; back after {back:?}, \
         where a start takes {start:?}",
        requests.count(),
        requests.failed().count(),
    );
    ensure!(requests.count() > 2_000, "there was hardly any load");
    ensure!(
        !errors.contains_key("ECONNREFUSED"),
        "a connection was refused: {errors:?}"
    );
    for failed in requests.failed() {
        ensure!(
            crashes
                .iter()
                .any(|crash| failed.begun <= crash.gone + HEARD && failed.ended >= crash.from),
            "a request failed that was not in flight at a kill: {failed:?}"
        );
    }
    ensure!(
        requests.failed().count() <= in_flight.iter().sum(),
        "more failed than were in flight"
    );
    ensure!(
        back.iter().all(|back| *back <= allowed),
        "service was away for longer than {allowed:?}: {back:?}"
    );
    Ok(())
}

fn the_worker_is_killed(which: impl FnOnce(&Shop) -> &Node) -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let node = which(&shop);
        let captures = Captures::start(cluster, &shop)?;
        let time = WARM_UP + BETWEEN * (KILLS as u32 + 1);
        let asking = shop.client.ask(shop.web4(), Rate::usual(time))?;
        thread::sleep(WARM_UP);
        let before = Inventory::take(node)?;
        let (mut crashes, mut start) = (Vec::new(), Duration::ZERO);
        for _ in 0..KILLS {
            crashes.push(kill_workers(node)?);
            thread::sleep(BETWEEN);
            start = start.max(time_of_a_start(&shop)?);
        }
        let requests = asking.finish()?;
        captures.assert_unreadable()?;
        assert_bearable(&requests, &crashes, start)?;
        ensure!(node.status()?.worker.restarts == KILLS as u64);
        assert_nothing_leaked(node, &before)
    })
}

#[test]
fn the_clients_worker_is_killed_under_load() -> Result<()> {
    the_worker_is_killed(|shop| &shop.a)
}

#[test]
fn the_servers_worker_is_killed_under_load() -> Result<()> {
    the_worker_is_killed(|shop| &shop.b)
}

/// Kept connections at the usual rate, and new ones beside them, while something is done; none of them may fail.
fn nobody_notices(time: Duration, act: impl FnOnce(&Shop) -> Result<()>) -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let captures = Captures::start(cluster, &shop)?;
        let kept = shop.client.ask(shop.web4(), Rate::usual(time))?;
        let new = shop
            .client
            .ask(shop.web6(), Rate::of_connections(40, time))?;
        thread::sleep(WARM_UP);
        act(&shop)?;
        for (what, asking) in [("kept", kept), ("new", new)] {
            let requests = asking.finish()?;
            eprintln!(
                "{what} connections: {} requests, {:?}, the slowest took {:?}",
                requests.count(),
                requests.errors(),
                requests.slowest()
            );
            ensure!(requests.count() > 100, "there was hardly any load");
            ensure!(
                requests.failed().count() == 0,
                "requests on {what} connections failed: {:?}",
                requests.failed().take(5).collect::<Vec<_>>()
            );
        }
        captures.assert_unreadable()
    })
}

/// Kills an agent, leaves the node without one for a while, starts another, and waits until that has taken over.
fn replace_agent(node: &Node, absent: Duration) -> Result<()> {
    let orphans = node.worker_ids();
    node.kill_agent()?;
    thread::sleep(absent);
    ensure!(node.worker_ids() == orphans, "the worker goes on by itself");
    node.start()?;
    node.wait_ready()?;
    until("there is a new worker", Duration::from_secs(5), || {
        Ok(node
            .worker_ids()
            .iter()
            .any(|worker| !orphans.contains(worker)))
    })
}

#[test]
fn the_clients_agent_is_killed_under_load() -> Result<()> {
    nobody_notices(Duration::from_secs(12), |shop| {
        replace_agent(&shop.a, Duration::from_secs(2))
    })
}

#[test]
fn the_servers_agent_is_killed_under_load() -> Result<()> {
    nobody_notices(Duration::from_secs(12), |shop| {
        replace_agent(&shop.b, Duration::from_secs(2))
    })
}

#[test]
fn an_orphaned_worker_ends_once_its_connections_have() -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let orphans = shop.a.worker_ids();
        let mut session = shop.client.session(shop.web4())?;
        session.echo("kept")?;
        let before = Inventory::take(&shop.a)?;
        replace_agent(&shop.a, Duration::ZERO)?;
        session.echo("through the orphan")?;
        ensure!(
            shop.a
                .worker_ids()
                .iter()
                .any(|worker| orphans.contains(worker)),
            "the orphan drains as long as it has connections"
        );
        shop.client.session(shop.web4())?.echo("through the next")?;
        drop(session);
        until("the orphan has ended", Duration::from_secs(5), || {
            Ok(!shop
                .a
                .worker_ids()
                .iter()
                .any(|worker| orphans.contains(worker)))
        })?;
        assert_nothing_leaked(&shop.a, &before)
    })
}

#[test]
fn agents_are_restarted_in_order_under_load() -> Result<()> {
    nobody_notices(Duration::from_secs(16), |shop| {
        for node in [&shop.a, &shop.b] {
            node.stop_agent()?;
            node.start()?;
            node.wait_ready()?;
        }
        Ok(())
    })
}

#[test]
fn agent_and_worker_are_killed_under_load() -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let captures = Captures::start(cluster, &shop)?;
        let time = Duration::from_secs(14);
        let asking = shop.client.ask(shop.web4(), Rate::usual(time))?;
        thread::sleep(WARM_UP);
        let killed = now();
        shop.a.kill_both()?;
        let dead = now();
        thread::sleep(BETWEEN);
        let report = shop.client.dial(shop.web6(), "plain", MARKER)?;
        ensure!(
            report.error.as_deref() == Some("ECONNREFUSED"),
            "without a mesh nothing leaves: {report:?}"
        );
        let started = now();
        shop.a.start()?;
        shop.a.wait_ready()?;
        let ready = now();
        let requests = asking.finish()?;
        eprintln!("{} requests, {:?}", requests.count(), requests.errors());
        for failed in requests.failed() {
            ensure!(
                failed.ended >= killed && failed.begun <= ready,
                "failed with a mesh: {failed:?}"
            );
            ensure!(
                failed.begun < dead + GONE
                    || failed.ended > started
                    || failed.error.as_deref() == Some("ECONNREFUSED"),
                "refused at once while both are dead: {failed:?}"
            );
        }
        ensure!(
            requests.back_after(ready).is_some(),
            "everything is back, and nobody had to restart anything"
        );
        captures.assert_unreadable()
    })
}

#[test]
fn an_agent_that_was_superseded_touches_nothing() -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let mut session = shop.client.session(shop.web4())?;
        session.echo("before")?;
        // A second agent for the same node, with files of its own.
        let run = cluster.folder().join("second");
        let second = Launch::new(binary::warren()?)
            .args(["node", "--name", "a", "--file"])
            .args([cluster.folder().join("warren.yaml")])
            .args(["--run-dir".as_ref(), run.as_path()])
            .args(["--bpffs".as_ref(), shop.a.bpf().path()])
            .args(["--cgroup-root".as_ref(), shop.a.cgroup().path()])
            .args([
                "--mesh-cgroup".as_ref(),
                shop.a.cgroup().path().join("mesh").as_path(),
            ])
            .args([
                "--metrics-listen",
                "127.0.0.1:16020",
                "--health-listen",
                "127.0.0.1:16021",
            ])
            .namespace(shop.a.namespace().name())
            .cgroup(&shop.a.cgroup().path().join("system"))
            .log(&cluster.folder().join("second.log"));
        fs::create_dir_all(&run).context("create the second run directory")?;
        let mut second = second.start()?;
        until("the first gives up", Duration::from_secs(20), || {
            Ok(!shop.a.is_running())
        })
        .with_context(|| {
            fs::read_to_string(cluster.folder().join("second.log")).unwrap_or_default()
        })?;
        ensure!(second.is_running()?, "the second serves");
        session.echo("an established connection does not notice")?;
        for to in shop.web {
            let report = shop.client.dial(to, "plain", MARKER)?;
            ensure!(report.received == MARKER, "{to}: {report:?}");
        }
        Ok(())
    })
}

#[test]
fn a_worker_that_hangs_is_replaced() -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        shop.client.session(shop.web4())?.echo("before")?;
        let captures = Captures::start(cluster, &shop)?;
        let hung = shop.a.worker_ids();
        for worker in &hung {
            kill(Pid::from_raw(*worker), Signal::SIGSTOP).context("stop the worker")?;
        }
        let since = Instant::now();
        for to in shop.web {
            let report =
                shop.client
                    .dial_within(to, "plain", MARKER, Duration::from_millis(500))?;
            ensure!(report.received.is_empty(), "{to} answered: {report:?}");
        }
        until("it is replaced", Duration::from_secs(12), || {
            let workers = shop.a.worker_ids();
            Ok(!workers.is_empty() && !workers.iter().any(|worker| hung.contains(worker)))
        })?;
        eprintln!("replaced after {:?}", since.elapsed());
        for to in shop.web {
            let report = shop.client.dial(to, "plain", MARKER)?;
            ensure!(report.received == MARKER, "{to}: {report:?}");
        }
        captures.assert_unreadable()
    })
}

#[test]
fn a_worker_that_crashes_all_the_time_still_serves() -> Result<()> {
    story(NEEDS, |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let captures = Captures::start(cluster, &shop)?;
        let rate = Rate {
            requests: 100,
            connections: 32,
            // A request that waits for the next worker is served: late, but not lost.
            patience: Duration::from_secs(3),
            ..Rate::usual(Duration::from_secs(20))
        };
        let asking = shop.client.ask(shop.web4(), rate)?;
        for _ in 0..18 {
            thread::sleep(Duration::from_secs(1));
            for worker in shop.a.worker_ids() {
                // It may just have been killed.
                kill(Pid::from_raw(worker), Signal::SIGKILL).unwrap_or_default();
            }
        }
        let requests = asking.finish()?;
        let failed = requests.failed().count();
        eprintln!(
            "{} requests, {failed} failed {:?}",
            requests.count(),
            requests.errors()
        );
        ensure!(
            failed * 10 <= requests.count(),
            "more than a tenth failed: {:?}",
            requests.errors()
        );
        captures.assert_unreadable()
    })
}
