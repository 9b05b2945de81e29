//! The values that `warren install` knows: some of the chart's, under the same names and with the same defaults. Each has a
//! kind that says what it may be, so that a mistake is told here and not by a pod that does not start.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::api::filter::nearest;
use crate::cli::args::duration;

/// The chart's own values, where the defaults are.
const DEFAULTS: &str = include_str!("../../../deploy/helm/warren/values.yaml");

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// An image's name without its tag.
    Repository,
    /// An image's tag, a digest behind it or not; empty: this version's.
    Tag,
    /// A DNS name.
    Domain,
    /// As in 30s.
    Time,
    /// A level, or levels of modules.
    Level,
    /// An absolute path.
    Path,
    /// The name of an object.
    Name,
    /// From one to 99.
    Count,
    /// true or false.
    Switch,
    /// One of these.
    Choice(&'static [&'static str]),
}

/// Every one of them. That they are those that the chart marks is tested.
pub(super) const KNOWN: &[(&str, Kind)] = &[
    ("certificateLifetime", Kind::Time),
    ("controller.podDisruptionBudget", Kind::Switch),
    ("controller.priorityClassName", Kind::Name),
    ("controller.replicas", Kind::Count),
    ("drain", Kind::Time),
    (
        "image.pullPolicy",
        Kind::Choice(&["Always", "IfNotPresent", "Never"]),
    ),
    ("image.repository", Kind::Repository),
    ("image.tag", Kind::Tag),
    ("log.format", Kind::Choice(&["text", "json"])),
    ("log.level", Kind::Level),
    ("metrics.podMonitor.enabled", Kind::Switch),
    ("metrics.podMonitor.interval", Kind::Time),
    ("metrics.prometheusRule.enabled", Kind::Switch),
    ("mtls", Kind::Choice(&["permissive", "strict"])),
    ("networkPolicy.enabled", Kind::Switch),
    ("node.legacyCapabilities", Kind::Switch),
    ("node.paths.bpf", Kind::Path),
    ("node.paths.cniBin", Kind::Path),
    ("node.paths.cniConf", Kind::Path),
    ("node.priorityClassName", Kind::Name),
    ("resourceQuota.enabled", Kind::Switch),
    ("trustDomain", Kind::Domain),
];

/// Why a value cannot be used.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("{0:?} sets nothing; write NAME=VALUE, as in image.tag=1.2")]
    NoAssignment(String),
    #[error("there is no value {name}{hint}")]
    Unknown { name: String, hint: String },
    #[error(
        "{0} is known to the Helm chart only; use `helm install` with deploy/helm/warren, or change what is printed"
    )]
    OnlyOfTheChart(String),
    #[error("{name} cannot be {value}: it is {expected}")]
    Wrong {
        name: String,
        value: String,
        expected: String,
    },
    #[error("the values cannot be read: {0}")]
    Unreadable(String),
}

