//! Unit tests of every crate, and the host tests of the kernel half. What needs root is skipped, and counted, without it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use super::totals::Totals;
use crate::kubernetes::Running;
use crate::{deps, ebpf, run, workspace};

pub(super) fn run(object: &Path, filter: Option<&str>) -> Result<Totals> {
    let mut totals = Totals::default();
    let cargo = || {
        let mut cargo = workspace::cargo();
        cargo.env("WARREN_BPF_OBJECT", object).arg("test");
        cargo
    };
    let root = workspace::is_root();
    // The stories have their own runner; here only the harness's own units.
    let harness: &[&str] = &["--package", "mesh-tests", "--lib"];
    let mut everything = vec!["--workspace", "--exclude", "mesh-tests"];
    let mut selections = vec![harness];
    let mut which: &[&str] = &[];
    if root {
        deps::ensure(&["ip", "bpftool"])?;
    } else {
        everything.extend(["--exclude", KERNEL]);
        selections.push(&["--package", KERNEL, "--lib"]);
        which = &["--skip", CONFINED];
    }
    selections.insert(0, &everything);
    for selection in selections {
        // Building is silent for as long as it takes; tests are not.
        run::step(cargo().arg("--no-run").args(selection))?;
        let tests = || {
            let mut tests = cargo();
            tests.arg("--no-fail-fast").args(selection);
            tests
        };
        totals.add(tell(tests, which, filter)?);
    }
    if !root {
        totals.skipped.extend(needing_root(cargo, filter)?);
    }
    totals.add(tell(|| ebpf::test(&workspace::root()), &[], filter)?);
    Ok(totals)
}

/// The package whose integration tests load eBPF programs into the kernel.
const KERNEL: &str = "mesh-kernel";

/// Tests of a worker that gives up what only root has.
const CONFINED: &str = "tests::process::";

const NEEDS_ROOT: &str =
    "needs root: namespaces, eBPF and giving up privileges; run `sudo -E cargo xtask test`";

/// Those two, with the reason for which they are skipped.
fn needing_root(cargo: impl Fn() -> Command, filter: Option<&str>) -> Result<Vec<String>> {
    let mut skipped = Vec::new();
    for (package, of, which) in [
        (KERNEL, "--test=kernel", ""),
        ("mesh-proxy", "--lib", CONFINED),
    ] {
        let listing = ["--package", package, of, "--", "--list", "--format=terse"];
        let tests = run::read(cargo().args(listing))?;
        let tests = tests
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .filter(|test| test.contains(which))
            .filter(|test| filter.is_none_or(|filter| test.contains(filter)));
        skipped.extend(tests.map(|test| format!("{test}: {NEEDS_ROOT}")));
    }
    Ok(skipped)
}

/// Why tests are ignored that need an API server.
const NEEDS_SERVER: &str = "needs an API server: cargo xtask test --kubernetes";

/// What needs an API server, in the cluster that runs.
pub(super) fn run_with_server(
    cluster: &Running,
    object: &Path,
    filter: Option<&str>,
) -> Result<Totals> {
    let tests = || {
        let mut cargo = workspace::cargo();
        cargo
            .env("WARREN_BPF_OBJECT", object)
            .env("RUST_TEST_THREADS", "2")
            // The cluster's network has no way out.
            .args(["test", "--offline", "--no-fail-fast", "--workspace"])
            .args(["--exclude", "mesh-tests", "--test", "api"]);
        cluster.within(&cargo)
    };
    let mut totals = tell(tests, &["--ignored"], filter)?;
    totals.made_up_for.push(NEEDS_SERVER);
    Ok(totals)
}

/// Runs cargo's tests. They share the machine: those that fail are run once more, one at a time.
fn tell(cargo: impl Fn() -> Command, which: &[&str], filter: Option<&str>) -> Result<Totals> {
    let mut totals = stream(cargo().arg("--").args(which).args(filter))?;
    if let Some(failed) = totals.to_try_again() {
        println!("\nagain, alone: {} tests", failed.len());
        let mut again = cargo();
        again
            .arg("--")
            .args(which)
            .args(["--exact", "--test-threads=1"]);
        totals.tried_again(stream(again.args(&failed))?);
    }
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
    use std::time::Instant;

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
        let stat = format!("/proc/{}/stat", process.trim());
        // Gone, or dead and not yet waited for by whoever inherited it. A signal is delivered, not obeyed, when it is sent.
        let begun = Instant::now();
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "{process} goes on"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}
