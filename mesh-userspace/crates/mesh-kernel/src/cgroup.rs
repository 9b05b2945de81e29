//! cgroup v2: where it is mounted, ids, depths, and the mesh's own cgroups.
//!
//! A socket keeps the cgroup of whoever called `socket()`; that is how the programs know the mesh's own traffic.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::error::KernelError;

/// Where cgroup v2 is mounted, also in a hybrid hierarchy; in a container without it, where the node's is seen through the
/// node's first process. `None` when it is nowhere.
pub fn mount_point() -> Option<PathBuf> {
    let read = |mounts| parse_mount_point(&fs::read_to_string(mounts).ok()?);
    read("/proc/thread-self/mounts").or_else(|| {
        let on_node = read("/proc/1/mounts")?;
        let seen = Path::new("/proc/1/root").join(on_node.strip_prefix("/").ok()?);
        seen.is_dir().then_some(seen)
    })
}

fn parse_mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        // The kernel writes spaces of a path as \040.
        (kind == "cgroup2").then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

/// The cgroup of this process, as a folder: where to put the mesh's cgroups unless told otherwise.
pub fn own() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/thread-self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(mount_point()?.join(path.trim_start_matches('/')))
}

/// The kernel's id of a cgroup: the inode of its folder.
pub fn id(path: &Path) -> Result<u64, KernelError> {
    let kind = statfs(path).map_err(|source| KernelError::File {
        operation: "open cgroup",
        path: path.to_owned(),
        source: source.into(),
    })?;
    if kind.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(KernelError::NotACgroup {
            path: path.to_owned(),
        });
    }
    fs::metadata(path)
        .map(|metadata| metadata.ino())
        .map_err(|source| KernelError::File {
            operation: "open cgroup",
            path: path.to_owned(),
            source,
        })
}

/// How deep a cgroup is in the kernel's hierarchy (root = 0), for `bpf_get_current_ancestor_cgroup_id`.
pub(crate) fn depth(path: &Path) -> Result<u32, KernelError> {
    let not_found = || KernelError::NotACgroup {
        path: path.to_owned(),
    };
    let path = path.canonicalize().map_err(|source| KernelError::File {
        operation: "open cgroup",
        path: path.to_owned(),
        source,
    })?;
    let mountinfo =
        fs::read_to_string("/proc/thread-self/mountinfo").map_err(|source| KernelError::File {
            operation: "read",
            path: PathBuf::from("/proc/thread-self/mountinfo"),
            source,
        })?;
    depth_in(&mountinfo, &path).ok_or_else(not_found)
}

/// Depth by the mount that holds `path`; the mount may show a part of the hierarchy only.
fn depth_in(mountinfo: &str, path: &Path) -> Option<u32> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        let kind = line.split(" - ").nth(1)?.split(' ').next()?;
        (kind == "cgroup2").then_some((root, point))
    });
    let (root, below) = mounts
        .filter_map(|(root, point)| Some((root, path.strip_prefix(point).ok()?)))
        .min_by_key(|(_, below)| below.components().count())?;
    let shown = root.split('/').filter(|part| !part.is_empty()).count();
    u32::try_from(shown + below.components().count()).ok()
}

/// Whether a cgroup is another one or below it.
pub(crate) fn is_below(path: &Path, root: &Path) -> bool {
    match (path.canonicalize(), root.canonicalize()) {
        (Ok(path), Ok(root)) => path.starts_with(root),
        _ => false,
    }
}

/// Opens a cgroup, to attach programs to it.
pub(crate) fn open(path: &Path) -> Result<File, KernelError> {
    id(path)?;
    File::open(path).map_err(|source| KernelError::File {
        operation: "open cgroup",
        path: path.to_owned(),
        source,
    })
}

/// Makes a cgroup and those above it.
pub(crate) fn make(path: &Path) -> Result<(), KernelError> {
    fs::create_dir_all(path).map_err(|source| KernelError::File {
        operation: "make cgroup",
        path: path.to_owned(),
        source,
    })
}

/// Moves this process, with all its threads, into a cgroup. Sockets that it has already keep their old one.
pub(crate) fn join(path: &Path) -> Result<(), KernelError> {
    let file = path.join("cgroup.procs");
    fs::write(&file, "0").map_err(|source| KernelError::File {
        operation: "move this process into",
        path: path.to_owned(),
        source,
    })
}

/// Whether a process is in a cgroup.
pub(crate) fn has_process(path: &Path, pid: u32) -> bool {
    fs::read_to_string(path.join("cgroup.procs"))
        .is_ok_and(|processes| processes.lines().any(|line| line.parse() == Ok(pid)))
}

/// Whether no process is in a cgroup or below it.
pub(crate) fn is_empty(path: &Path) -> io::Result<bool> {
    Ok(fs::read_to_string(path.join("cgroup.events"))?
        .lines()
        .any(|line| line == "populated 0"))
}

/// The folders directly below a cgroup.
pub(crate) fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_in_a_hybrid_hierarchy() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
            cgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw,relatime 0 0\n";
        assert_eq!(
            parse_mount_point(mounts),
            Some(PathBuf::from("/sys/fs/cgroup/uni fied"))
        );
        assert_eq!(parse_mount_point("tmpfs / tmpfs rw 0 0\n"), None);
    }

    #[test]
    fn depth_counts_what_the_mount_does_not_show() {
        let whole = "35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(depth_in(whole, Path::new("/sys/fs/cgroup")), Some(0));
        assert_eq!(depth_in(whole, Path::new("/sys/fs/cgroup/a/b")), Some(2));
        assert_eq!(depth_in(whole, Path::new("/tmp")), None);
        let part = "35 24 0:30 /kubepods/pod1 /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(depth_in(part, Path::new("/sys/fs/cgroup/app")), Some(3));
    }
}
