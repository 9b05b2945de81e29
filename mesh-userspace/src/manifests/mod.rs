//! The objects of an installation in a cluster, as `warren install` prints them and as an uninstall finds them again.
//!
//! They are the Helm chart's: `cargo xtask manifests` renders it, and what comes out is embedded here. So this module knows no
//! object. It fills in values ([`values`]) where the rendering has holes, and applies the differences that switches and
//! older versions of Kubernetes make (`variants`).

mod values;
mod variants;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

pub(crate) use values::{ValueError, Values};
use variants::{Variant, When};

/// The chart, rendered with holes.
const SKELETON: &str = include_str!("../../../deploy/manifests/warren.yaml");

/// What else there is in the chart, and what it depends on.
const VARIANTS: &str = include_str!("../../../deploy/manifests/variants.yaml");

/// The namespace of the mesh itself, unless another one is asked for.
pub(crate) const NAMESPACE: &str = mesh_kubernetes::names::SYSTEM_NAMESPACE;

/// The versions 1.x of Kubernetes that the objects are for.
pub(crate) const OLDEST_KUBERNETES: u32 = 20;
pub(crate) const NEWEST_KUBERNETES: u32 = 37;

/// Objects by `Kind/name`.
type Objects = BTreeMap<String, Value>;

/// What is embedded does not fit together: `cargo xtask check` and the tests rule it out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("the embedded manifests cannot be read")]
    Unreadable(#[from] serde_saphyr::Error),
    #[error("the embedded manifests have a hole ${{{name}}} that nothing fills")]
    Unfilled { name: String },
}

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Installation {
    /// The namespace of the mesh itself.
    pub(crate) namespace: String,
    /// Kubernetes 1.x.
    pub(crate) kubernetes: u32,
    pub(crate) values: Values,
}

impl Installation {
    /// Its objects, in an order in which they can be made.
    pub(crate) fn objects(&self) -> Result<Vec<Value>, ManifestError> {
        let mut objects = skeleton()?;
        for variant in variants()? {
            if self.has(&variant.when) {
                variants::apply(&mut objects, variant.changes);
            }
        }
        let mut objects: Vec<Value> = objects.into_values().collect();
        for object in &mut objects {
            self.fill(object)?;
        }
        objects.sort_by_key(|object| rank(kind(object)));
        Ok(objects)
    }

    fn has(&self, when: &When) -> bool {
        match when {
            When::KubernetesBefore(minor) => self.kubernetes < *minor,
            When::Value { name, is } => self.values.get(name) == Some(is),
        }
    }

    /// Puts values into every hole of an object.
    fn fill(&self, object: &mut Value) -> Result<(), ManifestError> {
        match object {
            Value::String(text) => *object = self.filled(text)?,
            Value::Array(items) => {
                for item in items {
                    self.fill(item)?;
                }
            }
            Value::Object(map) => {
                for value in map.values_mut() {
                    self.fill(value)?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        Ok(())
    }

    /// A text with its holes filled. One that is nothing but a hole takes the value as it is, so that a number stays one.
    fn filled(&self, text: &str) -> Result<Value, ManifestError> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, hole)) = rest.split_once("${") {
            let Some((name, after)) = hole.split_once('}') else {
                break;
            };
            let value = self.value(name)?;
            if before.is_empty() && after.is_empty() && filled.is_empty() {
                return Ok(value);
            }
            filled.push_str(before);
            match &value {
                Value::String(value) => filled.push_str(value),
                other => filled.push_str(&other.to_string()),
            }
            rest = after;
        }
        filled.push_str(rest);
        Ok(Value::String(filled))
    }

    fn value(&self, name: &str) -> Result<Value, ManifestError> {
        if name == "namespace" {
            return Ok(self.namespace.clone().into());
        }
        let value = self.values.get(name);
        value.cloned().ok_or_else(|| ManifestError::Unfilled {
            name: name.to_owned(),
        })
    }
}

/// Every object that any installation in this namespace may have, so that none is forgotten when it is removed.
pub(crate) fn every_object(namespace: &str) -> Result<Vec<Value>, ManifestError> {
    let mut objects = skeleton()?;
    for variant in variants()? {
        let added = variant.changes.into_iter().filter(variants::adds_object);
        variants::apply(&mut objects, added.collect());
    }
    let installation = Installation {
        namespace: namespace.to_owned(),
        kubernetes: NEWEST_KUBERNETES,
        values: Values::default(),
    };
    let mut objects: Vec<Value> = objects.into_values().collect();
    for object in &mut objects {
        installation.fill(object)?;
    }
    objects.sort_by_key(|object| rank(kind(object)));
    Ok(objects)
}

fn skeleton() -> Result<Objects, ManifestError> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(SKELETON)?;
    Ok(objects
        .into_iter()
        .filter(|object| !object.is_null())
        .map(|object| (format!("{}/{}", kind(&object), name(&object)), object))
        .collect())
}

fn variants() -> Result<Vec<Variant>, ManifestError> {
    Ok(serde_saphyr::from_str(VARIANTS)?)
}

/// An object's kind.
pub(crate) fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap_or_default()
}

/// An object's name.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// What others need comes before them; the API that the API server asks the controller for, last.
fn rank(kind: &str) -> usize {
    const ORDER: [&str; 8] = [
        "Namespace",
        "ResourceQuota",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
        "Service",
    ];
    let last = if kind == "APIService" { 2 } else { 1 };
    ORDER
        .iter()
        .position(|ordered| *ordered == kind)
        .unwrap_or(ORDER.len() + last)
}
