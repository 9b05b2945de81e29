//! Which SYN that arrives for a workload goes to which listener of the proxy.

use crate::address::Address;

/// Key of `INBOUND`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InboundKey {
    /// Destination address of the SYN.
    pub address: Address,
    /// Destination port, host byte order; 0 stands for every port (workloads with a namespace of their own).
    pub port: u16,
    /// Zero.
    pub padding: u16,
}
const _: () = assert!(size_of::<InboundKey>() == 20);

/// Value of `INBOUND`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Inbound {
    /// The node's id of the workload.
    pub workload: u32,
    /// Zero.
    pub flags: u32,
}

/// Most entries of `INBOUND`.
pub const MAX_INBOUND: u32 = 16_384;

/// Key of `LISTENERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListenerKey {
    /// The node's id of the workload.
    pub workload: u32,
    /// A [`ListenerKind`] as u16.
    pub kind: u16,
    /// `AF_INET` (2) or `AF_INET6` (10).
    pub family: u16,
}
const _: () = assert!(size_of::<ListenerKey>() == 8);

/// Most entries of `LISTENERS`.
pub const MAX_LISTENERS: u32 = 4 * crate::workload::MAX_WORKLOADS;

/// What a listener is for.
#[repr(u16)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListenerKind {
    /// Tunnels from other nodes: TLS only.
    Tunnel = 0,
    /// Connections from outside the mesh, in clear.
    Plaintext = 1,
}
