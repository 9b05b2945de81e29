//! What a cluster may have left behind.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::hierarchy;
use super::layout::{PREFIX, folder};
use crate::host::namespace::FOLDER;

/// Everything of a cluster that is on this machine, in words.
pub fn find() -> Result<Vec<String>> {
    let mut found: Vec<String> = hierarchy::find(PREFIX)?
        .into_iter()
        .map(|path| format!("cgroup {}", path.display()))
        .collect();
    found.extend(
        names(Path::new(FOLDER))
            .filter(|name| name.starts_with(PREFIX))
            .map(|name| format!("network namespace {name}")),
    );
    found.extend(processes());
    let folder = folder();
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    found.extend(
        mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|place| Path::new(place).starts_with(&folder))
            .map(|place| format!("mount {place}")),
    );
    if folder.exists() {
        found.push(format!("folder {}", folder.display()));
    }
    Ok(found)
}

/// Processes that are, or were before their cgroup was removed, in one of the cluster's.
fn processes() -> Vec<String> {
    let cgroup = format!("/{PREFIX}");
    names(Path::new("/proc"))
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|process| {
            let of = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
            // A process that has ended and was not waited for holds nothing.
            let ended = of("stat").ok()?.contains(") Z ");
            let ours = of("cgroup").ok()?.contains(&cgroup);
            (ours && !ended).then(|| {
                let name = of("comm").unwrap_or_default();
                format!("process {process} ({})", name.trim())
            })
        })
        .collect()
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
}
