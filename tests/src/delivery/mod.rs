//! How Warren gets into clusters: the Helm chart as Helm renders it, what `warren install` prints, and the schemas of every
//! version of Kubernetes. Needs neither root nor a cluster, but Helm, which `cargo xtask test` fetches.

mod chart;
mod tools;
mod validate;
mod values;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

pub use chart::{Objects, by_name};
pub use values::{ValueFile, leaves, set, value_files, without};

use crate::host::binary;
use crate::host::command::finish;
use crate::host::requires::SKIP;
use tools::Tools;

/// Minor versions of Kubernetes whose schemas manifests are validated with.
pub const VALIDATED: std::ops::RangeInclusive<u32> = 29..=37;

/// Everything that a story about delivery works with.
pub struct Delivery {
    tools: Tools,
}

/// Tells a story, if Helm is there; else it is skipped, and says so.
#[expect(
    clippy::print_stdout,
    reason = "the runner reads the mark from standard output"
)]
pub fn delivery(tell: impl FnOnce(&Delivery) -> Result<()>) -> Result<()> {
    match Tools::locate() {
        Ok(tools) => tell(&Delivery { tools }),
        Err(error) => {
            println!("{SKIP}{error:#}");
            Ok(())
        }
    }
}

/// Helm's program, for stories in a real cluster; none when it is not there, which is said.
#[expect(
    clippy::print_stdout,
    reason = "the runner reads the mark from standard output"
)]
pub fn helm() -> Result<Option<PathBuf>> {
    match Tools::locate() {
        Ok(tools) => Ok(Some(tools.program())),
        Err(error) => {
            println!("{SKIP}{error:#}");
            Ok(None)
        }
    }
}

impl Delivery {
    /// Runs Helm; gives what it printed.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .tools
            .helm()
            .args(arguments)
            .output()
            .context("start helm")?;
        finish(&format!("helm {}", arguments.join(" ")), output)
    }

    /// Runs `warren` without any cluster to ask.
    pub fn warren(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(binary::warren()?)
            .args(arguments)
            .env("KUBECONFIG", "/dev/null")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .output()
            .context("start warren")?;
        finish(&format!("warren {}", arguments.join(" ")), output)
    }

    /// What `warren install` prints for Kubernetes 1.`minor`.
    pub fn install(&self, minor: u32, arguments: &[&str]) -> Result<Objects> {
        let version = format!("1.{minor}");
        let mut all = vec!["install", "--kubernetes-version", &version];
        all.extend(arguments);
        by_name(&self.warren(&all)?)
    }
}

/// A file of the repository, by its path in it.
pub fn file(path: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).join(path)
}

/// Reads a YAML file of the repository.
pub fn yaml(path: &str) -> Result<Value> {
    let text = fs::read_to_string(file(path)).with_context(|| format!("read {path}"))?;
    serde_saphyr::from_str(&text).with_context(|| format!("read {path}"))
}
