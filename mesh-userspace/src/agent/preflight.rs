//! Whether this machine has what the agent needs: asked before it starts, and by `warren check`.

use std::path::{Path, PathBuf};

use mesh_kernel::Feature;

use crate::api::objects::{Check, CheckState};

/// Everything about the machine, in order.
pub(crate) fn checks() -> Vec<Check> {
    mesh_kernel::probe().0.into_iter().map(check).collect()
}

fn check(feature: Feature) -> Check {
    let section = if feature.name.starts_with("CAP_") {
        "privileges"
    } else {
        "kernel"
    };
    if feature.present {
        return Check::ok(section, format!("{} ({})", feature.name, feature.detail));
    }
    let state = if feature.required {
        CheckState::Failed
    } else {
        CheckState::Warning
    };
    let Feature {
        name,
        without,
        detail,
        ..
    } = &feature;
    let message = format!("{name} is missing: {without} ({detail})");
    Check::bad(section, state, message, fix(&feature))
}

fn fix(feature: &Feature) -> String {
    match feature.name {
        name if name.starts_with("CAP_") => {
            "run as root; in a container, add the capability".to_owned()
        }
        "cgroup v2" => {
            "mount -t cgroup2 none /sys/fs/cgroup (or boot with systemd.unified_cgroup_hierarchy=1)"
                .to_owned()
        }
        _ => format!(
            "boot kernel {} or newer, with this feature built in",
            feature.since
        ),
    }
}

/// What keeps the agent from starting, in words.
pub(crate) fn missing() -> Vec<String> {
    mesh_kernel::probe()
        .0
        .into_iter()
        // It was found already: in a container it need not be mounted, because the node's is used.
        .filter(|feature| feature.name != "cgroup v2")
        .map(check)
        .filter(|check| check.state == CheckState::Failed)
        .map(|check| match check.fix {
            Some(fix) => format!("{} (fix: {fix})", check.message),
            None => check.message,
        })
        .collect()
}

/// Whether this process is root's, in effect.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Where the cgroup v2 hierarchy is mounted.
pub(crate) fn cgroup2_mount() -> Option<PathBuf> {
    cgroup2_in(Path::new("/proc/self/mounts"))
}

/// The same, by a list of mounts.
pub(crate) fn cgroup2_in(mounts: &Path) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string(mounts).ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// This process's own cgroup, as a folder.
pub(crate) fn own_cgroup(mount: &Path) -> Option<PathBuf> {
    let file = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = file.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(mount.join(path))
}
