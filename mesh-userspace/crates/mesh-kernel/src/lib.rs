//! Loads, pins, attaches and feeds Warren's eBPF programs, and prepares workloads' network namespaces.
//!
//! The only crate that knows aya, netlink and `setns`. It knows no tokio task (but one `AsyncFd`), no TLS, no policy, no
//! configuration: the agent tells it what to enrol and which destinations are captured.
//!
//! **Blocking.** Everything here is a handful of system calls and returns within milliseconds, so that it may be called
//! on a current-thread runtime. The longest are [`Kernel::open`] (loads and verifies the programs, some 100 ms, once),
//! [`Kernel::enrol`] (some ms), [`Kernel::verify`] and [`Kernel::maintain`] (proportional to the number of workloads),
//! and [`uninstall`]. Work inside a workload's namespace is done by a thread of its own, never on the caller's.
//!
//! **Failing.** Every error leaves the workload as it was before, or closed. Nothing is half enrolled.

pub use crate::error::KernelError;
pub use crate::events::EventStream;
pub use crate::kernel::Kernel;
pub use crate::probe::{Feature, Features, probe};
pub use crate::types::*;
pub use crate::uninstall::uninstall;
pub use mesh_common::counter::{Reason, Verdict};
pub use mesh_common::workload::Class;

mod error;
mod events;
mod kernel;
pub mod namespace;
mod probe;
mod types;
mod uninstall;
