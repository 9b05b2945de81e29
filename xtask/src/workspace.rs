//! Where things are: the workspace, its target folder, the binaries that it builds.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{ebpf, run};

/// The workspace's root: the folder above this package.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The one target folder.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The same cargo that runs us, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    command
}

/// Builds the eBPF object and the `warren` binary that embeds it; gives the binary's path.
pub(crate) fn build_warren(release: bool) -> Result<PathBuf> {
    let object = ebpf::build(&root()).context("build the eBPF programs")?;
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    run::step(
        cargo()
            .env("WARREN_BPF_OBJECT", &object)
            .args(["build", "--package", "mesh-userspace", "--bin", "warren"])
            .args(profile),
    )?;
    Ok(target()
        .join(if release { "release" } else { "debug" })
        .join("warren"))
}

/// Whether we are root: stories, demo and benchmarks make namespaces and load eBPF programs.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
