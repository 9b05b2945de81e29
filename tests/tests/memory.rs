//! What the processes of a node hold of the machine's memory.
//!
//! Idle processes are measured by their whole resident memory, as `ps` shows it. What a connection costs is measured by
//! anonymous memory: pages of the program's file are shared, and mapped once however many connections there are. Kernel
//! memory of sockets is not the proxy's, and the same for every proxy.

use std::fmt;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::eventually::eventually;
use mesh_tests::story::story;

/// Idle connections.
const CONNECTIONS: u32 = 2_000;

/// Most that each may cost each of the two proxies, in bytes.
const PER_CONNECTION: u64 = 6 * 1024;

/// Most that an idle worker may hold, in KiB. Code of a build that is not optimised is several times larger.
const WORKER: u64 = if cfg!(debug_assertions) { 20 } else { 12 } * 1024;

/// The same of an agent.
const AGENT: u64 = if cfg!(debug_assertions) { 40 } else { 20 } * 1024;

/// What a worker may keep besides a tenth, in KiB: an allocator keeps a page of each size class and thread in which anything
/// is left. It does not grow with the number of connections.
const CLASSES: u64 = 2 * 1024;

/// Memory is given back within this.
const GIVEN_BACK: Duration = Duration::from_secs(30);

/// For what only the start needed.
const SETTLE: Duration = Duration::from_secs(10);

/// Resident memory of a process, in KiB.
#[derive(Clone, Copy, Default)]
struct Resident {
    all: u64,
    /// What is its own.
    anonymous: u64,
}

impl Resident {
    fn of(process: i32) -> Result<Self> {
        let path = format!("/proc/{process}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.strip_prefix(name)?
                        .split_whitespace()
                        .next()?
                        .parse()
                        .ok()
                })
                .with_context(|| format!("{path} has no {name}"))
        };
        Ok(Self {
            all: field("Rss:")?,
            anonymous: field("Anonymous:")?,
        })
    }

    fn of_worker(node: &Node) -> Result<Self> {
        let workers = node.worker_ids();
        let [worker] = workers[..] else {
            anyhow::bail!("node {} has the workers {workers:?}", node.name());
        };
        Self::of(worker)
    }
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB, {} of it anonymous", self.all, self.anonymous)
    }
}

#[test]
fn idle_processes_are_small() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        for node in [&shop.a, &shop.b] {
            let small = |what: &str, most: u64, now: &dyn Fn() -> Result<Resident>| {
                let mut last = Resident::default();
                let waited = eventually(what, SETTLE, || {
                    last = now()?;
                    Ok((last.all <= most).then_some(()))
                });
                eprintln!("node {}, {what}: {last:?}", node.name());
                waited.with_context(|| format!("{last:?}, at most {most} KiB"))
            };
            small("the idle worker is small", WORKER, &|| {
                Resident::of_worker(node)
            })?;
            small("the idle agent is small", AGENT, &|| {
                Resident::of(node.agent_id()?)
            })?;
        }
        Ok(())
    })
}

#[test]
fn idle_connections_are_cheap_and_leave_nothing() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let nodes = [&shop.a, &shop.b];
        let to = shop.web4();
        // What is made once and for all: the first tunnel, the first certificates, the first buffers.
        drop(shop.client.hold(to, 4)?);
        thread::sleep(SETTLE);
        let before = nodes.map(|node| Resident::of_worker(node));

        let held = shop.client.hold(to, CONNECTIONS)?;
        // Heaps are cleared of what only the beginning of connections needed.
        thread::sleep(SETTLE);
        let with = nodes.map(|node| Resident::of_worker(node));
        drop(held);
        let closed = Instant::now();
        for ((node, before), with) in nodes.into_iter().zip(before).zip(with) {
            let (before, with) = (before?, with?);
            let grown = with.anonymous.saturating_sub(before.anonymous);
            let each = grown * 1024 / u64::from(CONNECTIONS);
            eprintln!(
                "node {}: {before:?}; with {CONNECTIONS} connections {with:?}: {each} bytes each",
                node.name()
            );
            ensure!(
                each <= PER_CONNECTION,
                "node {}: an idle connection costs {each} bytes",
                node.name()
            );
            let mut last = with;
            let most = before.anonymous + CLASSES + grown / 10;
            eventually(
                "memory is given back",
                GIVEN_BACK.saturating_sub(closed.elapsed()),
                || {
                    last = Resident::of_worker(node)?;
                    Ok((last.anonymous <= most).then_some(()))
                },
            )
            .with_context(|| format!("node {}: {last:?}, at most {most} KiB", node.name()))?;
            eprintln!(
                "node {}: {last:?} {:?} after they closed",
                node.name(),
                closed.elapsed()
            );
        }
        Ok(())
    })
}
