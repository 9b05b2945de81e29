//! `warren-bench`, run by `cargo xtask bench`: requests through Warren and without it, in one cluster, in turns, so that
//! what else happens on the machine hits both alike. The ratio of the medians is what counts.

mod wrk;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::place::Place;
use mesh_tests::cluster::{Cluster, nginx};
use mesh_tests::host::requires::{Need, met};
use serde::Serialize;

use wrk::Measured;

#[derive(Parser)]
#[command(name = "warren-bench", about = "Warren against a direct connection")]
struct Arguments {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    connections: Vec<u32>,
    /// Where the figures go.
    #[arg(long)]
    output: PathBuf,
}

/// A way from client to server.
struct Way {
    name: &'static str,
    client: Place,
    server: Place,
    /// Nodes whose proxies carry it.
    proxies: bool,
}

/// The medians of one way at one number of connections.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    way: &'static str,
    connections: u32,
    requests_per_second: f64,
    p50_micros: f64,
    p99_micros: f64,
    /// Processor time of both proxies, in seconds per 100,000 requests.
    proxy_cpu_seconds_per_100k: f64,
    /// Throughput as a share of the direct one.
    ratio_to_direct: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        met(&[
            Need::Root,
            Need::CgroupTree,
            Need::Program("wrk"),
            Need::Program("nginx")
        ]),
        "this machine lacks something; see above"
    );
    let mut cluster = Cluster::new()?;
    let rows = measure(&mut cluster, &arguments);
    if rows.is_err() {
        eprintln!("{}", cluster.logs());
    }
    let removed = cluster.remove();
    let rows = rows?;
    removed?;
    show(&rows);
    let json = serde_json::to_string_pretty(&rows)?;
    fs::write(&arguments.output, json)
        .with_context(|| format!("write {}", arguments.output.display()))
}

fn measure(cluster: &mut Cluster, arguments: &Arguments) -> Result<Vec<Row>> {
    let (a, b) = cluster.two_nodes()?;
    let ways = [
        Way {
            name: "direct",
            client: a.pod("c-direct")?,
            server: b.pod("s-direct")?,
            proxies: false,
        },
        Way {
            name: "warren",
            client: a.pod("c-warren")?,
            server: b.pod("s-warren")?,
            proxies: true,
        },
    ];
    let mut servers = Vec::new();
    for way in &ways {
        servers.push(nginx::start(cluster, &way.server, "ok")?);
    }
    cluster.start(&[&ways[1].client, &ways[1].server])?;

    let mut samples: BTreeMap<(u32, &str), Vec<Measured>> = BTreeMap::new();
    for _ in 0..arguments.rounds {
        for connections in &arguments.connections {
            for way in &ways {
                let before = if way.proxies { cpu(&[&a, &b])? } else { 0.0 };
                let mut measured = wrk::run(
                    &way.client,
                    way.server.at(8080),
                    *connections,
                    arguments.seconds,
                )?;
                if way.proxies {
                    measured.cpu_seconds = cpu(&[&a, &b])? - before;
                }
                samples
                    .entry((*connections, way.name))
                    .or_default()
                    .push(measured);
            }
        }
    }
    let mut rows = Vec::new();
    for connections in &arguments.connections {
        let direct = median(&samples[&(*connections, "direct")], |sample| {
            sample.requests_per_second
        });
        for way in &ways {
            let own = &samples[&(*connections, way.name)];
            let requests_per_second = median(own, |sample| sample.requests_per_second);
            rows.push(Row {
                way: way.name,
                connections: *connections,
                requests_per_second,
                p50_micros: median(own, |sample| sample.p50_micros),
                p99_micros: median(own, |sample| sample.p99_micros),
                proxy_cpu_seconds_per_100k: median(own, |sample| {
                    sample.cpu_seconds * 100_000.0 / sample.requests
                }),
                ratio_to_direct: requests_per_second / direct,
            });
        }
    }
    Ok(rows)
}

fn median(samples: &[Measured], figure: impl Fn(&Measured) -> f64) -> f64 {
    let mut figures: Vec<f64> = samples.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

/// Processor time of the nodes' workers so far, in seconds.
fn cpu(nodes: &[&Node]) -> Result<f64> {
    let ticks_per_second =
        nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100) as f64;
    let mut ticks = 0.0;
    for worker in nodes.iter().flat_map(|node| node.worker_ids()) {
        let path = format!("/proc/{worker}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // After the program's name, which may contain anything, user and system time are the 12th and 13th fields.
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split(' ')
            .collect();
        for field in [11, 12] {
            ticks += fields
                .get(field)
                .and_then(|text| text.parse::<f64>().ok())
                .with_context(|| format!("{path} has no processor times"))?;
        }
    }
    Ok(ticks / ticks_per_second)
}

#[expect(clippy::print_stdout, reason = "the figures are the output")]
fn show(rows: &[Row]) {
    println!(
        "WAY      CONNECTIONS   REQUESTS/S   OF DIRECT      P50 µs      P99 µs   PROXY CPU s/100k"
    );
    for row in rows {
        println!(
            "{:8} {:11} {:12.0} {:10.1} % {:11.0} {:11.0} {:18.2}",
            row.way,
            row.connections,
            row.requests_per_second,
            row.ratio_to_direct * 100.0,
            row.p50_micros,
            row.p99_micros,
            row.proxy_cpu_seconds_per_100k
        );
    }
}
