//! Whether this machine has what the agent needs: asked before it starts, and by `warren check`.

use std::path::{Path, PathBuf};

use crate::api::objects::{Check, CheckState};

/// Capabilities of the agent, with their bit (linux/capability.h) and what they are for.
const CAPABILITIES: &[(&str, u32, &str)] = &[
    (
        "CAP_NET_ADMIN",
        12,
        "attach programs to interfaces, routes in workloads' namespaces",
    ),
    ("CAP_SYS_ADMIN", 21, "enter workloads' namespaces"),
    ("CAP_BPF", 39, "load programs and make maps"),
];

/// Everything about the machine, in order.
pub(crate) fn checks() -> Vec<Check> {
    let mut checks = vec![cgroup2()];
    checks.extend(capabilities());
    for feature in mesh_kernel::probe().0 {
        checks.push(match (feature.present, feature.required) {
            (true, _) => Check::ok("kernel", format!("{} ({})", feature.name, feature.detail)),
            (false, required) => Check::bad(
                "kernel",
                if required {
                    CheckState::Failed
                } else {
                    CheckState::Warning
                },
                format!(
                    "{} is missing: {} ({})",
                    feature.name, feature.without, feature.detail
                ),
                format!(
                    "boot kernel {} or newer, with this feature built in",
                    feature.since
                ),
            ),
        });
    }
    checks
}

/// What keeps the agent from starting, in words.
pub(crate) fn missing() -> Vec<String> {
    checks()
        .into_iter()
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

fn capabilities() -> Vec<Check> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .map(|(name, bit, purpose)| match effective >> bit & 1 {
            1 => Check::ok("privileges", *name),
            _ => Check::bad(
                "privileges",
                CheckState::Failed,
                format!("{name} is missing: needed to {purpose}"),
                "run as root; in a container, add the capability",
            ),
        })
        .collect()
}

fn cgroup2() -> Check {
    match cgroup2_mount() {
        Some(path) => Check::ok("kernel", format!("cgroup v2 at {}", path.display())),
        None => Check::bad(
            "kernel",
            CheckState::Failed,
            "no cgroup v2 hierarchy is mounted",
            "mount -t cgroup2 none /sys/fs/cgroup (or boot with systemd.unified_cgroup_hierarchy=1)",
        ),
    }
}

/// Where the cgroup v2 hierarchy is mounted.
pub(crate) fn cgroup2_mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
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
