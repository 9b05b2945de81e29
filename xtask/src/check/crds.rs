//! The definitions in deploy/crds are those that the binary makes from its types.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{run, workspace};

const CRDS: &str = "deploy/crds";

pub(super) fn check() -> Result<()> {
    let warren = workspace::build_warren(false)?;
    let printed = run::read(Command::new(&warren).args(["install", "--crds"]))?;
    let generated = by_name(&printed).context("read what `warren install --crds` prints")?;
    let mut kept = BTreeMap::new();
    let folder = workspace::root().join(CRDS);
    for entry in fs::read_dir(&folder).with_context(|| format!("read {CRDS}"))? {
        let path = entry.with_context(|| format!("read {CRDS}"))?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        kept.extend(by_name(&text).with_context(|| format!("read {}", path.display()))?);
    }
    let names = generated.keys().chain(kept.keys());
    let mut stale: Vec<&str> = names
        .filter(|name| generated.get(*name) != kept.get(*name))
        .map(String::as_str)
        .collect();
    stale.sort_unstable();
    stale.dedup();
    if !stale.is_empty() {
        bail!(
            "not what the types say: {}; write {CRDS} again, then run `cargo xtask manifests`",
            stale.join(", ")
        );
    }
    Ok(())
}

fn by_name(yaml: &str) -> Result<BTreeMap<String, Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
    Ok(objects
        .into_iter()
        .filter(|object| !object.is_null())
        .map(|object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            (name.to_owned(), object)
        })
        .collect())
}
