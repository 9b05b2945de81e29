//! Tree → raw types, through serde, without stopping at the first mistake.
//!
//! An ordinary deserializer fails at the first thing that is wrong. This one notes it and goes on: a value inside of
//! [`crate::located::At`] that cannot be read is noted and becomes `None`; a key that is unknown or comes twice is noted and skipped; a
//! key that is missing is read from nothing, so that the type says whether that may be. The raw types stay plain derived
//! types, from which the JSON Schema is derived too.

mod access;

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, Visitor};

use crate::located::AT;
use crate::mistake::{Location, Mistake, did_you_mean, quoted};
use crate::tree::{Node, Value};

use access::{Fields, Items, Keyed, Placed, Variant};

/// Reads a tree as `T`; `None` when it is something else altogether. What is wrong is added to `mistakes`.
pub(crate) fn read<T: DeserializeOwned>(root: &Node, mistakes: &mut Vec<Mistake>) -> Option<T> {
    let found = RefCell::new(Vec::new());
    let reader = Reader {
        node: Some(root),
        at: root.at,
        path: String::new(),
        required: false,
        mistakes: &found,
    };
    let result = T::deserialize(reader);
    let value = match result {
        Ok(value) => Some(value),
        Err(failure) => {
            let mistake = failure.into_mistake(root.at, "");
            found.borrow_mut().push(mistake);
            None
        }
    };
    mistakes.append(&mut found.into_inner());
    value
}

/// Why a value could not be read.
#[derive(Debug)]
enum Failure {
    /// In serde's or a type's own words; whoever catches it knows the place.
    Words(String),
    /// With its place.
    Placed(Box<Mistake>),
}

impl Failure {
    fn into_mistake(self, at: Location, path: &str) -> Mistake {
        match self {
            Self::Words(words) => {
                // A type may put what was meant behind this mark.
                let (message, suggestion) = match words.split_once(SUGGESTION) {
                    Some((message, suggestion)) => {
                        (message.to_owned(), Some(suggestion.to_owned()))
                    }
                    None => (words, None),
                };
                Mistake::error(at, path, message).suggest(suggestion)
            }
            Self::Placed(mistake) => *mistake,
        }
    }
}

/// Separates a message from the suggestion in the words of a type's failure: serde passes on only one text.
pub(crate) const SUGGESTION: &str = "\u{1f}";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Placed(mistake) => mistake.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(words: T) -> Self {
        Self::Words(words.to_string())
    }
}

/// One node, or a missing one.
struct Reader<'n> {
    node: Option<&'n Node>,
    at: Location,
    path: String,
    /// It is asked for as a value with its place: a list that is not there is a mistake then, not an empty one.
    required: bool,
    mistakes: &'n RefCell<Vec<Mistake>>,
}

impl<'n> Reader<'n> {
    fn value(&self) -> Option<&'n Value> {
        self.node.map(|node| &node.value)
    }

    fn is_absent(&self) -> bool {
        matches!(self.value(), None | Some(Value::Null))
    }

    fn child(&self, node: &'n Node, path: String) -> Self {
        Self {
            node: Some(node),
            at: node.at,
            path,
            required: false,
            mistakes: self.mistakes,
        }
    }

    fn unexpected(&self, expected: &str) -> Failure {
        let message = match self.value() {
            None => {
                let (_, key) = self.path.rsplit_once('.').unwrap_or(("", &self.path));
                format!("`{key}` is missing; expected {expected}")
            }
            Some(value) => format!("expected {expected}, found {}", value.kind()),
        };
        let suggestion = match (expected, self.value()) {
            ("text", Some(Value::Integer(_) | Value::Float(_) | Value::Bool(_))) => {
                Some("put it in quotes".to_owned())
            }
            ("a whole number", Some(Value::Text(text))) if text.parse::<i64>().is_ok() => {
                Some("leave out the quotes".to_owned())
            }
            _ => None,
        };
        let mistake = Mistake::error(self.at, self.path.as_str(), message).suggest(suggestion);
        Failure::Placed(Box::new(mistake))
    }

    fn note(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }
}

macro_rules! numbers {
    ($($method:ident)+) => { $(
        fn $method<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
            match self.value() {
                Some(Value::Integer(value)) => match i64::try_from(*value) {
                    Ok(value) => visitor.visit_i64(value),
                    Err(_) => Err(self.unexpected("a smaller number")),
                },
                _ => Err(self.unexpected("a whole number")),
            }
        }
    )+ };
}

