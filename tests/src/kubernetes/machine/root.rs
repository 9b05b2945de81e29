//! A node's file system: an overlay on the cached root, and mounted on it what the kernel provides to this machine alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{chdir, pivot_root};

use super::super::cache::{Cache, Part};
use super::super::hierarchy::{self, Hierarchy};
use super::super::layout::{Node, images_folder};
use crate::eventually::until;

/// Where a node finds the programs of Kubernetes.
pub(super) const COMPONENTS: &str = "/opt/kubernetes";

/// Where a node finds the images that it imports.
pub(super) const IMAGES: &str = "/images";

/// Devices that programs expect.
const DEVICES: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "kmsg"];

/// Settings of the whole machine that a kubelet wants to change.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// With processes that are about to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes it; gives the folder that is to become `/`.
pub(super) fn make(node: Node, cache: &Cache) -> Result<PathBuf> {
    let (folder, root) = (node.folder(), node.folder().join("root"));
    let [upper, work] = [folder.join("upper"), folder.join("work")];
    for folder in [&root, &upper, &work] {
        create(folder)?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        cache.part(Part::Root).display(),
        upper.display(),
        work.display()
    );
    mount_as("overlay", "overlay", &root, Some(&options))?;
    mount_as("proc", "proc", &root.join("proc"), None)?;
    mount_as("sysfs", "sysfs", &root.join("sys"), None)?;
    devices(&root.join("dev"))?;
    cgroups(&root.join("sys/fs/cgroup"))?;
    mount_as("bpf", "bpf", &root.join("sys/fs/bpf"), None)?;
    // Not everywhere, and only wanted for looking into things.
    if let Err(error) = mount_as("tracefs", "tracefs", &root.join("sys/kernel/tracing"), None) {
        eprintln!("{error:#}");
    }
    for folder in ["run", "tmp"] {
        mount_as("tmpfs", "tmpfs", &root.join(folder), None)?;
    }
    for folder in ["run/lock", "run/netns"] {
        create(&root.join(folder))?;
    }
    // Containers' own overlays cannot lie on ours, so their files do not.
    for name in ["containerd", "kubelet", "cni"] {
        let outside = folder.join("lib").join(name);
        create(&outside)?;
        bind(&outside, &root.join("var/lib").join(name))?;
    }
    bind_read_only(&cache.part(Part::Components), &root.join(&COMPONENTS[1..]))?;
    bind_read_only(&images_folder(), &root.join(&IMAGES[1..]))?;
    settings(&root)?;
    Ok(root)
}

/// Leaves the outer file system behind.
pub(super) fn enter(root: &Path) -> Result<()> {
    let old = root.join(".old");
    create(&old)?;
    chdir(root).context("go to the root")?;
    pivot_root(".", ".old").context("exchange the root")?;
    chdir("/").context("go to the new root")?;
    umount2("/.old", MntFlags::MNT_DETACH).context("leave the old root")?;
    fs::remove_dir("/.old").context("remove the old root's place")?;
    // Volumes that a pod mounts with propagation reach the node.
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
        None::<&str>,
    )
    .context("share all mounts")
}

fn devices(dev: &Path) -> Result<()> {
    mount_as("tmpfs", "tmpfs", dev, Some("mode=755"))?;
    for name in DEVICES {
        let (outside, inside) = (Path::new("/dev").join(name), dev.join(name));
        if outside.exists() {
            fs::write(&inside, "").with_context(|| format!("create {}", inside.display()))?;
            bind(&outside, &inside)?;
        }
    }
    create(&dev.join("net"))?;
    mknod(
        &dev.join("net/tun"),
        SFlag::S_IFCHR,
        Mode::from_bits_truncate(0o666),
        makedev(10, 200),
    )
    .context("make /dev/net/tun")?;
    let terminals = "newinstance,ptmxmode=0666,mode=620";
    for (kind, name, options) in [
        ("devpts", "pts", Some(terminals)),
        ("tmpfs", "shm", None),
        ("mqueue", "mqueue", None),
    ] {
        create(&dev.join(name))?;
        mount_as(kind, kind, &dev.join(name), options)?;
    }
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
    ] {
        symlink(target, dev.join(name)).with_context(|| format!("link /dev/{name}"))?;
    }
    Ok(())
}

/// This node's view of every hierarchy: its cgroup namespace makes its own cgroup the root.
fn cgroups(place: &Path) -> Result<()> {
    let hierarchies = hierarchy::mounted()?;
    if let [
        Hierarchy {
            controllers: None, ..
        },
    ] = hierarchies[..]
    {
        mount_as("cgroup2", "cgroup2", place, None)?;
        return delegate(place);
    }
    mount_as("tmpfs", "tmpfs", place, Some("mode=755"))?;
    for hierarchy in hierarchies {
        let folder = place.join(hierarchy.name());
        create(&folder)?;
        match &hierarchy.controllers {
            Some(controllers) => mount_as("cgroup", "cgroup", &folder, Some(controllers))?,
            None => mount_as("cgroup2", "cgroup2", &folder, None)?,
        }
    }
    Ok(())
}

/// Where there is only the unified hierarchy, a cgroup that gives controllers to those below has no processes of its own.
fn delegate(root: &Path) -> Result<()> {
    let own = root.join("init");
    create(&own)?;
    fs::write(own.join("cgroup.procs"), "0").context("move into a cgroup below the node's own")?;
    let all = fs::read_to_string(root.join("cgroup.controllers")).context("read controllers")?;
    let all: Vec<String> = all
        .split_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    // The helper that started us is in there until it ends, which it is about to.
    until("the node's cgroup is empty", PATIENCE, || {
        fs::write(root.join("cgroup.subtree_control"), all.join(" "))
            .map(|()| true)
            .map_err(Into::into)
    })
    .context("give the node's controllers to what is below")
}

/// A kubelet gets plain files to write to, with what the machine has now.
fn settings(root: &Path) -> Result<()> {
    let folder = root.join("run/settings");
    create(&folder)?;
    for name in SETTINGS {
        let (file, place) = (
            folder.join(name.replace('/', ".")),
            Path::new("proc/sys").join(name),
        );
        let value = fs::read(Path::new("/").join(&place))
            .with_context(|| format!("read /{}", place.display()))?;
        fs::write(&file, value).with_context(|| format!("write {}", file.display()))?;
        bind(&file, &root.join(place))?;
    }
    Ok(())
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

fn mount_as(source: &str, kind: &str, place: &Path, options: Option<&str>) -> Result<()> {
    create(place)?;
    mount(Some(source), place, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("mount {kind} on {}", place.display()))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        create(to)?;
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mount {} on {}", from.display(), to.display()))
}

fn bind_read_only(from: &Path, to: &Path) -> Result<()> {
    bind(from, to)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, to, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("protect {}", to.display()))
}
