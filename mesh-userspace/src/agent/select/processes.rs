//! The processes of the node and their cgroups, read once for everything that is looked for at one time.

use std::fs;
use std::io;
use std::path::Path;

/// One process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Its cgroup's path in the unified hierarchy; relative to our own cgroup namespace, so it may begin with `/../`.
    pub(super) cgroup: String,
}

/// The processes in a `/proc`, by ascending number: those that were there first come first, mostly.
pub(super) fn list(proc: &Path) -> io::Result<Vec<Process>> {
    let mut pids: Vec<u32> = fs::read_dir(proc)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    Ok(pids
        .into_iter()
        .filter_map(|pid| {
            // It may have ended since.
            let cgroup = cgroup_of(proc, pid)?;
            Some(Process { pid, cgroup })
        })
        .collect())
}

/// The cgroup of a process.
pub(super) fn cgroup_of(proc: &Path, pid: u32) -> Option<String> {
    let file = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok()?;
    let mut lines = file.lines();
    lines
        .find_map(|line| line.strip_prefix("0::"))
        .map(str::to_owned)
}
