//! The values of the chart that `warren install` knows: those that values.yaml marks with "(install)".

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

/// The mark, at the end of a value's comment.
const MARK: &str = "(install)";

/// A value that is marked.
#[derive(Debug, PartialEq)]
pub(super) struct Known {
    /// `node.paths.bpf`.
    pub(super) name: String,
    pub(super) default: Value,
}

impl Known {
    /// Whether it turns something on or off, rather than being written somewhere.
    pub(super) fn is_switch(&self) -> bool {
        self.default.is_boolean()
    }

    /// The other position of a switch.
    pub(super) fn turned(&self) -> Option<Value> {
        self.default.as_bool().map(|on| Value::Bool(!on))
    }
}

/// Reads them.
pub(super) fn known(file: &Path) -> Result<Vec<Known>> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let values: Value =
        serde_saphyr::from_str(&text).with_context(|| format!("read {}", file.display()))?;
    let mut known = Vec::new();
    for name in marked(&text) {
        let Some(default) = values.pointer(&format!("/{}", name.replace('.', "/"))) else {
            bail!("{}: {name} is marked, but not there", file.display());
        };
        known.extend(leaves(&name, default));
    }
    Ok(known)
}

/// A mark above a group is one of everything in it.
fn leaves(name: &str, default: &Value) -> Vec<Known> {
    match default {
        Value::Object(group) => group
            .iter()
            .flat_map(|(key, value)| leaves(&format!("{name}.{key}"), value))
            .collect(),
        _ => vec![Known {
            name: name.to_owned(),
            default: default.clone(),
        }],
    }
}

/// The names of keys under comments that end in the mark.
fn marked(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut is_marked = false;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        if line.starts_with('#') {
            is_marked = line.ends_with(MARK);
            continue;
        }
        let Some((key, _)) = line.split_once(':').filter(|_| !line.starts_with('-')) else {
            is_marked = false;
            continue;
        };
        path.retain(|(depth, _)| *depth < indent);
        path.push((indent, key));
        if is_marked {
            let names_of_path: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
            names.push(names_of_path.join("."));
        }
        is_marked = false;
    }
    names
}

/// Sets a value by its name.
pub(super) fn set(values: &mut Value, name: &str, value: Value) {
    let mut place = values;
    for key in name.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[key];
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marks_are_found_wherever_they_are() {
        let text = "\
# About a. (install)
a:
  # No mark.
  b: 1
c:
  # Long
  # comment. (install)
  d: x
  e:
    - f: 1
  # (install)
  g: true
";
        assert_eq!(marked(text), ["a", "c.d", "c.g"]);
    }

    #[test]
    fn values_are_set_by_name() {
        let mut values = json!({"a": {"b": 1}});
        set(&mut values, "a.c.d", json!(2));
        assert_eq!(values, json!({"a": {"b": 1, "c": {"d": 2}}}));
    }
}