impl<'n> Deserializer<'n> for Reader<'n> {
    type Error = Failure;

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    /// For types that take several kinds: a scalar as it is.
    fn deserialize_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.value() {
            Some(Value::Bool(value)) => visitor.visit_bool(*value),
            Some(Value::Integer(value)) => visitor.visit_i128(*value),
            Some(Value::Float(value)) => visitor.visit_f64(*value),
            Some(Value::Text(text)) => visitor.visit_str(text),
            Some(Value::List(_)) => self.deserialize_seq(visitor),
            Some(Value::Map(_)) => self.deserialize_map(visitor),
            None | Some(Value::Null) => Err(self.unexpected("a value")),
        }
    }

    fn deserialize_bool<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.value() {
            Some(Value::Bool(value)) => visitor.visit_bool(*value),
            _ => Err(self.unexpected("true or false")),
        }
    }

    fn deserialize_str<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
        match self.value() {
            Some(Value::Text(text)) => visitor.visit_str(text),
            _ => Err(self.unexpected("text")),
        }
    }

    fn deserialize_string<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
        if self.is_absent() {
            visitor.visit_none()
        } else {
            visitor.visit_some(self)
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'n>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
        let items: &[Node] = match self.value() {
            Some(Value::List(items)) => items,
            None | Some(Value::Null) if !self.required => &[],
            _ => return Err(self.unexpected("a list")),
        };
        visitor.visit_seq(Items {
            reader: self,
            items: items.iter().enumerate(),
        })
    }

    fn deserialize_tuple_struct<V: Visitor<'n>>(
        self,
        name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        if name == AT {
            visitor.visit_seq(Placed {
                reader: Some(self),
                step: 0,
            })
        } else {
            self.deserialize_seq(visitor)
        }
    }

    fn deserialize_map<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
        let entries: &[(Node, Node)] = match self.value() {
            Some(Value::Map(entries)) => entries,
            None | Some(Value::Null) => &[],
            Some(_) => return Err(self.unexpected("a map")),
        };
        let mut known: Vec<(&str, &Node, &Node)> = Vec::with_capacity(entries.len());
        let mut seen = std::collections::HashSet::new();
        for (key, value) in entries {
            let Value::Text(text) = &key.value else {
                self.note(self.child(key, self.path.clone()).not_a_key());
                continue;
            };
            if seen.insert(text.as_str()) {
                known.push((text, key, value));
            } else {
                self.note(self.twice(key, text));
            }
        }
        visitor.visit_map(Keyed {
            reader: self,
            entries: known.into_iter(),
            value: None,
        })
    }

    fn deserialize_struct<V: Visitor<'n>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let Some(Value::Map(entries)) = self.value() else {
            let keys = fields.join(", ");
            return Err(self.unexpected(&format!("a map with keys of {keys}")));
        };
        let mut values: Vec<Option<&Node>> = vec![None; fields.len()];
        for (key, value) in entries {
            let Value::Text(text) = &key.value else {
                self.note(self.child(key, self.path.clone()).not_a_key());
                continue;
            };
            match fields.iter().position(|field| field == text) {
                None => self.note(self.unknown(key, text, fields)),
                Some(index) => match values.get_mut(index) {
                    Some(slot @ None) => *slot = Some(value),
                    _ => self.note(self.twice(key, text)),
                },
            }
        }
        visitor.visit_map(Fields {
            reader: self,
            fields: fields.iter().zip(values),
            value: None,
        })
    }

    fn deserialize_enum<V: Visitor<'n>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        let one_of = variants.join(" or ");
        match self.value() {
            Some(Value::Text(text)) if variants.contains(&text.as_str()) => {
                visitor.visit_enum(Variant(text))
            }
            Some(Value::Text(text)) => Err(Failure::Placed(Box::new(
                Mistake::error(
                    self.at,
                    self.path.as_str(),
                    format!("expected {one_of}, found {}", quoted(text)),
                )
                .suggest(did_you_mean(text, variants.iter().copied())),
            ))),
            _ => Err(self.unexpected(&one_of)),
        }
    }

    fn deserialize_identifier<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        <W: Visitor<'n>>
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
    }
}

impl Reader<'_> {
    fn not_a_key(&self) -> Mistake {
        let kind = self.value().map(Value::kind).unwrap_or_default();
        Mistake::error(
            self.at,
            self.path.as_str(),
            format!("a key is text, not {kind}"),
        )
    }

    fn twice(&self, key: &Node, text: &str) -> Mistake {
        Mistake::error(
            key.at,
            join(&self.path, text),
            format!("{} is given twice", quoted(text)),
        )
    }

    fn unknown(&self, key: &Node, text: &str, fields: &[&'static str]) -> Mistake {
        let suggestion = did_you_mean(text, fields.iter().copied())
            .unwrap_or_else(|| format!("the keys here are {}", fields.join(", ")));
        Mistake::error(
            key.at,
            join(&self.path, text),
            format!("unknown key {}", quoted(text)),
        )
        .suggest(Some(suggestion))
    }
}

/// A path with one more key. A key that is not a plain word is quoted, so that the path stays readable and harmless.
fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key.len() <= 64
        && key.chars().all(|character| {
            character.is_ascii_alphanumeric() || character == '-' || character == '_'
        });
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{}]", quoted(key)),
    }
}
