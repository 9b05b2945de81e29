//! Who uses whom, as cargo resolves it: with the features that are really on, without what only tests and builds use.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{run, workspace};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

/// Names of the workspace's packages.
pub(super) fn members() -> Result<BTreeSet<String>> {
    let json = run::read(workspace::cargo().args(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Metadata = serde_json::from_str(&json).context("read cargo's metadata")?;
    Ok(metadata
        .packages
        .into_iter()
        .map(|package| package.name)
        .collect())
}

/// What a member names in its own manifest.
pub(super) fn direct(member: &str) -> Result<BTreeSet<String>> {
    tree(member, &["--depth=1"])
}

/// Everything that ends up in a member's build.
pub(super) fn closure(member: &str) -> Result<BTreeSet<String>> {
    tree(member, &[])
}

fn tree(member: &str, more: &[&str]) -> Result<BTreeSet<String>> {
    // `cargo metadata` would also list optional dependencies that nothing switches on.
    let lines = run::read(
        workspace::cargo()
            .args([
                "tree",
                "--package",
                member,
                "--edges=normal",
                "--prefix=none",
                "--format={p}",
            ])
            .args(more),
    )?;
    Ok(lines
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| !name.is_empty() && *name != member)
        .map(str::to_owned)
        .collect())
}
