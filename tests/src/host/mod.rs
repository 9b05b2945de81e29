//! What is borrowed from the machine, each behind a guard that gives it back: network namespaces, cgroups, bpffs mounts,
//! processes. Nothing here knows what a cluster is.

pub mod binary;
pub mod bpffs;
pub mod cgroup;
pub mod command;
pub mod fault;
pub mod leak;
pub mod namespace;
pub mod process;
pub mod requires;
