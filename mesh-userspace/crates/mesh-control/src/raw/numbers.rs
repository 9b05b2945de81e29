//! Numbers and lengths of time: what one of them can say about itself.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

use super::values::Refusal;
use crate::duration;
use crate::mistake::quoted;

macro_rules! number_value {
    ($(#[$doc:meta])+ $name:ident($inner:ty), $from:literal..=$to:literal, $what:literal) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = i64::deserialize(deserializer)?;
                match <$inner>::try_from(number) {
                    Ok(value) if ($from..=$to).contains(&value) => Ok(Self(value)),
                    _ => Err(D::Error::custom(format!(
                        concat!($what, " is a number from ", $from, " to ", $to, ", not {}"),
                        number
                    ))),
                }
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "integer", "minimum": $from, "maximum": $to})
            }
        }
    };
}

number_value! {
    /// A TCP port.
    Port(u16), 1..=65535, "a port"
}
number_value! {
    /// A share.
    Weight(u32), 0..=1000000, "a weight"
}

/// A length of time with its unit, e.g. `30s`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DurationText(pub Duration);

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = DurationText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration, e.g. 30s")
            }

            fn visit_i128<E: Error>(self, number: i128) -> Result<DurationText, E> {
                let refusal = Refusal::new(format!("the duration {number} has no unit"));
                let meant = (0..=86_400).contains(&number).then(|| format!("{number}s"));
                Err(refusal.meant(meant).into_error())
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<DurationText, E> {
                duration::parse(text).map(DurationText).map_err(|unit| {
                    let meant = unit.and_then(|unit| duration::respelled(text, &unit));
                    Refusal::new(format!(
                        "{} is not a duration; write a number with a unit (ms, s, m, h, d), e.g. 30s or 1h30m",
                        quoted(text)
                    ))
                    .meant(meant)
                    .into_error()
                })
            }
        }

        deserializer.deserialize_any(Text)
    }
}

impl JsonSchema for DurationText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"})
    }
}