/// Values, complete: what was not said has its default.
#[derive(Clone, Debug)]
pub(crate) struct Values(BTreeMap<&'static str, Value>);

impl Default for Values {
    fn default() -> Self {
        let chart = chart();
        let values = KNOWN
            .iter()
            .filter_map(|(name, _)| Some((*name, at(&chart, name)?.clone())));
        Self(
            values
                .map(|(name, value)| (name, complete(name, value)))
                .collect(),
        )
    }
}

impl Values {
    /// A value by its name.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Takes `NAME=VALUE`.
    pub(crate) fn assign(&mut self, assignment: &str) -> Result<(), ValueError> {
        let Some((name, value)) = assignment.split_once('=') else {
            return Err(ValueError::NoAssignment(assignment.to_owned()));
        };
        let value = match value {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            text => text
                .parse::<u64>()
                .map_or_else(|_not_a_number| Value::from(text), Value::from),
        };
        self.set(name, value)
    }

    /// Takes a file of values, as Helm does.
    pub(crate) fn merge(&mut self, yaml: &str) -> Result<(), ValueError> {
        let tree: Value = serde_saphyr::from_str(yaml)
            .map_err(|error| ValueError::Unreadable(error.to_string()))?;
        match &tree {
            Value::Null => Ok(()),
            Value::Object(_) => self.merge_tree("", &tree),
            other => Err(ValueError::Unreadable(format!(
                "they are not a tree of names, but {other}"
            ))),
        }
    }

    fn merge_tree(&mut self, name: &str, tree: &Value) -> Result<(), ValueError> {
        match tree {
            Value::Object(group) if !KNOWN.iter().any(|(known, _)| *known == name) => {
                for (key, value) in group {
                    let name = match name {
                        "" => key.clone(),
                        above => format!("{above}.{key}"),
                    };
                    self.merge_tree(&name, value)?;
                }
                Ok(())
            }
            value => self.set(name, value.clone()),
        }
    }

    fn set(&mut self, name: &str, value: Value) -> Result<(), ValueError> {
        let Some((name, kind)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            return Err(unknown(name));
        };
        // A tag that is all digits is a text all the same.
        let value = match (kind, value) {
            (Kind::Tag | Kind::Name | Kind::Domain, Value::Number(number)) => {
                Value::from(number.to_string())
            }
            (_, value) => value,
        };
        if !kind.fits(&value) {
            return Err(ValueError::Wrong {
                name: (*name).to_owned(),
                value: value.to_string(),
                expected: kind.words(),
            });
        }
        self.0.insert(name, complete(name, value));
        Ok(())
    }
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        if let Kind::Switch = self {
            return value.is_boolean();
        }
        if let Kind::Count = self {
            return value
                .as_u64()
                .is_some_and(|count| (1..=99).contains(&count));
        }
        let Some(text) = value.as_str() else {
            return false;
        };
        match self {
            Self::Switch | Self::Count => false,
            Self::Choice(choices) => choices.contains(&text),
            Self::Repository => is_repository(text),
            Self::Tag => text.is_empty() || is_tag(text),
            Self::Domain => is_name(text, "-._") && text.len() <= 255,
            Self::Name => is_name(text, "-.") && text.len() <= 253,
            Self::Time => {
                text.ends_with(|last: char| last.is_ascii_alphabetic()) && duration(text).is_ok()
            }
            Self::Level => {
                !text.is_empty()
                    && text
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "_:=,".contains(c))
            }
            Self::Path => is_path(text),
        }
    }

    /// What it is, as the end of a sentence.
    fn words(self) -> String {
        match self {
            Self::Repository => {
                "the name of an image without its tag, as in registry.example/mesh/warren"
            }
            Self::Tag => "the tag of an image, as in 1.2, or 1.2@sha256:…",
            Self::Domain => "a domain of lower-case letters, as in cluster.local",
            Self::Time => "a time, as in 30s, 10m or 24h",
            Self::Level => {
                "a level, as in info, or levels of modules, as in mesh_kernel=debug,info"
            }
            Self::Path => "an absolute path, as in /opt/cni/bin",
            Self::Name => "the name of an object",
            Self::Count => "a number from 1 to 99",
            Self::Switch => "true or false",
            Self::Choice(choices) => return format!("one of {}", choices.join(", ")),
        }
        .to_owned()
    }
}

/// An empty tag is this version's, as in the chart.
fn complete(name: &str, value: Value) -> Value {
    if name == "image.tag" && value == "" {
        return env!("CARGO_PKG_VERSION").into();
    }
    value
}

fn chart() -> Value {
    // It is embedded, and read in the tests.
    serde_saphyr::from_str(DEFAULTS).unwrap_or_default()
}

fn at<'v>(values: &'v Value, name: &str) -> Option<&'v Value> {
    values.pointer(&format!("/{}", name.replace('.', "/")))
}

/// What there is no value of that name, or none here.
fn unknown(name: &str) -> ValueError {
    if at(&chart(), name).is_some() {
        return ValueError::OnlyOfTheChart(name.to_owned());
    }
    let hint = nearest(name, KNOWN.iter().map(|(known, _)| *known))
        .map(|near| format!("; did you mean {near}?"))
        .unwrap_or_default();
    ValueError::Unknown {
        name: name.to_owned(),
        hint,
    }
}

fn is_name(text: &str, more: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(is_inner)
        && text.ends_with(is_inner)
        && text.chars().all(|c| is_inner(c) || more.contains(c))
}

/// Parts between slashes; the first may be a registry with its port.
fn is_repository(text: &str) -> bool {
    let (registry, rest) = match text.split_once('/') {
        Some((first, rest)) => match first.split_once(':') {
            Some((host, port)) => {
                let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                (is_port.then_some(host), rest)
            }
            None => (Some(first), rest),
        },
        None => (Some("registry"), text),
    };
    registry.is_some_and(|registry| is_name(registry, "-._"))
        && rest.split('/').all(|part| is_name(part, "-._"))
        && text.len() <= 255
}

fn is_tag(text: &str) -> bool {
    let (tag, digest) = match text.split_once('@') {
        Some((tag, digest)) => (tag, Some(digest)),
        None => (text, None),
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let fits = tag.starts_with(is_word)
        && tag.len() <= 128
        && tag.chars().all(|c| is_word(c) || c == '.' || c == '-');
    let is_digest = |digest: &str| {
        digest.strip_prefix("sha256:").is_some_and(|hex| {
            hex.len() == 64
                && hex
                    .bytes()
                    .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    fits && digest.is_none_or(is_digest)
}

fn is_path(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|path| {
        path.split('/').all(|part| {
            part.contains(|c: char| c != '.')
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        })
    })
}
