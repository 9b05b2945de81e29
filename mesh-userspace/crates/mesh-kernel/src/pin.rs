//! The folder of pins: everything that must outlive the agent, and nothing else.
//!
//! ```text
//! <pins>/v<LAYOUT_VERSION>/maps/<MAP>
//!                         /links/<program>[-<workload>-<interface>]
//!                         /workloads/<id>   a symbolic link whose target is a line of text: see `register.rs`
//! ```
//! The folder is 0700: whoever can open a pin can detach it, without any other right.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mesh_common::LAYOUT_VERSION;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::error::KernelError;

/// Source of the bpffs that we mount, by which `uninstall` knows it.
const MOUNT_SOURCE: &str = "warren";

/// The place where a distribution mounts bpffs.
const STANDARD: &str = "/sys/fs/bpf";

/// The pins of one layout version.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    version: u16,
}

impl Pins {
    /// Makes sure that `root` is a folder on bpffs, ours alone, with the folders of the present layout in it.
    pub(crate) fn prepare(root: &Path) -> Result<Self, KernelError> {
        mount_if_needed(root)?;
        let fail = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| KernelError::File {
                operation,
                path,
                source,
            }
        };
        fs::set_permissions(root, Permissions::from_mode(0o700))
            .map_err(fail("close to others", root))?;
        let pins = Self {
            root: root.to_owned(),
            version: LAYOUT_VERSION,
        };
        for folder in [pins.folder(), pins.maps(), pins.links(), pins.workloads()] {
            make_private(&folder).map_err(fail("make", &folder))?;
        }
        Ok(pins)
    }

    /// The pins of the present layout, if they are there; makes nothing.
    pub(crate) fn existing(root: &Path) -> Vec<Self> {
        let mut found = Self {
            root: root.to_owned(),
            version: LAYOUT_VERSION,
        }
        .other_versions();
        let present = Self {
            root: root.to_owned(),
            version: LAYOUT_VERSION,
        };
        if present.folder().is_dir() {
            found.push(present);
        }
        found
    }

    /// Pins that another layout version left here.
    pub(crate) fn other_versions(&self) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(&self.root) else {
            return Vec::new();
        };
        entries
            .filter_map(Result::ok)
            .filter_map(|entry| version_of(entry.file_name().to_str()?))
            .filter(|version| *version != self.version)
            .map(|version| Self {
                root: self.root.clone(),
                version,
            })
            .collect()
    }

    /// The folder of this version.
    pub(crate) fn folder(&self) -> PathBuf {
        self.root.join(format!("v{}", self.version))
    }

    /// The folder of maps.
    pub(crate) fn maps(&self) -> PathBuf {
        self.folder().join("maps")
    }

    /// The folder of links.
    pub(crate) fn links(&self) -> PathBuf {
        self.folder().join("links")
    }

    /// The folder of what is remembered about workloads.
    pub(crate) fn workloads(&self) -> PathBuf {
        self.folder().join("workloads")
    }

    /// Names in one of the folders, sorted.
    pub(crate) fn names(folder: &Path) -> Vec<String> {
        let Ok(entries) = fs::read_dir(folder) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Removes the folders of this version, which must hold no pin any more.
    pub(crate) fn remove_folders(&self) -> io::Result<()> {
        for folder in [self.maps(), self.links(), self.workloads(), self.folder()] {
            match fs::remove_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn version_of(name: &str) -> Option<u16> {
    name.strip_prefix('v')?.parse().ok()
}

/// Removes a pin; one that is gone is removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|kind| kind.filesystem_type() == BPF_FS_MAGIC)
}

fn mount_if_needed(root: &Path) -> Result<(), KernelError> {
    let fail = |operation: &'static str, path: &Path, source: io::Error| KernelError::File {
        operation,
        path: path.to_owned(),
        source,
    };
    if is_bpffs(root) {
        return Ok(());
    }
    // A folder cannot be made in sysfs, so the place of the distribution is mounted first, as systemd would.
    let standard = Path::new(STANDARD);
    if root.starts_with(standard) && !is_bpffs(standard) {
        mount_at(standard).map_err(|source| fail("mount bpffs at", standard, source))?;
    }
    fs::create_dir_all(root).map_err(|source| fail("make", root, source))?;
    if !is_bpffs(root) {
        mount_at(root).map_err(|source| fail("mount bpffs at", root, source))?;
    }
    Ok(())
}

fn mount_at(path: &Path) -> io::Result<()> {
    Ok(mount(
        Some(MOUNT_SOURCE),
        path,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )?)
}

/// Removes the folder, and the mount if it is ours and empty. What others put there stays.
pub(crate) fn remove_root(root: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts")?;
    let ours = |path: &Path| {
        mounts.lines().any(|line| {
            let mut fields = line.split(' ');
            (fields.next(), fields.next().map(Path::new), fields.next())
                == (Some(MOUNT_SOURCE), Some(path), Some("bpf"))
        })
    };
    let standard = Path::new(STANDARD);
    if ours(root) {
        umount2(root, MntFlags::empty())?;
    }
    match fs::remove_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    if root.starts_with(standard) && ours(standard) && fs::read_dir(standard)?.next().is_none() {
        umount2(standard, MntFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_folders_are_versions() {
        assert_eq!(version_of("v1"), Some(1));
        assert_eq!(version_of("v70000"), None);
        assert_eq!(version_of("maps"), None);
    }
}
