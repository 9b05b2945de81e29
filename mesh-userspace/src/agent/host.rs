//! The node as seen from where the agent runs: on the node itself, or in a container of its own, from which the node's
//! file system and cgroups are reached through the node's first process.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sched::{CloneFlags, setns};

use super::preflight;

/// The node.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Its processes.
    proc: PathBuf,
    /// Its file system, where that is not ours.
    root: Option<PathBuf>,
}

impl Host {
    /// The node that this process runs on, without a container between.
    pub(crate) fn own() -> Self {
        Self {
            proc: PathBuf::from("/proc"),
            root: None,
        }
    }

    /// The node whose processes are in `proc`.
    pub(crate) fn behind(proc: &Path) -> Self {
        let root = proc.join("1/root");
        let of = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
        let is_ours = match (of(Path::new("/")), of(&root)) {
            (Ok(ours), Ok(theirs)) => ours == theirs,
            // What cannot be looked at is no way either.
            _ => true,
        };
        Self {
            proc: proc.to_owned(),
            root: (!is_ours).then_some(root),
        }
    }

    /// Where its processes are found.
    pub(crate) fn proc(&self) -> &Path {
        &self.proc
    }

    /// Where its cgroup v2 hierarchy is mounted, as a path for this process.
    pub(crate) fn cgroup2(&self) -> Option<PathBuf> {
        let Some(root) = &self.root else {
            return preflight::cgroup2_mount();
        };
        let mount = preflight::cgroup2_in(&self.proc.join("1/mounts"))?;
        Some(root.join(mount.strip_prefix("/").unwrap_or(&mount)))
    }

    /// The roots of its older cgroup hierarchies. A runtime ends whatever is in its container's cgroup of any hierarchy; what
    /// has to outlive the container must be in none. Empty where there is no container between.
    pub(crate) fn older_hierarchies(&self) -> Vec<PathBuf> {
        let Some(root) = &self.root else {
            return Vec::new();
        };
        let mounts = std::fs::read_to_string(self.proc.join("1/mounts")).unwrap_or_default();
        mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ').skip(1);
                let (point, kind) = (fields.next()?, fields.next()?);
                (kind == "cgroup").then(|| root.join(point.trim_start_matches('/')))
            })
            .collect()
    }

    /// A path on the node, as a path for this process. Links on the way are not followed as on the node; see
    /// [`Self::open`].
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// The path on the node of a folder that was mounted into our container; of any other, the path itself.
    pub(crate) fn path_on_it(&self, folder: &Path) -> PathBuf {
        let Some(root) = &self.root else {
            return folder.to_owned();
        };
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let ours = read(Path::new("/proc/self/mountinfo"));
        let theirs = read(&self.proc.join("1/mountinfo"));
        let identity = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino()))
        };
        candidates(&ours, &theirs, folder)
            .into_iter()
            .find(|candidate| {
                let there = root.join(candidate.strip_prefix("/").unwrap_or(candidate));
                identity(&there).is_some() && identity(&there) == identity(folder)
            })
            .unwrap_or_else(|| folder.to_owned())
    }

    /// Opens a file by its path on the node.
    pub(crate) fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        // Of a process: the same for everybody who sees the node's processes, and no way for what follows.
        if let Ok(of_process) = path.strip_prefix("/proc") {
            return File::open(self.proc.join(of_process)).map(OwnedFd::from);
        }
        let Some(root) = &self.root else {
            return File::open(path).map(OwnedFd::from);
        };
        // Links on the node's way (/var/run → /run) lead to the node's file system, not to ours.
        let root = File::open(root)?;
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        Ok(openat2(&root, path, how)?)
    }

    /// Whether the network namespace of the node's first process is the one that this process is in. If not, whatever the
    /// agent makes would be in the wrong place.
    pub(crate) fn shares_its_network(&self) -> bool {
        let of = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
        let (ours, theirs) = (
            of(Path::new("/proc/self/ns/net")),
            of(&self.proc.join("1/ns/net")),
        );
        matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
    }

    /// Makes this process see cgroups as the node does, so that paths in `/proc/*/cgroup` are paths in its hierarchy. To be
    /// called while there is one thread: it concerns the calling one, and those that it starts.
    pub(crate) fn see_its_cgroups(&self) -> io::Result<()> {
        if self.root.is_none() {
            return Ok(());
        }
        let namespace = File::open(self.proc.join("1/ns/cgroup"))?;
        Ok(setns(namespace, CloneFlags::CLONE_NEWCGROUP)?)
    }
}

