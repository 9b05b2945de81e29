//! The stories: each in a process of its own, with its output kept and shown only when it fails; those in simulated
//! clusters a few at a time.
//!
//! One process per story, so that one that hangs or dies takes no other with it, and cargo's harness is still what runs it.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::totals::{LUCK, Totals};
use crate::{run, workspace};

/// What a story prints when the kernel or the machine lacks what it needs.
const SKIP: &str = "warren-skip: ";

/// Where stories are told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tier {
    /// Without a cluster: about what puts Warren into one. No root is needed.
    Delivery,
    /// In simulated clusters: every story makes its own.
    Simulated,
    /// In a real Kubernetes cluster, which all share.
    Kubernetes,
}

impl Tier {
    /// The tier of a test binary, by its name.
    fn of(target: &str) -> Self {
        if target == "delivery" {
            Self::Delivery
        } else if target.starts_with("kubernetes") {
            Self::Kubernetes
        } else {
            Self::Simulated
        }
    }

    /// How many are told at the same time.
    fn jobs(self, asked: usize) -> usize {
        match self {
            Self::Delivery | Self::Simulated => asked.max(1),
            // What one does to a node, or to the mesh on it, is felt by all.
            Self::Kubernetes => 1,
        }
    }

    /// Stories end themselves after two minutes, in a real cluster after seven; this is for one that cannot.
    fn deadline(self) -> Duration {
        match self {
            Self::Delivery | Self::Simulated => Duration::from_secs(180),
            Self::Kubernetes => Duration::from_secs(430),
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delivery => "stories about what is delivered",
            Self::Simulated => "stories in simulated clusters",
            Self::Kubernetes => "stories in a real cluster",
        })
    }
}

/// One `#[test]` of one test binary.
#[derive(Clone)]
struct Story {
    tier: Tier,
    /// `capture::fast_open`.
    name: String,
    binary: PathBuf,
    test: String,
}

/// Stories, built and listed.
#[derive(Clone)]
pub(super) struct Stories {
    warren: PathBuf,
    stories: Vec<Story>,
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Stories {
    pub(super) fn build(warren: &Path, filter: Option<&str>) -> Result<Self> {
        let messages = run::read(workspace::cargo().args([
            "test",
            "--package=mesh-tests",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ]))?;
        let mut stories = Vec::new();
        for message in messages.lines() {
            // Lines of other shapes (build scripts, the end) have no test binary.
            let Ok(Message {
                executable: Some(binary),
                target: Some(target),
            }) = serde_json::from_str(message)
            else {
                continue;
            };
            if target.kind.iter().any(|kind| kind == "test") {
                stories.extend(list(&target.name, &binary)?);
            }
        }
        stories.retain(|story| filter.is_none_or(|filter| story.name.contains(filter)));
        Ok(Self {
            warren: warren.to_path_buf(),
            stories,
        })
    }

    /// Only those of a tier.
    pub(super) fn of(&self, tier: Tier) -> Self {
        let mut stories = self.clone();
        stories.stories.retain(|story| story.tier == tier);
        stories
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stories.is_empty()
    }

    pub(super) fn all_skipped(self, reason: &str) -> Totals {
        Totals {
            skipped: self
                .stories
                .into_iter()
                .map(|story| format!("{}: {reason}", story.name))
                .collect(),
            ..Totals::default()
        }
    }

    /// Tells stories of one tier.
    pub(super) fn run(self, tier: Tier, jobs: usize) -> Result<Totals> {
        let started = Instant::now();
        let logs = workspace::target().join("stories");
        fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
        println!("\nrunning {} {tier}", self.stories.len());

        let warren = self.warren;
        let open = Mutex::new(VecDeque::from(self.stories));
        let failed = Mutex::new(Vec::new());
        let totals = Mutex::new(Totals::default());
        thread::scope(|scope| {
            for _ in 0..tier.jobs(jobs) {
                scope.spawn(|| {
                    while let Some(story) = next(&open) {
                        let outcome = story.run(&warren, &logs);
                        if let Outcome::Failed(_) = outcome {
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.push(story.clone());
                        }
                        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                        outcome.note(&story.name, &mut totals);
                    }
                });
            }
        });
        let mut totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        alone(&failed, &warren, &logs, &mut totals);
        let word = if totals.failed.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        println!(
            "\ntest result: {word}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s\n",
            totals.passed,
            totals.failed.len(),
            totals.skipped.len(),
            started.elapsed().as_secs_f64()
        );
        Ok(totals)
    }
}

/// Stories share the machine, and have deadlines: one that failed beside others is told once more, alone. What passes then is
/// counted as passed and named as unsteady. Many failures are no matter of luck: they stay.
fn alone(stories: &[Story], warren: &Path, logs: &Path, totals: &mut Totals) {
    if stories.is_empty() || stories.len() > LUCK {
        return;
    }
    println!("\nagain, alone: {} stories", stories.len());
    totals.failed.clear();
    for story in stories {
        let outcome = story.run(warren, logs);
        if let Outcome::Passed(_) = outcome {
            totals.unsteady.push(story.name.clone());
        }
        outcome.note(&story.name, totals);
    }
}

fn next(open: &Mutex<VecDeque<Story>>) -> Option<Story> {
    open.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .pop_front()
}

fn list(target: &str, binary: &Path) -> Result<Vec<Story>> {
    let listing = run::read(Command::new(binary).args(["--list", "--format=terse"]))?;
    Ok(listing
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(|test| Story {
            tier: Tier::of(target),
            name: format!("{target}::{test}"),
            binary: binary.to_path_buf(),
            test: test.to_owned(),
        })
        .collect())
}

enum Outcome {
    Passed(Duration),
    Skipped(String),
    Failed(String),
}

impl Outcome {
    fn note(self, name: &str, totals: &mut Totals) {
        match self {
            Self::Passed(took) => {
                println!("test {name} ... ok ({:.1}s)", took.as_secs_f64());
                totals.passed += 1;
            }
            Self::Skipped(reason) => {
                println!("test {name} ... skipped: {reason}");
                totals.skipped.push(format!("{name}: {reason}"));
            }
            Self::Failed(output) => {
                println!("test {name} ... FAILED\n{output}");
                totals.failed.push(name.to_owned());
            }
        }
    }
}

impl Story {
    fn run(&self, warren: &Path, logs: &Path) -> Outcome {
        let started = Instant::now();
        let log = logs.join(format!("{}.log", self.name.replace("::", "-")));
        let result = self.run_into(&log, warren);
        let output = fs::read_to_string(&log).unwrap_or_default();
        match result {
            Ok(true) => output
                .lines()
                .find_map(|line| line.strip_prefix(SKIP))
                .map_or_else(
                    || Outcome::Passed(started.elapsed()),
                    |reason| Outcome::Skipped(reason.to_owned()),
                ),
            Ok(false) => Outcome::Failed(output),
            Err(error) => Outcome::Failed(format!("{output}\n{error:#}")),
        }
    }

    fn run_into(&self, log: &Path, warren: &Path) -> Result<bool> {
        let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let mut child = Command::new(&self.binary)
            .args(["--exact", &self.test, "--nocapture", "--test-threads=1"])
            .env("WARREN_BIN", warren)
            // A story's error says what was expected of whom; where in the harness it arose is noise.
            .env("RUST_LIB_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        let (started, deadline) = (Instant::now(), self.tier.deadline());
        loop {
            if let Some(status) = child.try_wait().context("wait for the story")? {
                return Ok(status.success());
            }
            if started.elapsed() > deadline {
                run::end(&mut child).context("end the story")?;
                anyhow::bail!("it did not end within {} s", deadline.as_secs());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
