//! Events that the programs put on the ring buffer: a drop or a refusal, in the terms of a flow record.

use crate::address::Address;

/// One dropped packet or refused dial. 72 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// [`crate::LAYOUT_VERSION`].
    pub version: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub padding: u8,
    /// A [`crate::counter::Reason`] as u32.
    pub reason: u32,
    /// The node's id of the workload; 0 when no workload is known.
    pub workload: u32,
    /// Interface index in the namespace of the hook; 0 for cgroup hooks.
    pub interface: u32,
    /// When, ns of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// cgroup id of the socket that owns the packet, or of the dialling process; 0 when there is none.
    pub owner: u64,
    /// Source address; zero for a dial that is refused before one is chosen.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, host byte order; 0 when the protocol has none.
    pub source_port: u16,
    /// Destination port, host byte order; 0 when the protocol has none.
    pub destination_port: u16,
    /// Process id of the dialler; 0 for packets.
    pub pid: u32,
}
const _: () = assert!(size_of::<Event>() == 72 && align_of::<Event>() == 8);

/// Bytes of the ring buffer.
pub const EVENTS_SIZE: u32 = 1 << 20;
