//! What is to be said about an object: what became of it, as data. How that is written, and what nodes have to do with it,
//! is [`crate::status`]'s.

use std::collections::BTreeMap;
use std::fmt;

use mesh_core::workload::Name;

use crate::observe::RouteKey;

/// An object with a status of ours.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum ObjectKey {
    AuthorizationPolicy(Name),
    MeshPolicy(Name),
    Route(RouteKey),
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AuthorizationPolicy(name) => write!(f, "AuthorizationPolicy {name}"),
            Self::MeshPolicy(name) => write!(f, "MeshPolicy {name}"),
            Self::Route(RouteKey { kind, name }) => write!(f, "{} {name}", kind.kind()),
        }
    }
}

/// What is to be said about an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// By the position of the parent in a route; a policy has one, at 0.
    pub(crate) parents: BTreeMap<usize, Verdict>,
    /// The update that told the nodes.
    pub(crate) sequence: u64,
}

/// What became of an object, or of a route as far as one parent goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// The generation of the object that was judged.
    pub(crate) generation: i64,
    /// Whether it can be applied as it is.
    pub(crate) accepted: Outcome,
    /// Whether all that it refers to is there and may be referred to.
    pub(crate) resolved: Outcome,
    /// Whether all of it is told to the nodes.
    pub(crate) programmable: Programmable,
}

/// Yes or no, with a word and a sentence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) good: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Outcome {
    pub(crate) fn good(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            good: true,
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn bad(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            good: false,
            ..Self::good(reason, message)
        }
    }

    pub(crate) fn accepted() -> Self {
        Self::good("Accepted", "")
    }

    pub(crate) fn resolved() -> Self {
        Self::good("ResolvedRefs", "")
    }
}

/// What the nodes can be told of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Programmable {
    /// All of it.
    Whole {
        /// What a person should know nevertheless.
        note: String,
    },
    /// Not all of it, and what not.
    NotAll {
        reason: &'static str,
        message: String,
    },
}
