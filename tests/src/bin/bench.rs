//! `cargo xtask bench`: what Warren costs, next to no mesh at all and next to its peers. See [`mesh_tests::bench`].

#![expect(clippy::print_stdout, reason = "the tables are this program's output")]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use mesh_tests::bench::contender::{Contender, Programs, Variant, start};
use mesh_tests::bench::load::{fetch, flood, hold};
use mesh_tests::bench::measure::Measure;
use mesh_tests::bench::report::Report;
use mesh_tests::bench::rounds::{self, Measured};
use mesh_tests::bench::scene::{self, Scene};
use mesh_tests::bench::{goals, memory};
use mesh_tests::cluster::Cluster;
use mesh_tests::host::command::run;

#[derive(Parser)]
#[command(name = "warren-bench", about = "Measure Warren and its peers")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the cluster, measure, print and write the figures.
    // So that what is given by hand wins over what --quick sets.
    #[command(args_override_self = true)]
    Measure(Options),
    /// Make load inside a pod.
    #[command(subcommand, hide = true)]
    Load(Load),
}

#[derive(Args)]
struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Numbers of connections for requests.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    connections: Vec<u32>,
    /// Only measures whose name begins so: requests, new-connections, bulk, file, memory.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these.
    #[arg(long, value_delimiter = ',', value_enum)]
    variants: Vec<Variant>,
    /// The core that everything runs on; the last one by default.
    #[arg(long)]
    core: Option<usize>,
    /// Numbers of idle connections for memory.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 2_000])]
    idle_connections: Vec<u32>,
    /// Seconds for giving memory back after connections closed.
    #[arg(long, default_value_t = 30)]
    rest: u32,
    /// Envoy's program; without it Envoy is left out.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// HAProxy's program; without it HAProxy is left out.
    #[arg(long)]
    haproxy: Option<PathBuf>,
    /// Where the figures go as JSON.
    #[arg(long)]
    output: PathBuf,
}

#[derive(Subcommand)]
enum Load {
    /// Read streams to their end and answer with their length.
    Drink {
        #[arg(long)]
        port: u16,
    },
    /// Send on streams for a time.
    Pour {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        streams: u32,
        #[arg(long)]
        seconds: u64,
    },
    /// Fetch the file for a time.
    Fetch {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        seconds: u64,
    },
    /// Hold connections until standard input ends.
    Hold {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        connections: u32,
    },
}

/// Each held connection is two descriptors in a proxy, and all are held at the same time.
const DESCRIPTORS: u64 = 16_384;

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Measure(options) => measure(&options),
        Command::Load(load) => make(&load),
    }
}

fn make(load: &Load) -> Result<()> {
    match *load {
        Load::Drink { port } => flood::drink(port),
        Load::Pour {
            to,
            streams,
            seconds,
        } => print(&flood::pour(to, streams, Duration::from_secs(seconds))?),
        Load::Fetch { to, seconds } => print(&fetch::fetch(
            to,
            scene::FILE,
            Duration::from_secs(seconds),
        )?),
        Load::Hold { to, connections } => hold::hold(to, connections),
    }
}

fn print(seen: &impl serde::Serialize) -> Result<()> {
    println!(
        "{}",
        serde_json::to_string(seen).context("encode what was seen")?
    );
    Ok(())
}

fn measure(options: &Options) -> Result<()> {
    ensure!(
        options.rounds > 0 && options.seconds > 0,
        "there must be at least one round of one second"
    );
    let measures = options.measures()?;
    let core = scene::pin(options.core)?;
    scene::allow_descriptors(DESCRIPTORS)?;
    let mut cluster = Cluster::new().context("build the cluster")?;
    let report = perform(options, &measures, core, &mut cluster);
    if report
        .as_ref()
        .map_or(true, |report| !report.failures().is_empty())
    {
        eprintln!("{}", cluster.logs());
    }
    let removed = cluster.remove().context("remove the cluster");
    let report = report?;
    report.write(&options.output)?;
    print!("{}", report.text());
    println!("\nall figures: {}", options.output.display());
    removed?;
    let failures = report.failures();
    ensure!(
        failures.is_empty(),
        "work was not done:\n{}",
        failures.join("\n")
    );
    Ok(())
}

