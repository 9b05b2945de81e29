//! YAML text → a tree that remembers where each value stands. It knows YAML and its limits; it knows no key of the
//! configuration.
//!
//! Limits are counted while parsing, before anything is built: depth, number of values, and what aliases expand to. A
//! file that was made to exhaust memory is refused after a small part of it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Options, Spanned};

use crate::mistake::{Location, Mistake};

/// Nesting of lists and maps. The deepest legal value of the configuration is at 9.
const MOST_DEPTH: usize = 32;

/// Values of all kinds. Ten thousand workloads with everything set have about 400,000.
const MOST_VALUES: usize = 2_000_000;

/// Values that aliases may stand for in sum: enough for shared labels and ports, too few to be a bomb.
const MOST_ALIASED: usize = 10_000;

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: Location,
}

/// What YAML can say.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the text; a key may come twice.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// What it is, for a person.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("the truth value {value}"),
            Self::Integer(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(value) => format!("the text {}", crate::mistake::quoted(value)),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a map".to_owned(),
        }
    }
}

/// Parses one document.
pub(crate) fn parse(text: &str) -> Result<Node, Mistake> {
    let node: Spanned<Value> =
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
            let at = error.location().map_or(Location::START, location);
            let error = error.without_snippet();
            let message = error.to_string();
            // The parser ends its words with the place, which is told beside them.
            let message = message.split(" at line ").next().unwrap_or(&message);
            let message = message.lines().next().unwrap_or_default();
            Mistake::error(at, "", in_our_words(message))
        })?;
    Ok(located(node))
}

fn in_our_words(message: &str) -> String {
    match message.strip_prefix("budget breached: ") {
        Some(what) if what.starts_with("Documents") => {
            "the file has several documents; only one is read".to_owned()
        }
        Some(what) => format!(
            "the file is beyond a limit: {}",
            crate::mistake::escaped(what)
        ),
        None => format!(
            "this is not YAML that can be read: {}",
            crate::mistake::escaped(message)
        ),
    }
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MOST_DEPTH,
            flow_nesting_limit: MOST_DEPTH,
            max_nodes: MOST_VALUES,
            max_events: MOST_VALUES * 2,
            max_aliases: 10_000,
            max_anchors: 10_000,
            max_documents: 1,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MOST_ALIASED,
        },
        // Duplicates are found later, so that they reject their object only.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn location(location: serde_saphyr::Location) -> Location {
    Location {
        line: u32::try_from(location.line()).unwrap_or(u32::MAX).max(1),
        column: u32::try_from(location.column()).unwrap_or(u32::MAX).max(1),
        length: u32::try_from(location.span().len()).unwrap_or(1).max(1),
    }
}

fn located(node: Spanned<Value>) -> Node {
    Node {
        at: location(node.referenced),
        value: node.value,
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Float(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Value>>()? {
            list.push(located(item));
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Spanned<Value>, Spanned<Value>>()? {
            map.push((located(key), located(value)));
        }
        Ok(Value::Map(map))
    }
}
