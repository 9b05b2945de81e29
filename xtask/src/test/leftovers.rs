//! Whether the stories left anything behind: namespaces, cgroups, mounts and processes (which `warren-sweep`, of the
//! tests' package, finds by their names), and programs in the kernel (which only `bpftool` sees).

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::{run, workspace};

/// The names of our programs, as `mesh-common` has them.
const PROGRAMS: &[&str] = &[
    "connect4",
    "connect6",
    "peername4",
    "peername6",
    "origin_client",
    "origin_proxy",
    "origdst",
    "ingress",
    "ingress_host",
    "guard",
];

/// The kernel frees programs after a grace period.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Program {
    id: u32,
    #[serde(default)]
    name: String,
}

/// What was there before the stories: others may use Warren on this machine.
pub(super) struct Snapshot {
    programs: BTreeSet<u32>,
}

impl Snapshot {
    pub(super) fn take() -> Self {
        Self {
            programs: programs(),
        }
    }

    pub(super) fn nothing_left(&self) -> Result<()> {
        run::step(Command::new(workspace::target().join("debug/warren-sweep")).arg("--check"))?;
        let deadline = Instant::now() + GRACE;
        loop {
            let left: Vec<u32> = programs().difference(&self.programs).copied().collect();
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "programs are still in the kernel: {left:?}; see `bpftool prog show id {}`",
                    left[0]
                );
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Ids of programs with our names; none when there is no bpftool.
fn programs() -> BTreeSet<u32> {
    let Ok(json) = run::read(Command::new("bpftool").args(["--json", "prog", "show"])) else {
        return BTreeSet::new();
    };
    serde_json::from_str::<Vec<Program>>(&json)
        .unwrap_or_default()
        .into_iter()
        .filter(|program| PROGRAMS.contains(&program.name.as_str()))
        .map(|program| program.id)
        .collect()
}