fn perform(
    options: &Options,
    measures: &[Measure],
    core: usize,
    cluster: &mut Cluster,
) -> Result<Report> {
    let wanted = options.wanted();
    let scene = Scene::build(cluster, wanted.contains(&Variant::Warren))?;
    let programs = Programs {
        envoy: options.envoy.clone(),
        haproxy: options.haproxy.clone(),
    };
    let contenders = start(&scene, cluster, &wanted, &programs)?;
    ensure!(!contenders.is_empty(), "there is nobody to measure");
    // First, while nobody has carried anything yet.
    let memory = if options.asks_for("memory") {
        let rest = Duration::from_secs(options.rest.into());
        memory::measure(&contenders, &options.idle_connections, rest)?
    } else {
        Vec::new()
    };
    let measured = measures
        .iter()
        .map(|measure| options.rounds_of(*measure, &contenders, cluster))
        .collect::<Vec<Measured>>();
    contenders.iter().try_for_each(Contender::verify)?;
    Ok(Report {
        about: options.about(core)?,
        goals: goals::judge(&measured, &memory),
        memory,
        measured,
    })
}

impl Options {
    fn measures(&self) -> Result<Vec<Measure>> {
        let mut all: Vec<Measure> = self
            .connections
            .iter()
            .copied()
            .map(Measure::Requests)
            .collect();
        all.extend([
            Measure::NewConnections,
            Measure::Bulk(1),
            Measure::Bulk(8),
            Measure::File,
        ]);
        for name in &self.only {
            let known = all
                .iter()
                .any(|measure| measure.to_string().starts_with(name.as_str()));
            if !known && !"memory".starts_with(name.as_str()) {
                bail!(
                    "no measure begins with {name:?}; there are memory, {}",
                    names(&all)
                );
            }
        }
        all.retain(|measure| self.asks_for(&measure.to_string()));
        Ok(all)
    }

    fn asks_for(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }

    fn wanted(&self) -> Vec<Variant> {
        if self.variants.is_empty() {
            Variant::ALL.to_vec()
        } else {
            self.variants.clone()
        }
    }

    fn rounds_of(&self, measure: Measure, all: &[Contender], cluster: &Cluster) -> Measured {
        rounds::run(measure, all, self.rounds, self.seconds, cluster.folder())
    }

    /// What a reader has to know to judge the figures.
    fn about(&self, core: usize) -> Result<BTreeMap<&'static str, String>> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("read the kernel's release")?;
        let processors = fs::read_to_string("/proc/cpuinfo").context("read the processors")?;
        let model = processors
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map_or("unknown", |(_, model)| model);
        let cores = processors
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count();
        let binary = mesh_tests::host::binary::warren()?;
        let mut warren = version(&binary, "--version");
        if binary
            .parent()
            .is_some_and(|folder| folder.ends_with("debug"))
        {
            warren += " (a debug build: not to be judged by)";
        }
        let mut about = BTreeMap::from([
            ("kernel", kernel.trim().to_owned()),
            (
                "processor",
                format!("{model}, {cores} cores, everything on core {core}"),
            ),
            (
                "rounds",
                format!(
                    "{} of {} s, interleaved, medians",
                    self.rounds, self.seconds
                ),
            ),
            ("warren", warren),
        ]);
        if let Some(envoy) = &self.envoy {
            about.insert("envoy", version(envoy, "--version"));
        }
        if let Some(haproxy) = &self.haproxy {
            about.insert("haproxy", version(haproxy, "-v"));
        }
        Ok(about)
    }
}

/// The first line that a program says about its version.
fn version(program: &std::path::Path, flag: &str) -> String {
    let output = run(&program.to_string_lossy(), &[flag]).unwrap_or_default();
    let line = output
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    // Envoy names its own path first.
    line.rsplit("version: ")
        .next()
        .unwrap_or(line)
        .trim()
        .to_owned()
}

fn names(measures: &[Measure]) -> String {
    let names: Vec<String> = measures.iter().map(Measure::to_string).collect();
    names.join(", ")
}
