//! The only crate that knows the Kubernetes API.
