//! Folders of the cgroup v2 tree. All processes of a story live below one of them, so one write ends them all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::eventually::until;

/// The mount point of the cgroup v2 tree, which is not at the same place everywhere.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        })
        .ok_or_else(|| anyhow!("no cgroup2 mount in /proc/self/mounts; mount one with `mount -t cgroup2 none /sys/fs/cgroup`"))
}

/// A cgroup; its processes are ended and it and everything below it removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below the mount point, with its parents.
    pub fn create(name: &str) -> Result<Self> {
        Self::at(mount_point()?.join(name))
    }

    /// Makes one below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::at(self.path.join(name))
    }

    fn at(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name below the mount point, with a leading slash, as `/proc/PID/cgroup` shows it.
    pub fn name(&self) -> Result<String> {
        let below = self
            .path
            .strip_prefix(mount_point()?)
            .context("the cgroup is not below the mount point")?;
        Ok(format!("/{}", below.display()))
    }

    /// Processes in it and below it.
    pub fn processes(&self) -> Vec<i32> {
        processes_below(&self.path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

/// Processes in a cgroup and below it.
pub fn processes_below(path: &Path) -> Vec<i32> {
    let own = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<i32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    for child in folders(path) {
        all.extend(processes_below(&child));
    }
    all
}

/// Ends every process in a cgroup and below it, then removes the folders.
pub fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::write(path.join("cgroup.kill"), "1")
        .with_context(|| format!("end the processes in {}", path.display()))?;
    until("the cgroup is empty", Duration::from_secs(10), || {
        let events = fs::read_to_string(path.join("cgroup.events"))?;
        Ok(events.contains("populated 0"))
    })
    .with_context(|| format!("wait for {}", path.display()))?;
    remove_folders(path)
}

fn remove_folders(path: &Path) -> Result<()> {
    for child in folders(path) {
        remove_folders(&child)?;
    }
    // A cgroup stays busy for a moment after its last process is gone.
    until("the folder can be removed", Duration::from_secs(5), || {
        fs::remove_dir(path).map(|()| true).map_err(Into::into)
    })
    .with_context(|| format!("remove {}", path.display()))
}

fn folders(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
