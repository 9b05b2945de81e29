//! What a story needs of the machine. It is skipped only with proof that something is missing, and says what.

use std::path::Path;

use nix::unistd::geteuid;

use super::cgroup::mount_point;

/// The mark by which `cargo xtask test` counts a story as skipped rather than passed.
pub const SKIP: &str = "warren-skip: ";

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// User id 0: namespaces, cgroups, eBPF.
    Root,
    /// A cgroup v2 tree.
    CgroupTree,
    /// Type information of the running kernel.
    KernelTypes,
    /// IPv6.
    Ipv6,
    /// Multipath TCP.
    Mptcp,
    /// io_uring, not forbidden.
    IoUring,
    /// A program, by name; `cargo xtask deps` installs it.
    Program(&'static str),
}

impl Need {
    /// Why it is missing; nothing when it is there.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::CgroupTree => mount_point().err().map(|error| error.to_string()),
            Self::KernelTypes => without(
                "/sys/kernel/btf/vmlinux",
                "the kernel was built without BTF",
            ),
            Self::Ipv6 => without("/proc/net/if_inet6", "the kernel has no IPv6"),
            Self::Mptcp => (setting("/proc/sys/net/mptcp/enabled").as_deref() != Some("1"))
                .then(|| "the kernel has no multipath TCP".to_owned()),
            Self::IoUring => match setting("/proc/sys/kernel/io_uring_disabled").as_deref() {
                Some("0") => None,
                Some(_) => Some("io_uring is switched off (kernel.io_uring_disabled)".to_owned()),
                None => Some("the kernel has no io_uring".to_owned()),
            },
            Self::Program(name) => (!is_installed(name))
                .then(|| format!("{name} is not installed; `cargo xtask deps` installs it")),
        }
    }
}

/// Says that a story is skipped when something is missing; true when it can be told.
#[expect(
    clippy::print_stdout,
    reason = "the runner reads the mark from standard output"
)]
pub fn met(needs: &[Need]) -> bool {
    let missing = needs.iter().find_map(|need| need.missing());
    if let Some(reason) = &missing {
        println!("{SKIP}{reason}");
    }
    missing.is_none()
}

fn without(path: &str, reason: &str) -> Option<String> {
    (!Path::new(path).exists()).then(|| reason.to_owned())
}

fn setting(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps PostgreSQL's programs out of the search path, in a folder per version.
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"));
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .chain(versions)
        .any(|folder| folder.join(program).is_file())
}
