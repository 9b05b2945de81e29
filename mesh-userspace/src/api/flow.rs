//! A flow: one connection, one attempt at one, or one kernel drop, as the node API and `warren flows -o json` give it.

use jiff::{SignedDuration, Timestamp};
use mesh_core::record::{self, Record};
use mesh_core::workload::Name;
use serde::{Deserialize, Serialize};

/// The object's kind.
pub(crate) const KIND: &str = "Flow";

/// One flow. What is not known is absent.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Flow {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// Unique on the node. A connection that is still open is told again under the same id when it ends.
    pub(crate) id: u64,
    pub(crate) node: String,
    /// When it began.
    pub(crate) time: Timestamp,
    pub(crate) direction: Direction,
    pub(crate) verdict: Verdict,
    /// One of a closed list per version; a reader must bear new ones.
    pub(crate) reason: String,
    pub(crate) source: End,
    pub(crate) destination: Destination,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) backend: Option<String>,
    /// The policy and rule that decided; for kernel drops, the kernel's reason.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) rule: Option<String>,
    pub(crate) transport: Transport,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) tls: Option<String>,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) duration_micros: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) connect_micros: Option<u64>,
    pub(crate) generation: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) detail: Option<String>,
}

/// Which side tells the story.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    Outbound,
    Inbound,
}

/// The answer in one word.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    Failed,
}

/// How the bytes travelled.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Transport {
    None,
    MutualTls,
    Plaintext,
    Itself,
    Kernel,
}

/// The dialling end.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct End {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) process: Option<Process>,
}

/// The dialled end.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Destination {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) identity: Option<String>,
    /// Where the application dialled.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) service: Option<String>,
    /// The application address that took the connection.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) endpoint: Option<String>,
}

/// The dialling process.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

impl Flow {
    /// When it ended, or was last heard of.
    pub(crate) fn ended_at(&self) -> Timestamp {
        let lasted =
            SignedDuration::from_micros(i64::try_from(self.duration_micros).unwrap_or(i64::MAX));
        self.time.saturating_add(lasted).unwrap_or(Timestamp::MAX)
    }

    /// Whether one of its ends, or the service that was dialled, is in a namespace.
    pub(crate) fn touches(&self, namespace: &str) -> bool {
        [
            &self.source.workload,
            &self.destination.workload,
            &self.destination.service,
        ]
        .into_iter()
        .any(|name| {
            name.as_deref()
                // Names may hold dots themselves; the namespace never does.
                .and_then(|name| name.rsplit_once('.'))
                .is_some_and(|(_, found)| found == namespace)
        })
    }

    /// Tells a record as a flow of `node`.
    pub(crate) fn from_record(record: &Record, node: &str) -> Self {
        // Every field is named, so that a new one cannot be forgotten here.
        let Record {
            id,
            direction,
            started_at,
            duration_us,
            connect_us,
            source,
            destination,
            client,
            original_destination,
            service,
            route,
            backend,
            endpoint,
            process,
            transport,
            tls,
            rule,
            reason,
            detail,
            bytes_sent,
            bytes_received,
            generation,
        } = record;
        Self {
            api_version: super::VERSION.to_owned(),
            kind: KIND.to_owned(),
            id: *id,
            node: node.to_owned(),
            time: Timestamp::try_from(*started_at).unwrap_or(Timestamp::UNIX_EPOCH),
            direction: (*direction).into(),
            verdict: reason.verdict().into(),
            reason: reason.label().to_owned(),
            source: End {
                workload: source.workload.as_ref().map(Name::to_string),
                identity: source.identity.as_ref().map(ToString::to_string),
                address: client.map(|address| address.to_string()),
                process: process.map(|process| Process {
                    pid: process.pid,
                    uid: process.uid,
                }),
            },
            destination: Destination {
                workload: destination.workload.as_ref().map(Name::to_string),
                identity: destination.identity.as_ref().map(ToString::to_string),
                address: original_destination.map(|address| address.to_string()),
                service: service.as_ref().map(Name::to_string),
                endpoint: endpoint.map(|address| address.to_string()),
            },
            route: route.clone(),
            backend: backend.clone(),
            rule: rule.clone(),
            transport: (*transport).into(),
            tls: tls.clone(),
            bytes_sent: *bytes_sent,
            bytes_received: *bytes_received,
            duration_micros: *duration_us,
            connect_micros: *connect_us,
            generation: *generation,
            detail: detail.clone(),
        }
    }
}

impl Direction {
    /// As in JSON.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl Verdict {
    /// As in JSON.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

impl Transport {
    /// As in JSON.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::MutualTls => "mutual_tls",
            Self::Plaintext => "plaintext",
            Self::Itself => "itself",
            Self::Kernel => "kernel",
        }
    }

    /// As people say it, short.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::MutualTls => "mtls",
            Self::Plaintext => "plain",
            Self::Itself => "itself",
            Self::Kernel => "kernel",
        }
    }
}

impl From<record::Direction> for Direction {
    fn from(direction: record::Direction) -> Self {
        match direction {
            record::Direction::Outbound => Self::Outbound,
            record::Direction::Inbound => Self::Inbound,
        }
    }
}

impl From<mesh_core::outcome::Verdict> for Verdict {
    fn from(verdict: mesh_core::outcome::Verdict) -> Self {
        match verdict {
            mesh_core::outcome::Verdict::Allowed => Self::Allowed,
            mesh_core::outcome::Verdict::Denied => Self::Denied,
            mesh_core::outcome::Verdict::Failed => Self::Failed,
        }
    }
}

impl From<record::Transport> for Transport {
    fn from(transport: record::Transport) -> Self {
        match transport {
            record::Transport::None => Self::None,
            record::Transport::MutualTls => Self::MutualTls,
            record::Transport::Plaintext => Self::Plaintext,
            record::Transport::Itself => Self::Itself,
            record::Transport::Kernel => Self::Kernel,
        }
    }
}
