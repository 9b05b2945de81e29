//! What is said when there is no answer, or not a whole one.

use serde::{Deserialize, Serialize};

/// Stands in a flow stream where the reader was too slow.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lost {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) count: u64,
}

impl Lost {
    /// The object's kind.
    pub(crate) const KIND: &'static str = "Lost";
}

/// The answer to a request that could not be carried out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{message}")]
pub(crate) struct Problem {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) message: String,
}

impl Problem {
    /// Makes one; the message says what, why and the next step.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            api_version: crate::api::VERSION.to_owned(),
            kind: "Problem".to_owned(),
            message: message.into(),
        }
    }
}
