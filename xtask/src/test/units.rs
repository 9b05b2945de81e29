//! Unit tests of every crate, and the host tests of the kernel half. None needs root.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

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
        let cargo = || {
            let mut cargo = workspace::cargo();
            cargo.env("WARREN_BPF_OBJECT", object).arg("test");
            cargo
        };
        // Building is silent for as long as it takes; tests are not.
        run::step(cargo().arg("--no-run").args(selection))?;
        let mut tests = cargo();
        tests.arg("--no-fail-fast").args(selection);
        totals.add(stream(tests.arg("--").args(filter))?);
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

/// How long tests may say nothing: one hangs then. What runs and has no word to say for a minute is named by the harness.
const SILENCE: Duration = Duration::from_secs(600);

/// Runs cargo's tests, shows their output as it comes, and counts. Tests that hang are ended, and are a failure.
fn stream(cargo: &mut Command) -> Result<Totals> {
    stream_for(cargo, SILENCE)
}

fn stream_for(cargo: &mut Command, silence: Duration) -> Result<Totals> {
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
    let (said, heard) = mpsc::channel();
    // Ends with the output, or when nobody listens any more.
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            if said.send(line).is_err() {
                break;
            }
        }
    });
    let mut totals = Totals::default();
    let mut last = String::new();
    loop {
        match heard.recv_timeout(silence) {
            Ok(line) => {
                last = line.with_context(|| format!("read the output of `{words}`"))?;
                println!("{last}");
                totals.read(&last);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                run::end(&mut child)?;
                totals.failed.push(format!(
                    "`{words}`: ended, for it had said nothing for {} s after: {last}",
                    silence.as_secs()
                ));
                return Ok(totals);
            }
        }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_hangs_is_ended_with_all_that_it_started_and_is_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        // What hangs is not the program itself, but what it has started; and that holds the output open.
        let script = format!(
            "echo test a_hang has been running; (sh -c 'echo $$ >{}; sleep 600'); true",
            pid.display()
        );
        let mut hanging = Command::new("sh");
        let totals = stream_for(hanging.args(["-c", &script]), Duration::from_secs(1)).unwrap();
        assert_eq!(totals.failed.len(), 1);
        assert!(
            totals.failed[0].ends_with("after: test a_hang has been running"),
            "{:?}",
            totals.failed
        );
        let process = fs::read_to_string(&pid).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.trim()));
        // Gone, or dead and not yet waited for by whoever inherited it.
        assert!(stat.is_err() || stat.unwrap().contains(") Z "));
    }
}
