//! Programs that make load, each run inside a pod: `warren-bench load …` for those of our own, and wrk.

pub mod fetch;
pub mod flood;
pub mod hold;
pub mod wrk;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;

use crate::cluster::place::Place;
use crate::host::process::Launch;

/// A load program of our own, in a place.
pub fn program(place: &Place) -> Result<Launch> {
    let here = std::env::current_exe().context("find this program's own path")?;
    Ok(place.program(&here.to_string_lossy()).args(["load"]))
}

/// Runs a load program and reads the JSON that it prints at its end. Output before that is not looked at.
fn measured<T: DeserializeOwned>(launch: &Launch) -> Result<T> {
    let output = launch.run()?;
    let last = output.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("what the load program printed: {output:?}"))
}

/// The value below which a share of all values lies. They must be sorted.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}
