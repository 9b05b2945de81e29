//! Flow queries as a URL has them: `?verdict=denied&to=svc/web&not-from=ns/ops&last=20&since=…&watch=true`. People write
//! them by hand too, with `kubectl get --raw`, so a mistake is named rather than overlooked.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::filter::{Field, Filter, InvalidNoun, Term, nearest};
use super::objects::FlowQuery;

/// Fields as they are called in URLs and on the command line.
const FIELDS: &[(&str, Field)] = &[
    ("from", Field::From),
    ("to", Field::To),
    ("ns", Field::Namespace),
    ("workload", Field::Workload),
    ("service", Field::Service),
    ("verdict", Field::Verdict),
    ("reason", Field::Reason),
    ("direction", Field::Direction),
    ("transport", Field::Transport),
    ("port", Field::Port),
];

/// What the API server and its clients add to any request; it says nothing about flows.
const IGNORED: &[&str] = &["timeout", "timeoutSeconds", "pretty"];

/// Why a URL's query is not understood.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum InvalidQuery {
    #[error(
        "there is no parameter {name:?}{hint}; there are last, since, watch and the filters {}",
        filters()
    )]
    Unknown { name: String, hint: String },
    #[error("{name}={value:?} is not understood: {why}")]
    Value {
        name: String,
        value: String,
        why: String,
    },
}

fn filters() -> String {
    let names: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    format!("{} (each also as not-…)", names.join(", "))
}

impl FlowQuery {
    /// As the query of a URL.
    pub(crate) fn to_url(&self) -> String {
        let mut url = Vec::new();
        for term in &self.filter.terms {
            let name = FIELDS
                .iter()
                .find(|(_, field)| *field == term.field)
                .map_or("", |(name, _)| name);
            let not = if term.negated { "not-" } else { "" };
            url.push(format!("{not}{name}={}", escaped(&term.value)));
        }
        if let Some(last) = self.last {
            url.push(format!("last={last}"));
        }
        if let Some(since) = self.since {
            url.push(format!("since={}", escaped(&since.to_string())));
        }
        if self.follow {
            url.push("watch=true".to_owned());
        }
        url.join("&")
    }

    /// Reads what [`Self::to_url`] or a person wrote; `pairs` are unescaped.
    ///
    /// # Errors
    /// Says which parameter is wrong, and how.
    pub(crate) fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidQuery> {
        let mut query = Self::default();
        let mut terms = Vec::new();
        for (name, value) in pairs {
            let invalid = |why: String| InvalidQuery::Value {
                name: name.to_owned(),
                value: value.to_owned(),
                why,
            };
            match name {
                "last" => {
                    let last = value.parse().map_err(|_wrong| {
                        invalid("it is the number of flows of the past that are wanted".to_owned())
                    })?;
                    query.last = Some(last);
                }
                "since" => {
                    let since: Timestamp = value.parse().map_err(|_wrong| {
                        invalid("it is a moment, as in 2026-01-31T12:00:00Z".to_owned())
                    })?;
                    query.since = Some(since);
                }
                "watch" => {
                    query.follow = match value {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(invalid("it is true or false".to_owned())),
                    };
                }
                name if IGNORED.contains(&name) => {}
                _ => terms.push(term(name, value)?),
            }
        }
        query.filter = Filter { terms };
        Ok(query)
    }
}

fn term(name: &str, value: &str) -> Result<Term, InvalidQuery> {
    let (bare, negated) = match name.strip_prefix("not-") {
        Some(bare) => (bare, true),
        None => (name, false),
    };
    let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == bare) else {
        let known = FIELDS.iter().map(|(known, _)| *known);
        let known = known.chain(["last", "since", "watch"]);
        return Err(InvalidQuery::Unknown {
            name: name.to_owned(),
            hint: nearest(bare, known)
                .map(|near| format!("; did you mean {near}?"))
                .unwrap_or_default(),
        });
    };
    Term::new(*field, value, negated).map_err(|InvalidNoun { text, why }| InvalidQuery::Value {
        name: name.to_owned(),
        value: text,
        why,
    })
}

/// As part of a URL's query (RFC 3986 §2.3: everything but the unreserved set).
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => {
                // Writing into a String cannot fail.
                write!(escaped, "%{byte:02X}").ok();
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
