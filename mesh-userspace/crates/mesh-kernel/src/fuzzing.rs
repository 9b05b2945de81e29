//! What the fuzz targets need. Never part of the product.

use crate::types::Drop;

/// An event of the ring buffer, as the agent reads it.
pub fn event(bytes: &[u8]) -> Option<Drop> {
    crate::events::parse(bytes)
}
