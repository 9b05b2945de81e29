//! Drops and refusals, from the ring buffer.

use crate::types::Drop;

/// Drops and refusals as they happen.
#[derive(Debug)]
pub struct EventStream {
    _private: (),
}

impl EventStream {
    /// The next ones: waits until there is at least one. Cancel-safe.
    pub async fn next(&mut self) -> std::io::Result<Vec<Drop>> {
        std::future::pending().await
    }
}
