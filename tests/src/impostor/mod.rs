//! A peer that speaks `warren/1` with whatever certificate it is given, from either side. With a good certificate it gets
//! through, which proves that a bad one is refused for what is bad about it and for nothing else.
//!
//! It is written against the protocol, not against the product's code.

pub mod caller;
mod frames;
pub mod papers;
pub mod server;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The port of tunnels.
pub const TUNNEL_PORT: u16 = 15_008;

/// The protocol's name.
const PROTOCOL: &[u8] = b"warren/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
