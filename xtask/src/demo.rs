//! `cargo xtask demo`: builds everything, then tells the story of the product in a simulated cluster of two nodes.
//! The story itself is the binary `warren-demo` of the tests' package, which has the cluster.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{deps, run, workspace};

#[derive(Args)]
pub(crate) struct Options {
    /// Leave the cluster running at the end, and print commands to try; Ctrl-C removes it.
    #[arg(long)]
    keep: bool,
    /// Build and run the optimised binary.
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "the demo makes network namespaces and loads eBPF programs, so it needs root; run `sudo -E cargo xtask demo`"
        );
    }
    deps::ensure(&["ip", "tcpdump", "nginx"])?;
    let warren = workspace::build_warren(options.release)?;
    run::step(workspace::cargo().args(["build", "--package", "mesh-tests", "--bins"]))?;

    let mut demo =
        std::process::Command::new(workspace::target().join("debug").join("warren-demo"));
    demo.env("WARREN_BIN", warren);
    if options.keep {
        demo.arg("--keep");
    }
    // In our place, so that Ctrl-C reaches it alone, and the terminal waits until it has cleaned up.
    Err(demo.exec()).with_context(|| format!("run {}", run::words(&demo)))
}
