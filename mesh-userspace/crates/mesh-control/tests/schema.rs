//! The JSON Schema says what the reader does: a small validator of just the words that the schema uses asks it about the
//! example, and about files that the reader refuses.

use std::path::Path;

use serde_json::Value;

/// Why a value is not what the schema says, or nothing. Words that are not known here fail, so that none is overlooked.
fn refuse(root: &Value, schema: &Value, value: &Value, path: &str) -> Option<String> {
    let Value::Object(words) = schema else {
        return (schema != &Value::Bool(true)).then(|| format!("{path}: nothing is allowed"));
    };
    for (word, says) in words {
        let refusal = match word.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "format" | "examples"
            | "pattern" | "maxLength" => None,
            "$ref" => {
                let name = says.as_str().expect("text").trim_start_matches("#/$defs/");
                refuse(root, &root["$defs"][name], value, path)
            }
            "anyOf" | "oneOf" => {
                let mut refusals = says
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|schema| refuse(root, schema, value, path));
                refusals
                    .all(|refusal| refusal.is_some())
                    .then(|| format!("{path}: none of {says}"))
            }
            "const" => (says != value).then(|| format!("{path}: not {says}")),
            "enum" => (!says.as_array().expect("a list").contains(value))
                .then(|| format!("{path}: not one of {says}")),
            "type" => wrong_type(says, value).then(|| format!("{path}: not {says}")),
            "minimum" => (value.is_i64() && value.as_i64() < says.as_i64())
                .then(|| format!("{path}: below {says}")),
            "maximum" => (value.as_i64() > says.as_i64()).then(|| format!("{path}: above {says}")),
            "required" => {
                let keys = says.as_array().expect("a list");
                let missing = keys
                    .iter()
                    .find(|key| value.get(key.as_str().expect("text")).is_none());
                missing.map(|key| format!("{path}: {key} is missing"))
            }
            "items" => value
                .as_array()
                .into_iter()
                .flatten()
                .enumerate()
                .find_map(|(index, item)| refuse(root, says, item, &format!("{path}[{index}]"))),
            "properties" => value
                .as_object()
                .into_iter()
                .flatten()
                .find_map(|(key, item)| {
                    refuse(root, says.get(key)?, item, &format!("{path}.{key}"))
                }),
            "additionalProperties" => {
                value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .find_map(|(key, item)| {
                        let known = words
                            .get("properties")
                            .is_some_and(|known| known.get(key).is_some());
                        if known {
                            None
                        } else {
                            refuse(root, says, item, &format!("{path}.{key}"))
                        }
                    })
            }
            other => panic!("the schema has the word {other}, which this test does not know"),
        };
        if refusal.is_some() {
            return refusal;
        }
    }
    None
}

fn wrong_type(says: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    };
    match says {
        Value::Array(names) => !names.iter().any(is),
        name => !is(name),
    }
}

fn asked(text: &str) -> Option<String> {
    let value: Value = serde_saphyr::from_str(text).expect("YAML");
    let schema = mesh_control::schema();
    refuse(&schema, &schema, &value, "")
}

#[test]
fn the_example_is_as_the_schema_says() {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deploy/examples/two-nodes.yaml");
    let text = std::fs::read_to_string(file).expect("the example");
    assert_eq!(asked(&text), None);
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let head = "apiVersion: warren.dev/v1alpha1\n";
    for (text, refusal) in [
        ("{}", "\"apiVersion\" is missing"),
        ("apiVersion: warren.dev/v2", "not \"warren.dev/v1alpha1\""),
        ("polices: []", "nothing is allowed"),
        ("policies: deny", "not \"array\""),
        ("node: {nmae: a}", "none of"),
        ("workloads: [{node: b}]", "\"name\" is missing"),
        ("workloads: [{name: a, labels: {app: 5}}]", "not \"string\""),
        ("workloads: [{name: a, ports: [0]}]", "below 1"),
        ("workloads: [{name: a, ports: [65536]}]", "above 65535"),
        ("services: [{name: a}]", "\"ports\" is missing"),
        (
            "services: [{name: a, ports: [{port: http}]}]",
            "not \"integer\"",
        ),
        (
            "routes: [{name: a, service: a, rules: [{}]}]",
            "\"backends\" is missing",
        ),
        (
            "policies: [{name: a, rules: [{action: permit}]}]",
            "none of",
        ),
        (
            "policies: [{name: a, rules: [{action: allow, form: []}]}]",
            "nothing is allowed",
        ),
    ] {
        let text = if text.contains("apiVersion") || text == "{}" {
            text.to_owned()
        } else {
            format!("{head}{text}\n")
        };
        let told = asked(&text).unwrap_or_default();
        assert!(told.contains(refusal), "{text}: {told:?}");
    }
}
