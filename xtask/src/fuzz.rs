//! `cargo xtask fuzz`: builds the fuzz targets with the ordinary compiler and runs them for a time each, from the committed
//! seeds. What is found on the way is kept in the target folder; what fails is named, with the command that repeats it.
//!
//! Sanitizers need a nightly compiler; coverage does not. Memory errors are the business of the few unsafe blocks, which
//! the targets do not reach; what they look for are panics, broken promises, and inputs that cost too much.

use std::collections::VecDeque;
use std::env::consts::ARCH;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::test::totals::Totals;
use crate::{run, workspace};

/// How code is instrumented for libFuzzer.
const INSTRUMENTATION: &[&str] = &[
    "--cfg fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// The program that writes seeds is no target.
const SEED: &str = "seed";

/// The longest that one input may take, in seconds, and the most memory that a target may use, in MiB.
const INPUT_SECONDS: u32 = 10;
const MEMORY: u32 = 1024;

#[derive(Args)]
pub(crate) struct Options {
    /// Only this target.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// How many targets run at the same time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Write the seeds anew, and run nothing.
    #[arg(long)]
    seed: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let fuzz = Fuzz::build()?;
    if options.seed {
        return run::step(&mut Command::new(fuzz.program(SEED)));
    }
    let totals = fuzz.run(options.target.as_deref(), options.seconds, options.jobs)?;
    println!("{}", totals.line());
    ensure!(
        totals.passed + totals.failed.len() > 0,
        "there is no such target; there are: {}",
        fuzz.targets.join(", ")
    );
    ensure!(
        totals.failed.is_empty(),
        "failed: {}",
        totals.failed.join(", ")
    );
    Ok(())
}

/// The targets, built.
pub(crate) struct Fuzz {
    sources: PathBuf,
    folder: PathBuf,
    targets: Vec<String>,
}

impl Fuzz {
    pub(crate) fn build() -> Result<Self> {
        let sources = workspace::root().join("tests/fuzz");
        let folder = workspace::target().join("fuzz");
        run::step(
            workspace::cargo()
                .current_dir(&sources)
                .env("RUSTFLAGS", INSTRUMENTATION.join(" "))
                .env_remove("CARGO_ENCODED_RUSTFLAGS")
                // Naming the platform keeps the instrumentation away from build scripts.
                .args(["build", "--release", "--bins", "--target", &platform()])
                .arg("--target-dir")
                .arg(&folder),
        )
        .context("build the fuzz targets; they need a C++ compiler, for libFuzzer")?;
        let mut targets = Vec::new();
        for entry in fs::read_dir(sources.join("src/bin")).context("list the fuzz targets")? {
            let name = entry?
                .path()
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned());
            targets.extend(name.filter(|name| name != SEED));
        }
        targets.sort();
        Ok(Self {
            sources,
            folder,
            targets,
        })
    }

    fn program(&self, name: &str) -> PathBuf {
        self.folder.join(platform()).join("release").join(name)
    }

    /// Runs the targets whose name is, or all; a few at a time.
    pub(crate) fn run(&self, only: Option<&str>, seconds: u32, jobs: usize) -> Result<Totals> {
        let chosen = self
            .targets
            .iter()
            .filter(|name| only.is_none_or(|only| *name == only));
        let open = Mutex::new(chosen.collect::<VecDeque<_>>());
        let totals = Mutex::new(Totals::default());
        let work = || -> Result<()> {
            loop {
                let next = open
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front();
                let Some(name) = next else { return Ok(()) };
                let outcome = self.run_one(name, seconds)?;
                let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Ok(figures) => {
                        println!("fuzz {name} ... ok ({figures})");
                        totals.passed += 1;
                    }
                    Err(output) => {
                        println!("fuzz {name} ... FAILED\n{output}");
                        totals.failed.push(format!("fuzz::{name}"));
                    }
                }
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| match thread.join() {
                    Ok(result) => result,
                    Err(_panic) => bail!("a runner of fuzz targets panicked"),
                })
        })?;
        Ok(totals.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs one target: figures when it went well, else what it said and how to repeat it.
    fn run_one(&self, name: &str, seconds: u32) -> Result<Result<String, String>> {
        let (kept, failures) = (
            self.folder.join("kept").join(name),
            self.folder.join("failures"),
        );
        for folder in [&kept, &failures] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let log = self.folder.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(self.program(name));
        command
            // What is new is kept in the first folder; the seeds stay as they are.
            .args([&kept, &self.seeds(name)])
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY}"))
            .arg(format!("-artifact_prefix={}/{name}-", failures.display()))
            .arg("-print_final_stats=1")
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output);
        let words = run::words(&command);
        let status = command
            .status()
            .with_context(|| format!("start `{words}`"))?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(if status.success() {
            Ok(figures(&text))
        } else {
            let lines: Vec<&str> = text.lines().collect();
            let end = &lines[lines.len().saturating_sub(60)..];
            Err(format!(
                "{}\n{status}; repeat it with the failing input as argument of {}",
                end.join("\n"),
                self.program(name).display()
            ))
        })
    }

    fn seeds(&self, name: &str) -> PathBuf {
        self.sources.join("corpus").join(name)
    }
}

fn platform() -> String {
    format!("{ARCH}-unknown-linux-gnu")
}

/// What libFuzzer says at the end: `#123 DONE cov: 45 ft: 67 corp: 8/9Kb …`.
fn figures(output: &str) -> String {
    let done = output
        .lines()
        .rev()
        .find(|line| line.split_whitespace().nth(1) == Some("DONE"))
        .unwrap_or_default();
    let words: Vec<&str> = done.split_whitespace().collect();
    let after = |word: &str| {
        words
            .iter()
            .position(|found| *found == word)
            .and_then(|at| words.get(at + 1))
            .copied()
            .unwrap_or("?")
    };
    let executions = words
        .first()
        .map_or("?", |first| first.trim_start_matches('#'));
    format!(
        "{executions} executions, {} edges covered, {} inputs kept",
        after("cov:"),
        after("corp:")
    )
}

#[cfg(test)]
mod tests {
    use super::figures;

    #[test]
    fn reads_what_the_fuzzer_says_at_the_end() {
        let output = "#2 INITED cov: 5\n#99\tDONE   cov: 45 ft: 67 corp: 8/90b lim: 4096 exec/s: 3 rss: 30Mb\nstat::x: 1\n";
        assert_eq!(
            figures(output),
            "99 executions, 45 edges covered, 8/90b inputs kept"
        );
    }
}
