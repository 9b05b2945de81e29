//! Loads, pins, attaches and feeds Warren's eBPF programs, and prepares workloads' network namespaces.
//!
//! The only crate that knows aya, netlink and `setns`. It knows no tokio task (but one `AsyncFd`), no TLS, no policy, no
//! configuration: the agent tells it what to enrol and which destinations are captured.
//!
//! **Blocking.** Everything here is a handful of system calls, so that it may be called on a current-thread runtime; only
//! [`EventStream::next`] and [`ProgramLog::forward`] wait. Most calls take well under a millisecond. Longer are
//! [`Kernel::open`] (loads and verifies the programs, some 150 ms, once), [`Kernel::enrol`] and [`Kernel::unenrol`]
//! (some 20 to 60 ms: the kernel waits for a grace period when a program is put on an interface), [`Kernel::release`]
//! (some ms), [`Kernel::maintain`] (some ms per workload that has connections older than its enrolment),
//! [`Kernel::verify`] and [`Kernel::vanished`] (in proportion to the workloads and processes), [`probe()`] and
//! [`uninstall()`]. Work inside a workload's namespace is done by a thread of its own, never on the caller's; the caller
//! waits for it.
//!
//! **Failing.** Every error leaves the workload as it was before, or closed. Nothing is half enrolled.
//!
//! Reading order: `object`, `pin`, `bpf`, `link`, `filter`, `load` and `maps` (from bytes to attached programs), `namespace`,
//! `netlink`, `sysctls`, `established`, `sockets` (work inside namespaces), `register` and `workload` (what is known),
//! then the life of a workload: `kernel`, `exits`, `enrol`, `host`, `capture`, `watchdog`, `maintain`, `uninstall`.

pub use crate::error::KernelError;
pub use crate::events::EventStream;
#[doc(hidden)]
pub use crate::filter::without_tcx;
pub use crate::kernel::Kernel;
pub use crate::log::ProgramLog;
pub use crate::probe::{Feature, Features, probe};
pub use crate::types::*;
pub use crate::uninstall::uninstall;
pub use mesh_common::counter::{Reason, Verdict};
pub use mesh_common::workload::Class;

mod address;
mod bpf;
mod capture;
pub mod cgroup;
mod enrol;
mod error;
mod established;
mod events;
mod exits;
mod filter;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod kernel;
mod link;
mod load;
mod log;
mod maintain;
mod maps;
pub mod namespace;
mod netlink;
mod object;
mod pin;
mod probe;
mod register;
mod sockets;
mod sysctls;
mod types;
mod undo;
mod uninstall;
mod watchdog;
mod workload;
