//! The only crate that knows the Kubernetes API.

pub mod raw;
