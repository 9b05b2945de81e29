//! A simulated cluster on one machine, and the tools with which stories are told in it.
//!
//! Each node is a network namespace with a bridge, a cgroup subtree, a bpffs folder and an agent of its own; each pod a
//! namespace, a veth pair and a cgroup. Real eBPF programs, real TLS, real sockets, real applications; nothing is mocked.
//! The product is driven from outside, as its users drive it: the binary, its configuration file, its command line. This
//! package must not depend on any crate of the product.
//!
//! Reading order: [`story`] (what a test looks like), [`cluster`] (what it is made of), [`probe`] (the applications in it),
//! [`host`] (guards of what is borrowed from the machine; all of it is given back in `Drop`, and a leak fails the story).
//!
//! Beside it, [`kubernetes`]: a real cluster, for what only Kubernetes itself can show.
//!
//! A story is one `#[test]` in `tests/`. It needs root; it is skipped only when the kernel provably lacks a feature, and
//! says so. `cargo xtask test` runs each in a process of its own.

pub mod bench;
pub mod cluster;
pub mod delivery;
pub mod eventually;
pub mod host;
pub mod impostor;
pub mod kubernetes;
pub mod probe;
pub mod story;
