//! `cargo xtask manifests`: what `warren install` prints, made from the chart. The chart is the only source; what the binary
//! embeds is what Helm made of it, so that neither can say something else than the other.
//!
//! * `deploy/manifests/warren.yaml`: the chart, rendered with `${name}` in the place of each value that `warren install` knows
//!   (those marked "(install)" in values.yaml).
//! * `deploy/manifests/variants.yaml`: what else changes in it when a switch is turned, or for an older Kubernetes: found by
//!   rendering the chart that way, too, and comparing.
//! * `deploy/helm/warren-crds/templates`: the definitions of `deploy/crds`, which are generated from the Rust types.

mod chart;
mod compare;
mod values;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use crate::tools::Tools;
use crate::workspace;
use chart::{Chart, Objects};
use compare::Change;
use values::Known;

const CHART: &str = "deploy/helm/warren";
const SKELETON: &str = "deploy/manifests/warren.yaml";
const VARIANTS: &str = "deploy/manifests/variants.yaml";
const CRDS: &str = "deploy/crds";
const CRD_CHART: &str = "deploy/helm/warren-crds/templates";

/// Minor versions of Kubernetes 1 that the chart is for.
const OLDEST: u32 = 20;
const NEWEST: u32 = 37;

const HEADER: &str = "# Made by `cargo xtask manifests` from deploy/helm/warren. Change the chart, and run it again.\n";

/// Something that makes the objects differ from the skeleton.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Variant {
    when: When,
    changes: Vec<Change>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum When {
    /// Kubernetes 1.x is older than this x.
    KubernetesBefore(u32),
    /// This value is this.
    Value { name: String, is: Value },
}

pub(crate) fn run() -> Result<()> {
    for (path, content) in make()? {
        let path = workspace::root().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        eprintln!("{}", path.display());
    }
    Ok(())
}

/// Whether what is there is what would be made.
pub(crate) fn check() -> Result<()> {
    let stale: Vec<String> = make()?
        .into_iter()
        .filter(|(path, made)| {
            fs::read_to_string(workspace::root().join(path))
                .ok()
                .as_deref()
                != Some(made)
        })
        .map(|(path, _)| path.display().to_string())
        .collect();
    if !stale.is_empty() {
        bail!(
            "not what the chart makes: {}; run `cargo xtask manifests`",
            stale.join(", ")
        );
    }
    Ok(())
}

/// Every generated file, by its path in the workspace.
fn make() -> Result<BTreeMap<PathBuf, String>> {
    let root = workspace::root();
    let chart = Chart::new(Tools::find_or_fetch()?, root.join(CHART));
    let known = values::known(&root.join(CHART).join("values.yaml"))?;

    let skeleton = chart.render(&holes(&known), NEWEST)?;
    let mut variants = by_version(&chart, &known)?;
    variants.extend(by_switch(&chart, &known, &skeleton)?);

    let mut files = definitions()?;
    let objects: Vec<&Value> = skeleton.values().collect();
    files.insert(SKELETON.into(), yaml(&objects)?);
    files.insert(
        VARIANTS.into(),
        format!("{HEADER}{}", serde_saphyr::to_string(&variants)?),
    );
    Ok(files)
}

/// Values that put `${name}` wherever a value that is known is used.
fn holes(known: &[Known]) -> Value {
    let mut values = json!({"namespace": {"create": true}});
    for value in known.iter().filter(|value| !value.is_switch()) {
        values::set(
            &mut values,
            &value.name,
            json!(format!("${{{}}}", value.name)),
        );
    }
    values
}

/// Between which versions of Kubernetes the objects differ, newest first: that is the order in which the changes apply.
fn by_version(chart: &Chart, known: &[Known]) -> Result<Vec<Variant>> {
    let values = holes(known);
    let mut variants = Vec::new();
    let mut newer = chart.render(&values, NEWEST)?;
    for minor in (OLDEST..NEWEST).rev() {
        let older = chart.render(&values, minor)?;
        let changes = compare::changes(&newer, &older);
        if !changes.is_empty() {
            variants.push(Variant {
                when: When::KubernetesBefore(minor + 1),
                changes,
            });
        }
        newer = older;
    }
    Ok(variants)
}

fn by_switch(chart: &Chart, known: &[Known], skeleton: &Objects) -> Result<Vec<Variant>> {
    let mut variants = Vec::new();
    for value in known {
        let Some(turned) = value.turned() else {
            continue;
        };
        let mut values = holes(known);
        values::set(&mut values, &value.name, turned.clone());
        let changes = compare::changes(skeleton, &chart.render(&values, NEWEST)?);
        if changes.is_empty() {
            bail!("{} changes nothing in the chart", value.name);
        }
        variants.push(Variant {
            when: When::Value {
                name: value.name.clone(),
                is: turned,
            },
            changes,
        });
    }
    Ok(variants)
}

fn yaml(objects: &[&Value]) -> Result<String> {
    let objects = serde_saphyr::to_string_multiple(objects).context("write YAML")?;
    Ok(format!("{HEADER}---\n{objects}"))
}

/// The definitions as templates of the chart that carries them. They have no values.
fn definitions() -> Result<BTreeMap<PathBuf, String>> {
    let folder = workspace::root().join(CRDS);
    let mut files = BTreeMap::new();
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry
            .with_context(|| format!("read {}", folder.display()))?
            .path();
        let (Some(name), true) = (
            path.file_name(),
            path.extension()
                .is_some_and(|extension| extension == "yaml"),
        ) else {
            continue;
        };
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if text.contains("{{") {
            bail!(
                "{} has {{{{ in it, which Helm would take for a template; reword the description",
                path.display()
            );
        }
        files.insert(PathBuf::from(CRD_CHART).join(name), text);
    }
    Ok(files)
}
