//! `cargo xtask check`: every rule that a machine can check without root. All failures are collected, then shown.

mod chart;
mod crds;
mod dependencies;
mod files;
mod metadata;
mod promises;
mod schema;

use anyhow::{Result, bail};

use crate::{ebpf, run, workspace};

/// The kernel half is a workspace of its own, so some checks are run for it separately.
const KERNEL_HALF: &str = "mesh-ebpf/Cargo.toml";

type Check = fn() -> Result<()>;

pub(crate) fn run() -> Result<()> {
    let checks: [(&str, Check); 11] = [
        ("file rules", files::check),
        ("dependency rules", dependencies::check),
        ("promises", promises::check),
        ("formatting", formatting),
        ("formatting of the kernel half", kernel_formatting),
        ("lints", lints),
        ("lints of the kernel half", kernel_lints),
        ("documentation", documentation),
        ("configuration schema", schema::check),
        ("definitions of kinds", crds::check),
        ("chart and manifests", chart::check),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        eprintln!("check: {name}");
        if let Err(error) = check() {
            eprintln!("check: {name} FAILED: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!(
            "{} of {} checks failed: {}",
            failed.len(),
            checks.len(),
            failed.join(", ")
        );
    }
    eprintln!("check: all {} passed", checks.len());
    Ok(())
}

fn formatting() -> Result<()> {
    run::step(workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn kernel_formatting() -> Result<()> {
    run::step(workspace::cargo().args(["fmt", "--manifest-path", KERNEL_HALF, "--check"]))
}

fn lints() -> Result<()> {
    run::step(workspace::cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))
}

fn kernel_lints() -> Result<()> {
    ebpf::lint(&workspace::root())
}

fn documentation() -> Result<()> {
    run::step(
        workspace::cargo()
            .env(
                "RUSTDOCFLAGS",
                "--deny warnings --allow rustdoc::private_intra_doc_links",
            )
            .args([
                "doc",
                "--workspace",
                "--no-deps",
                "--document-private-items",
            ]),
    )
}
