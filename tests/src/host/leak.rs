//! What a story may have left behind, found by name: everything that is made for a story begins with [`PREFIX`], the
//! process id and a count.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::bpffs::unmount;
use super::cgroup::{self, mount_point};
use super::command::run;
use super::namespace;

/// The first word of every name.
pub const PREFIX: &str = "warren-t";

/// The name of a story's things: `warren-t-<process>-<count>`.
pub fn name_for(process: u32, count: u32) -> String {
    format!("{PREFIX}-{process}-{count}")
}

/// The folder for a story's files.
pub fn folder_for(name: &str) -> PathBuf {
    env::temp_dir().join(name)
}

/// One thing that should not be there.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Leftover {
    /// A BPF file system, with what is pinned in it.
    Mount(PathBuf),
    /// A network namespace.
    Namespace(String),
    /// A cgroup, with the processes in it.
    Cgroup(PathBuf),
    /// Files.
    Folder(PathBuf),
}

impl Leftover {
    fn name(&self) -> &str {
        let path = match self {
            Self::Namespace(name) => return name,
            Self::Mount(path) | Self::Cgroup(path) | Self::Folder(path) => path,
        };
        path.iter()
            .filter_map(|part| part.to_str())
            .find(|part| part.starts_with(PREFIX))
            .unwrap_or_default()
    }

    /// Whether the process that made it still runs: then it is in use.
    pub fn is_in_use(&self) -> bool {
        self.name()
            .trim_start_matches(PREFIX)
            .trim_start_matches('-')
            .split('-')
            .next()
            .is_some_and(|process| Path::new("/proc").join(process).is_dir() && !process.is_empty())
    }

    /// Removes it.
    pub fn remove(&self) -> Result<()> {
        match self {
            Self::Mount(path) => unmount(path),
            Self::Namespace(name) => run("ip", &["netns", "delete", name]).map(drop),
            Self::Cgroup(path) => cgroup::remove(path),
            Self::Folder(path) => {
                fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))
            }
        }
    }
}

/// Everything whose name begins so; in the order in which it has to be removed: processes hold the rest.
pub fn find(prefix: &str) -> Result<Vec<Leftover>> {
    let mut found = Vec::new();
    for name in names(&mount_point()?) {
        found.push(Leftover::Cgroup(mount_point()?.join(name)));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let folder = folder_for(prefix);
    let mounted: BTreeSet<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|place| place.starts_with(&*folder.to_string_lossy()))
        .collect();
    found.extend(
        mounted
            .into_iter()
            .map(|place| Leftover::Mount(place.into())),
    );
    found.extend(
        names(Path::new(namespace::FOLDER))
            .into_iter()
            .map(Leftover::Namespace),
    );
    for name in names(&env::temp_dir()) {
        found.push(Leftover::Folder(env::temp_dir().join(name)));
    }
    found.retain(|leftover| leftover.name().starts_with(prefix));
    Ok(found)
}

/// Removes everything whose name begins so; tries all, gives the first error.
pub fn sweep(prefix: &str) -> Result<()> {
    let mut result = Ok(());
    for leftover in find(prefix)? {
        let removed = leftover
            .remove()
            .with_context(|| format!("remove {leftover:?}"));
        if result.is_ok() {
            result = removed;
        }
    }
    result
}

fn names(folder: &Path) -> Vec<String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect()
}
