//! The node's side: what it was told, for as long as it wants to know, from whichever controller answers.
//!
//! ```text
//! cache on disk ─▶ Known ◀─ connection after connection: hello (hashes) → deltas → acknowledged
//! ```
//!
//! What is known stays when the controller goes away, and on disk when the node goes away too.

mod answering;
mod backoff;
mod cache;
mod calls;
mod connect;
mod facts;
mod following;
mod outbox;
mod subscription;

pub use calls::{CallError, Certified, Signing, enrol};
pub use connect::{ClientTls, TlsConnect};
pub use facts::Facts;
pub use subscription::{Options, Subscription};

pub use crate::channel::{Connect, Connection, Io};

use std::sync::Arc;
use std::time::SystemTime;

/// What a node knows at one moment. Clones are cheap.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The facts. Empty before anything was ever told.
    pub facts: Arc<Facts>,
    /// Grows by one with every change of the facts.
    pub revision: u64,
    /// The generation of the hub of this connection that the facts are of; `None` before it told the first.
    pub generation: Option<u64>,
    /// PEM of all roots, as the controller last said.
    pub bundle: Option<Arc<str>>,
    /// How it stands with the controller.
    pub link: Link,
    /// When the facts were written to the disk from which they come; `None` when a controller told them.
    pub cached: Option<SystemTime>,
    /// What is wrong with what is known, for people.
    pub problems: Arc<[String]>,
}

/// How it stands with the controller.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Link {
    /// Not tried yet.
    #[default]
    None,
    /// Connected, and everything is known that this controller knows.
    Current {
        /// Since when.
        since: SystemTime,
        /// To whom.
        controller: String,
    },
    /// Connected, and being told what is new.
    CatchingUp {
        /// Since when.
        since: SystemTime,
        /// To whom.
        controller: String,
    },
    /// Not connected.
    Broken {
        /// Since when.
        since: SystemTime,
        /// Why, for people.
        why: String,
    },
}

impl Known {
    /// Whether anything was ever told, by a controller or from disk.
    pub fn is_something(&self) -> bool {
        !self.facts.is_empty()
    }
}
