//! The chart, rendered.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Delivery, file};

/// Objects by `Kind/name`.
pub type Objects = BTreeMap<String, Value>;

/// The chart of Warren itself.
const CHART: &str = "deploy/helm/warren";

impl Delivery {
    /// Renders the chart of Warren with values, for Kubernetes 1.`minor`. More arguments are Helm's.
    pub fn render(&self, minor: u32, values: &Value, arguments: &[&str]) -> Result<Objects> {
        let text = self.template(minor, values, arguments)?;
        by_name(&text)
    }

    /// What Helm prints for the chart of Warren.
    pub fn template(&self, minor: u32, values: &Value, arguments: &[&str]) -> Result<String> {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "warren-values-{}-{}.json",
            std::process::id(),
            LAST.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::write(&path, values.to_string())
            .with_context(|| format!("write {}", path.display()))?;
        let chart = file(CHART).display().to_string();
        let version = format!("1.{minor}.0");
        let values = path.display().to_string();
        let mut all = vec!["template", "warren", &chart, "--values", &values];
        all.extend(["--kube-version", &version]);
        if !arguments.contains(&"--namespace") {
            all.extend(["--namespace", "warren-system"]);
        }
        all.extend(arguments);
        let rendered = self.helm(&all);
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        rendered
    }
}

/// Reads objects; no two may have one name.
pub fn by_name(yaml: &str) -> Result<Objects> {
    let all: Vec<Value> = serde_saphyr::from_multiple(yaml).context("read objects")?;
    let mut objects = Objects::new();
    for object in all.into_iter().filter(|object| !object.is_null()) {
        let text = |at: &str| object.pointer(at).and_then(Value::as_str);
        let name = format!(
            "{}/{}",
            text("/kind").context("an object has no kind")?,
            text("/metadata/name").context("an object has no name")?
        );
        ensure!(
            objects.insert(name.clone(), object).is_none(),
            "{name} is there twice"
        );
    }
    Ok(objects)
}