/// Where a folder of ours may be on the node, by both tables of mounts: the same part of the same file system.
fn candidates(ours: &str, theirs: &str, folder: &Path) -> Vec<PathBuf> {
    let holder = mounts(ours)
        .filter(|mount| folder.starts_with(&mount.point))
        // A later one hides those before it.
        .max_by_key(|mount| mount.point.components().count());
    let Some(holder) = holder else {
        return Vec::new();
    };
    let below = folder.strip_prefix(&holder.point).unwrap_or(folder);
    let within = holder.root.join(below);
    mounts(theirs)
        .filter(|mount| mount.device == holder.device)
        .filter_map(|mount| Some(mount.point.join(within.strip_prefix(&mount.root).ok()?)))
        .collect()
}

struct Mount {
    device: String,
    /// The part of the file system that is mounted.
    root: PathBuf,
    point: PathBuf,
}

/// The mounts of a `mountinfo` (proc(5)), in which spaces are written as `\040`.
fn mounts(text: &str) -> impl Iterator<Item = Mount> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        let mut path = || Some(PathBuf::from(fields.next()?.replace("\\040", " ")));
        Some(Mount {
            device,
            root: path()?,
            point: path()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_container_between_paths_are_what_they_are() {
        let host = Host::own();
        assert_eq!(host.cgroup2(), preflight::cgroup2_mount());
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x");
        std::fs::write(&file, "x").expect("written");
        host.open(&file).expect("opened");
        host.open(Path::new("/proc/self/ns/net")).expect("opened");
        host.see_its_cgroups().expect("nothing to do");
    }

    #[test]
    fn a_mounted_folder_is_found_on_the_node_by_what_is_mounted() {
        let ours = "100 1 0:50 / / rw - overlay overlay rw\n\
            101 100 8:1 /usr/lib/cni /opt/cni/bin rw - ext4 /dev/sda1 rw\n\
            102 100 8:2 /net.d /etc/cni/net.d rw - ext4 /dev/sda2 rw\n";
        let theirs = "20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            21 20 8:2 / /etc/my\\040cni rw - ext4 /dev/sda2 rw\n\
            22 20 8:1 /usr /mnt/usr rw - ext4 /dev/sda1 rw\n";
        let check = |folder: &str, expected: &[&str]| {
            let found = candidates(ours, theirs, Path::new(folder));
            assert_eq!(
                found,
                expected.iter().map(PathBuf::from).collect::<Vec<_>>()
            );
        };
        check("/opt/cni/bin", &["/usr/lib/cni", "/mnt/usr/lib/cni"]);
        check("/etc/cni/net.d", &["/etc/my cni/net.d"]);
        check("/var/x", &[]);
    }

    #[test]
    fn links_on_the_nodes_way_stay_in_its_file_system() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("1/root");
        std::fs::create_dir_all(root.join("run/netns")).expect("made");
        std::fs::create_dir_all(root.join("var")).expect("made");
        std::os::unix::fs::symlink("/run", root.join("var/run")).expect("linked");
        std::fs::write(root.join("run/netns/cni-of-this-test"), "x").expect("written");
        std::fs::write(
            folder.path().join("1/mounts"),
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
             cgroup /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
        )
        .expect("written");
        let host = Host::behind(folder.path());
        host.open(Path::new("/var/run/netns/cni-of-this-test"))
            .expect("opened");
        assert_eq!(host.cgroup2(), Some(root.join("sys/fs/cgroup/unified")));
        assert_eq!(host.older_hierarchies(), [root.join("sys/fs/cgroup/pids")]);
        assert!(Host::own().older_hierarchies().is_empty());
        assert!(!host.shares_its_network());
    }
}
