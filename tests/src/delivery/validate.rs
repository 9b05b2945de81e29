//! Objects against the schemas of a version of Kubernetes.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Delivery;
use crate::host::command::finish;

/// Kinds of the Prometheus operator: no version of Kubernetes has schemas of them.
const NOT_OF_KUBERNETES: &str = "monitoring.coreos.com/";

impl Delivery {
    /// Validates objects, strictly: a field that the version does not know is a fault. The same object twice is looked at once.
    pub fn validate<'o>(
        &self,
        minor: u32,
        objects: impl IntoIterator<Item = &'o Value>,
    ) -> Result<usize> {
        let distinct: BTreeSet<String> = objects
            .into_iter()
            .filter(|object| {
                let version = object["apiVersion"].as_str().unwrap_or_default();
                !version.starts_with(NOT_OF_KUBERNETES)
            })
            .map(Value::to_string)
            .collect();
        // JSON is YAML.
        let text = distinct
            .iter()
            .fold(String::new(), |text, object| text + "---\n" + object + "\n");
        let path = std::env::temp_dir().join(format!(
            "warren-objects-{}-{minor}.yaml",
            std::process::id()
        ));
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        let version = format!("1.{minor}.0");
        let output = self
            .tools
            .validator()?
            // A kind that it does not know is told as a warning; there must be none.
            .args(["--kubernetes-version", &version])
            .arg(&path)
            .output()
            .context("start python3")?;
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        let warned = String::from_utf8_lossy(&output.stdout).contains("WARN")
            || String::from_utf8_lossy(&output.stderr).contains("WARN");
        let said = finish(&format!("kubernetes-validate for 1.{minor}"), output)?;
        anyhow::ensure!(!warned, "kubernetes-validate for 1.{minor}: {said}");
        Ok(distinct.len())
    }
}
