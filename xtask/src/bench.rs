//! `cargo xtask bench`: Warren against a direct connection, in the simulated cluster, rounds interleaved so that what
//! else happens on the machine hits both alike. Ratios count, absolute figures belong to the machine.
//! The measurement itself is the binary `warren-bench` of the tests' package, which has the cluster.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::{deps, run, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Numbers of connections to measure with.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64])]
    connections: Vec<u32>,
    /// Where the figures go as JSON.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Measure the debug build (to try the benchmark itself).
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "the benchmark makes network namespaces and loads eBPF programs, so it needs root; run `sudo -E cargo xtask bench`"
        );
    }
    deps::ensure(&["ip", "nginx", "wrk"])?;
    let warren = workspace::build_warren(!options.debug)?;
    run::step(workspace::cargo().args(["build", "--package", "mesh-tests", "--bins"]))?;

    let connections: Vec<String> = options.connections.iter().map(u32::to_string).collect();
    let output = options
        .output
        .clone()
        .unwrap_or_else(|| workspace::target().join("bench.json"));
    let mut bench =
        std::process::Command::new(workspace::target().join("debug").join("warren-bench"));
    bench
        .env("WARREN_BIN", warren)
        .args(["--seconds", &options.seconds.to_string()])
        .args(["--rounds", &options.rounds.to_string()])
        .args(["--connections", &connections.join(",")])
        .arg("--output")
        .arg(&output);
    run::step(&mut bench)
}
