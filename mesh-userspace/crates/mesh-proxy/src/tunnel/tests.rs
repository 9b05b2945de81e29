//! Tunnels over loopback, with real certificates: what applications see must be what they would see without a tunnel.

mod abuse;
mod bulk;
mod ends;
pub(crate) mod hostile;
mod mesh;
mod pool;
mod states;
