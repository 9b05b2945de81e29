//! The chart's values: as they come, and the files in which the tests choose others.

use std::fs;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use super::{file, yaml};

/// The folder of files of values.
const FOLDER: &str = "deploy/helm/warren/ci";

/// One file of values.
pub struct ValueFile {
    /// Its path in the repository.
    pub path: String,
    /// What is in it.
    pub values: Value,
}

/// All of them, sorted by name.
pub fn value_files() -> Result<Vec<ValueFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(file(FOLDER)).with_context(|| format!("read {FOLDER}"))? {
        let name = entry.with_context(|| format!("read {FOLDER}"))?.file_name();
        let path = format!("{FOLDER}/{}", name.to_string_lossy());
        let values = match yaml(&path)? {
            Value::Null => Value::Object(Map::new()),
            values => values,
        };
        files.push(ValueFile { path, values });
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

/// The names of the values in a tree. Where `known` has a group, it is looked into; where it has a map without keys, a list or
/// anything else, that is one value.
pub fn leaves(known: &Value) -> Vec<String> {
    let mut names = Vec::new();
    collect("", known, &mut names);
    names
}

fn collect(name: &str, value: &Value, names: &mut Vec<String>) {
    match value {
        // Selectors and resources are values of their own: their keys are the user's.
        Value::Object(group)
            if !group.is_empty()
                && !name.ends_with("nodeSelector")
                && !name.ends_with("resources") =>
        {
            for (key, value) in group {
                let name = match name {
                    "" => key.clone(),
                    above => format!("{above}.{key}"),
                };
                collect(&name, value, names);
            }
        }
        _ => names.push(name.to_owned()),
    }
}

/// Sets a value by its name.
pub fn set(values: &mut Value, name: &str, value: Value) {
    let mut place = values;
    for key in name.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[key];
    }
    *place = value;
}

/// The values without one of them; none when it is not among them.
pub fn without(values: &Value, name: &str) -> Option<Value> {
    let (above, key) = match name.rsplit_once('.') {
        Some((above, key)) => (format!("/{}", above.replace('.', "/")), key),
        None => (String::new(), name),
    };
    let mut values = values.clone();
    values
        .pointer_mut(&above)?
        .as_object_mut()?
        .remove(key)
        .map(|_| values)
}
