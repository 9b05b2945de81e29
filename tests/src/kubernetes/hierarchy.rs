//! Cgroups in every hierarchy of the machine. Simulated clusters need only the unified one; a kubelet looks at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::eventually::until;
use crate::host::cgroup;

/// One mounted hierarchy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The options by which it can be mounted again, e.g. `cpu,cpuacct` or `none,name=systemd`; nothing for the unified one.
    pub controllers: Option<String>,
}

/// The resource controllers of the older kind, and the unified hierarchy last.
pub fn mounted() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let mut found = parse(&mounts);
    found.sort_by_key(|hierarchy| hierarchy.controllers.is_none());
    ensure!(
        found.last().is_some_and(|last| last.controllers.is_none()),
        "no cgroup2 mount in /proc/self/mounts; mount one with `mount -t cgroup2 none /sys/fs/cgroup`"
    );
    Ok(found)
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(place), Some(kind), Some(options)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let controllers = match kind {
            "cgroup2" => None,
            "cgroup" => Some(controllers(options)),
            _ => continue,
        };
        // The same hierarchy may be mounted at several places.
        if found.iter().all(|known| known.controllers != controllers) {
            found.push(Hierarchy {
                mount_point: place.into(),
                controllers,
            });
        }
    }
    found
}

/// Without the options that every mount has, and those about who releases empty cgroups.
fn controllers(options: &str) -> String {
    let own: Vec<&str> = options
        .split(',')
        .filter(|option| {
            !matches!(
                *option,
                "rw" | "xattr" | "relatime" | "noatime" | "clone_children"
            ) && !option.starts_with("no")
                && !option.starts_with("release_agent")
        })
        .collect();
    let own = own.join(",");
    if own.starts_with("name=") {
        format!("none,{own}")
    } else {
        own
    }
}

impl Hierarchy {
    /// What it is called below `/sys/fs/cgroup` of a node.
    pub fn name(&self) -> String {
        self.controllers
            .as_deref()
            .map_or("unified", |controllers| {
                controllers.trim_start_matches("none,name=")
            })
            .to_owned()
    }
}

/// Makes a cgroup in every hierarchy.
pub fn create(name: &str) -> Result<()> {
    for hierarchy in mounted()? {
        let path = hierarchy.mount_point.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        if hierarchy.name().split(',').any(|one| one == "cpuset") {
            share_processors(&hierarchy.mount_point, &path)?;
        }
    }
    Ok(())
}

/// The older `cpuset` takes no process before it has processors and memory; what is made below takes its parent's.
fn share_processors(parent: &Path, path: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let all = fs::read_to_string(parent.join(file))
            .with_context(|| format!("read {file} of {}", parent.display()))?;
        fs::write(path.join(file), all)
            .with_context(|| format!("write {file} of {}", path.display()))?;
    }
    fs::write(path.join("cgroup.clone_children"), "1")
        .with_context(|| format!("let what is below {} inherit", path.display()))
}

/// Moves this process into the cgroup of this name, in every hierarchy.
pub fn join(name: &str) -> Result<()> {
    for hierarchy in mounted()? {
        let file = hierarchy.mount_point.join(name).join("cgroup.procs");
        // 0 stands for the writing process.
        fs::write(&file, "0").with_context(|| format!("write to {}", file.display()))?;
    }
    Ok(())
}

/// Ends every process in the cgroup of this name and below it, then removes it from every hierarchy.
pub fn remove(name: &str) -> Result<()> {
    let mut hierarchies = mounted()?;
    // The unified hierarchy can end all processes at once, so it goes first.
    hierarchies.reverse();
    for hierarchy in hierarchies {
        let path = hierarchy.mount_point.join(name);
        if hierarchy.controllers.is_none() {
            cgroup::remove(&path)?;
        } else if path.exists() {
            remove_empty(&path)?;
        }
    }
    Ok(())
}

fn remove_empty(path: &Path) -> Result<()> {
    let children = fs::read_dir(path)
        .with_context(|| format!("read {}", path.display()))?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for child in children {
        remove_empty(&child.path())?;
    }
    // A cgroup stays busy for a moment after its last process is gone.
    until("the folder can be removed", Duration::from_secs(5), || {
        fs::remove_dir(path).map(|()| true).map_err(Into::into)
    })
    .with_context(|| format!("remove {}", path.display()))
}

/// Cgroups whose names begin so, in every hierarchy.
pub fn find(prefix: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in mounted()? {
        let entries = fs::read_dir(&hierarchy.mount_point)
            .with_context(|| format!("read {}", hierarchy.mount_point.display()))?;
        found.extend(
            entries
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
                .map(|entry| entry.path()),
        );
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_both_kinds_are_found() {
        let found = parse(
            "tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0\n\
             cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,nodev,noexec,relatime,cpu,cpuacct 0 0\n\
             cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,release_agent=/usr/lib/x,name=systemd 0 0\n\
             cgroup /elsewhere cgroup rw,relatime,cpu,cpuacct 0 0\n",
        );
        let names: Vec<String> = found.iter().map(Hierarchy::name).collect();
        assert_eq!(names, ["unified", "cpu,cpuacct", "systemd"]);
        assert_eq!(found[2].controllers.as_deref(), Some("none,name=systemd"));
    }
}
