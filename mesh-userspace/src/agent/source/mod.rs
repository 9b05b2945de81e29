//! Where the configuration comes from: a file (`file`), or the controller of a cluster ([`controller`]). Either way what
//! comes out is a [`Configuration`](super::config::Configuration) and its [`Change`]s.

use super::config::Change;

pub(crate) mod controller;
pub(crate) mod file;

/// A source that is being watched.
#[derive(Debug)]
pub(crate) enum Source {
    File(file::Watched),
    Controller(controller::Followed),
}

impl Source {
    /// The next change; never ends while the source is held. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Change> {
        match self {
            Self::File(watched) => watched.next().await,
            Self::Controller(followed) => followed.next().await,
        }
    }
}
