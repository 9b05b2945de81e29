//! What changes in the objects when a switch is turned, or for an older Kubernetes. Found by `cargo xtask manifests`.

use serde::Deserialize;
use serde_json::Value;

use super::Objects;

/// Something that makes the objects differ.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Variant {
    pub(super) when: When,
    pub(super) changes: Vec<Change>,
}

/// What it depends on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum When {
    /// Kubernetes 1.x is older than this x.
    KubernetesBefore(u32),
    /// This value is this.
    Value { name: String, is: Value },
}

/// One difference.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// `Kind/name`.
    object: String,
    /// A JSON pointer into it; none: the object as a whole.
    #[serde(default)]
    at: Option<String>,
    /// What is there now; none: it goes.
    #[serde(default)]
    value: Option<Value>,
}

/// Whether a change is an object more.
pub(super) fn adds_object(change: &Change) -> bool {
    change.at.is_none() && change.value.is_some()
}

/// Applies changes. Those of an object that another change has removed have nothing to do.
pub(super) fn apply(objects: &mut Objects, changes: Vec<Change>) {
    for Change { object, at, value } in changes {
        match (at, value) {
            (None, Some(value)) => {
                objects.insert(object, value);
            }
            (None, None) => {
                objects.remove(&object);
            }
            (Some(at), value) => {
                if let Some(object) = objects.get_mut(&object) {
                    set(object, &at, value);
                }
            }
        }
    }
}

fn set(object: &mut Value, at: &str, value: Option<Value>) {
    let Some((above, key)) = at.rsplit_once('/') else {
        return;
    };
    let key = key.replace("~1", "/").replace("~0", "~");
    match (object.pointer_mut(above), value) {
        (Some(Value::Object(map)), Some(value)) => {
            map.insert(key, value);
        }
        (Some(Value::Object(map)), None) => {
            map.remove(&key);
        }
        (Some(Value::Array(items)), Some(value)) => {
            if let Some(item) = key
                .parse()
                .ok()
                .and_then(|index: usize| items.get_mut(index))
            {
                *item = value;
            }
        }
        _ => {}
    }
}
