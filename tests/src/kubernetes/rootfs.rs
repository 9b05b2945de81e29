//! What a node's `/` begins with: a minimal Debian with a container runtime and network plugins. Nodes only read it; what
//! they write lies in an overlay.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::build::tail;
use super::cache::remove;
use super::debian;

/// Of what [`make`] makes.
pub(super) const VERSION: &str = "trixie-1";

/// Its containerd (1.7) is the last that the kubelet of 1.20 can talk to.
const RELEASE: &str = "trixie";

/// What a node runs, what its programs call, and what is wanted when one looks into it.
const PACKAGES: &[&str] = &[
    "containerd",
    "runc",
    "containernetworking-plugins",
    "iptables",
    "conntrack",
    "iproute2",
    "kmod",
    "ethtool",
    // For port-forward.
    "socat",
    "ca-certificates",
    "procps",
    "udev",
    "iputils-ping",
    "curl",
    // Static, so that it is an image by itself.
    "busybox-static",
];

/// Installs it into an empty folder.
pub(super) fn make(into: &Path, cache: &Path) -> Result<()> {
    let log = cache.join("debootstrap.log");
    let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    // In a mount namespace of its own: were it interrupted, its mounts would end with it.
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "nice"])
        .args(["debootstrap", "--variant=minbase"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg(RELEASE)
        .arg(into)
        .arg(debian::mirror()?)
        .stdout(output.try_clone().context("share the log")?)
        .stderr(output)
        .status()
        .context("start debootstrap")?;
    if !status.success() {
        bail!("debootstrap failed: {status}; {}", tail(&log));
    }
    // A third of it, and needed only to install more.
    for folder in [
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "usr/share/doc",
    ] {
        remove(&into.join(folder))?;
    }
    fs::remove_file(&log).with_context(|| format!("remove {}", log.display()))
}
