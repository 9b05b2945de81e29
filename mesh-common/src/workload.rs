//! Who is enrolled, and what is done with its dials.

use crate::address::Address;

/// Most workloads on one node.
pub const MAX_WORKLOADS: u32 = 4_096;
/// Most prefixes in `DESTINATIONS`.
pub const MAX_DESTINATIONS: u32 = 131_072;
/// Most agent and proxy generations at once.
pub const MAX_MESH_CGROUPS: u32 = 64;

/// An enrolled workload, as the connect hooks see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Workload {
    /// The node's id of the workload; never 0.
    pub id: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// The workload's own IPv4 address, network byte order; zero when it has none.
    pub address4: [u8; 4],
    /// Port of its IPv4 outbound listener, network byte order; zero when there is none.
    pub port4: u16,
    /// Port of its IPv6 outbound listener, network byte order; zero when there is none.
    pub port6: u16,
    /// The workload's own IPv6 address; zero when it has none.
    pub address6: Address,
}
const _: () = assert!(size_of::<Workload>() == 32);

/// Flags of [`Workload`].
pub mod flag {
    /// The workload shares the host's network namespace (a host service, chosen by its cgroup).
    pub const HOST: u32 = 1;
}

/// Settings of the node, one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeConfig {
    /// [`crate::LAYOUT_VERSION`].
    pub version: u16,
    /// [`crate::TUNNEL_PORT`], host byte order, unless configured otherwise.
    pub tunnel_port: u16,
    /// Bit n is set when a cgroup of depth n (root = 0) is in `ENROLLED_CGROUPS`, so that the connect hooks look at
    /// these ancestors only, and at none when no host service is enrolled.
    pub cgroup_levels: u32,
    /// The cgroup of kubelet, whose probes reach applications directly; 0 when there is none.
    pub kubelet_cgroup: u64,
}
const _: () = assert!(size_of::<NodeConfig>() == 16);

/// What happens to a dial towards a destination. A destination that no prefix covers is [`Class::Bypass`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// Not the mesh's business: the dial goes out untouched.
    Bypass = 0,
    /// A service or a workload of the mesh: to the proxy, and nowhere else.
    Capture = 1,
    /// Refused in the kernel.
    Deny = 2,
}
