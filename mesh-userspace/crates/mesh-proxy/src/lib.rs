//! mesh-proxy
pub mod link;
