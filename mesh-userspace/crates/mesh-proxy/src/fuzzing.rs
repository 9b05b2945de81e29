//! What the fuzz targets need. Never part of the product.

pub use crate::tls::fuzzing::{Plan, channel};
pub use crate::tunnel::fuzzing::misbehaving_peer;
