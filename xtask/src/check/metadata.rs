//! What `cargo metadata` says, reduced to what the dependency rules ask about.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{run, workspace};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// Absent for ordinary dependencies, else `dev` or `build`.
    kind: Option<String>,
}

/// Who uses whom, with the features that are really on.
pub(super) struct Graph {
    names: BTreeMap<String, String>,
    ordinary: BTreeMap<String, BTreeSet<String>>,
    members: Vec<String>,
}

impl Graph {
    pub(super) fn load() -> Result<Self> {
        let json = run::read(workspace::cargo().args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ]))?;
        let Metadata {
            packages,
            workspace_members: members,
            resolve,
        } = serde_json::from_str(&json).context("read cargo's metadata")?;
        let names = packages
            .into_iter()
            .map(|package| (package.id, package.name))
            .collect();
        let ordinary = resolve
            .nodes
            .into_iter()
            .map(|node| {
                let uses = node
                    .deps
                    .into_iter()
                    .filter(|dependency| {
                        dependency.dep_kinds.iter().any(|kind| kind.kind.is_none())
                    })
                    .map(|dependency| dependency.pkg)
                    .collect();
                (node.id, uses)
            })
            .collect();
        Ok(Self {
            names,
            ordinary,
            members,
        })
    }

    /// Names of the workspace's packages.
    pub(super) fn members(&self) -> BTreeSet<&str> {
        self.members.iter().map(|id| self.name(id)).collect()
    }

    /// What a member names in its own manifest.
    pub(super) fn direct(&self, member: &str) -> BTreeSet<&str> {
        self.ids(member)
            .filter_map(|id| self.ordinary.get(id))
            .flatten()
            .map(|id| self.name(id))
            .collect()
    }

    /// Everything that ends up in a member's build.
    pub(super) fn closure(&self, member: &str) -> BTreeSet<&str> {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut open: Vec<&str> = self.ids(member).collect();
        while let Some(id) = open.pop() {
            for next in self.ordinary.get(id).into_iter().flatten() {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen.into_iter().map(|id| self.name(id)).collect()
    }

    fn ids<'a>(&'a self, member: &'a str) -> impl Iterator<Item = &'a str> {
        self.members
            .iter()
            .map(String::as_str)
            .filter(move |id| self.name(id) == member)
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.names.get(id).map_or(id, String::as_str)
    }
}
