//! The chart, as Helm renders it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::tools::Tools;
use crate::{run, workspace};

/// Objects by `Kind/name`.
pub(super) type Objects = BTreeMap<String, Value>;

/// Helm wants a valid name of a namespace; in what is embedded it is a hole like any other.
const NAMESPACE: &str = "the-namespace-goes-here";

pub(super) struct Chart {
    tools: Tools,
    folder: PathBuf,
}

impl Chart {
    pub(super) fn new(tools: Tools, folder: PathBuf) -> Self {
        Self { tools, folder }
    }

    /// Renders it for Kubernetes 1.`minor`. The values may be holes, so they are not checked.
    pub(super) fn render(&self, values: &Value, minor: u32) -> Result<Objects> {
        let file = workspace::target().join("manifests-values.json");
        fs::write(&file, values.to_string())
            .with_context(|| format!("write {}", file.display()))?;
        let rendered = run::read(
            self.tools
                .helm()
                .arg("template")
                .arg("warren")
                .arg(&self.folder)
                .args(["--namespace", NAMESPACE, "--skip-schema-validation"])
                // Hooks are Helm's own way to uninstall.
                .args(["--no-hooks", "--kube-version", &format!("1.{minor}.0")])
                .arg("--values")
                .arg(&file),
        )?;
        let rendered = rendered.replace(NAMESPACE, "${namespace}");
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&rendered).context("read what helm printed")?;
        let mut by_name = Objects::new();
        for object in objects.into_iter().filter(|object| !object.is_null()) {
            let name = format!(
                "{}/{}",
                object["kind"].as_str().unwrap_or_default(),
                object["metadata"]["name"].as_str().unwrap_or_default()
            );
            ensure!(
                by_name.insert(name.clone(), object).is_none(),
                "the chart has two objects {name}"
            );
        }
        Ok(by_name)
    }
}
