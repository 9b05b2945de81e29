//! What differs between two renderings of the chart, as the binary can apply it.

use serde::Serialize;
use serde_json::Value;

use super::chart::Objects;

/// One difference.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Change {
    /// `Kind/name`.
    object: String,
    /// A JSON pointer into it; none: the object as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// What is there now; none: it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
}

/// Everything that makes `before` into `after`.
pub(super) fn changes(before: &Objects, after: &Objects) -> Vec<Change> {
    let mut changes = Vec::new();
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    changes.extend(gone.map(|name| Change {
        object: name.clone(),
        at: None,
        value: None,
    }));
    for (name, object) in after {
        match before.get(name) {
            None => changes.push(Change {
                object: name.clone(),
                at: None,
                value: Some(object.clone()),
            }),
            Some(earlier) => compare(name, "", earlier, object, &mut changes),
        }
    }
    changes
}

/// Maps are compared key by key; anything else is replaced whole.
fn compare(object: &str, at: &str, before: &Value, after: &Value, changes: &mut Vec<Change>) {
    let mut differ = |at: String, value: Option<&Value>| {
        changes.push(Change {
            object: object.to_owned(),
            at: Some(at),
            value: value.cloned(),
        });
    };
    let (Value::Object(earlier), Value::Object(later)) = (before, after) else {
        match (before, after) {
            // A list of one, such as the containers of a pod, is looked into.
            (Value::Array(earlier), Value::Array(later))
                if earlier.len() == 1 && later.len() == 1 =>
            {
                compare(object, &format!("{at}/0"), &earlier[0], &later[0], changes);
            }
            _ if before == after => {}
            _ => differ(at.to_owned(), Some(after)),
        }
        return;
    };
    for key in earlier.keys().filter(|key| !later.contains_key(*key)) {
        differ(below(at, key), None);
    }
    for (key, value) in later {
        match earlier.get(key) {
            None => changes.push(Change {
                object: object.to_owned(),
                at: Some(below(at, key)),
                value: Some(value.clone()),
            }),
            Some(earlier) => compare(object, &below(at, key), earlier, value, changes),
        }
    }
}

/// RFC 6901.
fn below(at: &str, key: &str) -> String {
    format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_found_where_they_are() {
        let objects = |values: &[(&str, Value)]| -> Objects {
            let pairs = values.iter().cloned();
            pairs
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        };
        let before = objects(&[
            (
                "A/a",
                json!({"x": {"y/z": 1, "same": 1, "gone": 1}, "list": [{"k": 1}], "many": [1, 2]}),
            ),
            ("B/b", json!({})),
        ]);
        let after = objects(&[
            (
                "A/a",
                json!({"x": {"y/z": 2, "same": 1}, "list": [{"k": 1, "new": 2}], "many": [1]}),
            ),
            ("C/c", json!({"c": 1})),
        ]);
        let change = |object: &str, at: Option<&str>, value: Option<Value>| Change {
            object: object.to_owned(),
            at: at.map(str::to_owned),
            value,
        };
        assert_eq!(
            changes(&before, &after),
            [
                change("B/b", None, None),
                change("A/a", Some("/list/0/new"), Some(json!(2))),
                change("A/a", Some("/many"), Some(json!([1]))),
                change("A/a", Some("/x/gone"), None),
                change("A/a", Some("/x/y~1z"), Some(json!(2))),
                change("C/c", None, Some(json!({"c": 1}))),
            ]
        );
        assert_eq!(changes(&before, &before), []);
    }
}
