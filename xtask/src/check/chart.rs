//! What `warren install` embeds is what the chart makes, and the chart has the version of the binary.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{manifests, workspace};

/// Charts that are released together with the binary.
const CHARTS: [&str; 2] = ["deploy/helm/warren", "deploy/helm/warren-crds"];

pub(super) fn check() -> Result<()> {
    for chart in CHARTS {
        let path = workspace::root().join(chart).join("Chart.yaml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for key in ["version", "appVersion"] {
            let line = format!("{key}: {}", env!("CARGO_PKG_VERSION"));
            ensure!(
                text.lines().any(|found| found == line),
                "{chart}/Chart.yaml does not say `{line}`, as the workspace does"
            );
        }
    }
    manifests::check()
}
