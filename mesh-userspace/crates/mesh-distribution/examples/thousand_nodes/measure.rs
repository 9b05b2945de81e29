//! What this process has used.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Processor time of all threads.
pub(crate) fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let time = |time: TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
        let micros = u64::try_from(time.tv_usec()).unwrap_or_default();
        Duration::from_secs(seconds) + Duration::from_micros(micros)
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}

/// Resident memory, in MiB.
pub(crate) fn memory() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read what is resident")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    let kilobytes: f64 = kilobytes.context("VmRSS is missing")?.parse()?;
    Ok(kilobytes / 1024.0)
}

/// The part `of` of the sorted values.
pub(crate) fn quantile(sorted: &[Duration], of: f64) -> Duration {
    let index = (sorted.len().saturating_sub(1)) as f64 * of;
    sorted
        .get(index.round() as usize)
        .copied()
        .unwrap_or_default()
}
