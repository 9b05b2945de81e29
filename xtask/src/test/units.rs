//! Unit tests of every crate, and the host tests of the kernel half. None needs root.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow};

use super::totals::Totals;
use crate::kubernetes::Running;
use crate::{ebpf, run, workspace};

pub(super) fn run(object: &Path, filter: Option<&str>) -> Result<Totals> {
    let mut totals = Totals::default();
    let selections: [&[&str]; 2] = [
        &["--workspace", "--exclude", "mesh-tests"],
        // The stories have their own runner; here only the harness's own units.
        &["--package", "mesh-tests", "--lib"],
    ];
    for selection in selections {
        let mut cargo = workspace::cargo();
        cargo
            .env("WARREN_BPF_OBJECT", object)
            .args(["test", "--no-fail-fast"])
            .args(selection);
        totals.add(stream(cargo.arg("--").args(filter))?);
    }
    let mut kernel_half = ebpf::test(&workspace::root());
    totals.add(stream(kernel_half.arg("--").args(filter))?);
    Ok(totals)
}

/// Why tests are ignored that need an API server.
const NEEDS_SERVER: &str = "needs an API server: cargo xtask test --kubernetes";

/// What needs an API server, in the cluster that runs.
pub(super) fn run_with_server(
    cluster: &Running,
    object: &Path,
    filter: Option<&str>,
) -> Result<Totals> {
    let mut cargo = workspace::cargo();
    cargo
        .env("WARREN_BPF_OBJECT", object)
        // The cluster's network has no way out.
        .args([
            "test",
            "--offline",
            "--workspace",
            "--exclude",
            "mesh-tests",
        ])
        .args(["--test", "api", "--", "--ignored", "--test-threads=2"])
        .args(filter);
    let mut totals = stream(&mut cluster.within(&cargo))?;
    totals.made_up_for.push(NEEDS_SERVER);
    Ok(totals)
}

/// Runs cargo's tests, shows their output as it comes, and counts.
fn stream(cargo: &mut Command) -> Result<Totals> {
    let words = run::words(cargo);
    eprintln!("$ {words}");
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{words}`"))?;
    let output = child
        .stdout
        .take()
        .ok_or_else(|| anyhow!("`{words}` has no output"))?;
    let mut totals = Totals::default();
    for line in BufReader::new(output).lines() {
        let line = line.with_context(|| format!("read the output of `{words}`"))?;
        println!("{line}");
        totals.read(&line);
    }
    let status = child
        .wait()
        .with_context(|| format!("wait for `{words}`"))?;
    // A build that fails, or a test binary that dies, prints no failing test.
    if !status.success() && totals.failed.is_empty() {
        totals.failed.push(format!("`{words}`: {status}"));
    }
    Ok(totals)
}
