//! Tables: manifests as people write them, and what nodes are told. Objects go through the very types by which the API
//! server's are read.

mod cluster;
mod incremental;
mod pods;
mod policies;
mod routes;
mod scale;
mod services;
mod told;

pub(crate) use cluster::Cluster;
