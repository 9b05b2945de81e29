//! What a redirected connection remembers, from the application's `connect()` to the proxy's `getsockopt()`.

use crate::address::Address;

/// The original destination of a captured dial, and who dialled. 64 bytes; frozen: it outlives agent upgrades
/// in socket storage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin {
    /// [`crate::LAYOUT_VERSION`].
    pub version: u16,
    /// `AF_INET` (2) or `AF_INET6` (10), as the application dialled; a v4-mapped dial is `AF_INET6` with a mapped address.
    pub family: u16,
    /// Destination port, network byte order.
    pub port: u16,
    /// Port of the listener that the dial was sent to, network byte order: tells a socket that is still connected
    /// there from one that was disconnected and dialled again.
    pub listener_port: u16,
    /// Destination address.
    pub address: Address,
    /// The node's id of the workload that dialled.
    pub workload: u32,
    /// Process id (thread group) of the dialler, in the initial pid namespace.
    pub pid: u32,
    /// User id of the dialler, in the initial user namespace.
    pub uid: u32,
    /// Zero.
    pub padding: u32,
    /// cgroup of the dialling process.
    pub cgroup: u64,
    /// Cookie of the network namespace of the dialling socket.
    pub netns: u64,
    /// When `connect()` was called, ns of `CLOCK_MONOTONIC`.
    pub dialled_at: u64,
}
const _: () = assert!(size_of::<Origin>() == 64 && align_of::<Origin>() == 8);

/// Key of a captured dial on its way to the proxy: seen from the dialler, after the redirection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowKey {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The dialler's own address.
    pub source: Address,
    /// The address of the outbound listener.
    pub destination: Address,
    /// The dialler's port, host byte order.
    pub source_port: u16,
    /// The listener's port, host byte order.
    pub destination_port: u16,
    /// Zero.
    pub padding: u32,
}
const _: () = assert!(size_of::<FlowKey>() == 48);

/// Most entries of `FLOWS`.
pub const MAX_FLOWS: u32 = 65_536;
/// Most entries of `FLOWS` that one workload may hold; a dial beyond that is refused and counted.
pub const MAX_FLOWS_PER_WORKLOAD: u64 = 4_096;
