//! Folders on which an agent mounts a BPF file system. The mount outlives the agent, as it must: pins keep capture in place.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// A folder for pins; unmounted (which frees every pin) and removed when dropped.
#[derive(Debug)]
pub struct BpfFolder {
    path: PathBuf,
}

impl BpfFolder {
    /// Makes the folder. It is not mounted: the agent does that.
    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is pinned in it and below it.
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut pins = Vec::new();
        collect(&self.path, &mut pins);
        pins
    }
}

impl Drop for BpfFolder {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

/// Unmounts what is mounted on a folder, as often as something is.
pub fn unmount(path: &Path) -> Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // Not a mount point (any more), or no such folder.
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => {
                return Err(error).with_context(|| format!("unmount {}", path.display()));
            }
        }
    }
}

fn collect(folder: &Path, pins: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, pins);
        } else {
            pins.push(path);
        }
    }
}
