//! `cargo xtask image`: the container image, as an archive that every container engine loads, made without one.
//!
//! One layer with one file, `/warren`, linked statically: nothing in it but the program can have a fault, and there is no shell
//! for whoever breaks in. The same sources and toolchain give the same bytes: times are zero, names are sorted, nobody owns anything.
//! `--debug` packs the debug build with the shared libraries that it needs, in seconds: for trying things in a cluster.

mod archive;
mod layer;
mod libraries;
mod reference;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{ebpf, run, workspace};
use archive::Image;
use layer::Layer;
use reference::Reference;

/// Where the program is in the image.
const PROGRAM: &str = "warren";

#[derive(Args)]
pub(crate) struct Options {
    /// Pack the debug build and its shared libraries instead of building a static release.
    #[arg(long)]
    debug: bool,
    /// Pack this binary, already built, instead of building one.
    #[arg(long, value_name = "FILE", conflicts_with = "debug")]
    binary: Option<PathBuf>,
    /// The image's name [default: warren:VERSION, as the chart expects it].
    #[arg(long, value_name = "NAME[:TAG]", default_value = concat!("warren:", env!("CARGO_PKG_VERSION")))]
    tag: Reference,
    /// Where the archive is written [default: target/image/warren.tar, or warren-debug.tar].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = workspace::target().join("image");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;

    let mut layer = Layer::default();
    if options.debug {
        let binary = stripped(&workspace::build_warren(false)?, &folder)?;
        for library in libraries::of(&binary)? {
            layer.add(&library, &library)?;
        }
        layer.add(Path::new(PROGRAM), &binary)?;
    } else {
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => build_static(&folder)?,
        };
        ensure!(
            !libraries::is_dynamic(&binary)?,
            "{} needs shared libraries, which the image has not; link it with `-C target-feature=+crt-static`, or use --debug",
            binary.display()
        );
        layer.add(Path::new(PROGRAM), &binary)?;
    }

    let name = if options.debug {
        "warren-debug.tar"
    } else {
        "warren.tar"
    };
    let output = options.output.clone().unwrap_or_else(|| folder.join(name));
    let image = Image {
        reference: &options.tag,
        layer: layer.pack()?,
        entrypoint: &format!("/{PROGRAM}"),
    };
    let digest = image.write(&output)?;
    let size = fs::metadata(&output)
        .with_context(|| format!("read the size of {}", output.display()))?
        .len();
    println!("{}", output.display());
    println!("image   {}", options.tag);
    println!("digest  {digest}");
    println!("size    {:.1} MiB", size as f64 / f64::from(1 << 20));
    Ok(())
}

/// A release of its own, in a target folder of its own: other flags must not make cargo build everything else anew.
fn build_static(folder: &Path) -> Result<PathBuf> {
    let object = ebpf::build(&workspace::root()).context("build the eBPF programs")?;
    // Naming the target keeps the flags away from build scripts and procedural macros, which cannot be static.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    run::step(
        workspace::cargo()
            .env("WARREN_BPF_OBJECT", &object)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
            .args(["build", "--release", "--package", "mesh-userspace"])
            .args(["--bin", "warren", "--target", &target, "--target-dir"])
            .arg(folder),
    )?;
    Ok(folder.join(target).join("release/warren"))
}

/// A copy without debug information, which is most of a debug build.
fn stripped(binary: &Path, folder: &Path) -> Result<PathBuf> {
    let copy = folder.join("warren-debug");
    run::step(
        Command::new("strip")
            .args(["--strip-debug", "-o"])
            .arg(&copy)
            .arg(binary),
    )
    .context("take the debug information out; strip is in Debian's binutils")?;
    Ok(copy)
}
