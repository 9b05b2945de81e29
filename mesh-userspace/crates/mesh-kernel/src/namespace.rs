//! Network namespaces of other processes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Opens the network namespace of a process.
///
/// # Errors
/// The operating system's answer: no such process, or no right.
pub fn of_pid(pid: u32) -> io::Result<OwnedFd> {
    open(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// Opens a network namespace by a path, e.g. `/run/netns/NAME`.
///
/// # Errors
/// The operating system's answer.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    std::fs::File::open(path).map(OwnedFd::from)
}
