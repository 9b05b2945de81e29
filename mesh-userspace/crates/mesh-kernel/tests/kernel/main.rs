//! The kernel half against a real kernel: namespaces, cgroups and bpffs of its own. Needs root, and says so.
//!
//! Each test is run again as a process of its own in fresh mount and network namespaces (the node), because
//! `Kernel::open` moves its whole process into a cgroup. What a test leaves behind fails it.

mod application;
mod capture;
mod cookies;
mod filter;
mod guard;
mod lifecycle;
mod node;
mod upgrade;
