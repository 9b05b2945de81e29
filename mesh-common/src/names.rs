//! Names of programs and maps, used by both sides so that a typo cannot compile.

/// Program names, as functions in `mesh-ebpf` and as pins `links/<name>[-<workload>]`.
pub mod program {
    /// cgroup/connect4: capture of IPv4 dials.
    pub const CONNECT4: &str = "connect4";
    /// cgroup/connect6: capture of IPv6 and v4-mapped dials.
    pub const CONNECT6: &str = "connect6";
    /// cgroup/getpeername4: the application sees the destination that it asked for.
    pub const PEERNAME4: &str = "peername4";
    /// cgroup/getpeername6.
    pub const PEERNAME6: &str = "peername6";
    /// sockops at the capture root: remembers the destination of a captured dial under its 4-tuple.
    pub const ORIGIN_CLIENT: &str = "origin_client";
    /// sockops at the mesh's cgroup: moves that memory into the accepted socket.
    pub const ORIGIN_PROXY: &str = "origin_proxy";
    /// cgroup/getsockopt at the mesh's cgroup: answers `SO_ORIGINAL_DST`.
    pub const ORIGDST: &str = "origdst";
    /// tcx ingress inside a workload's namespace: an unknown destination is dropped.
    pub const INGRESS: &str = "ingress";
    /// tcx ingress on a host interface, for host services: an unknown destination passes.
    pub const INGRESS_HOST: &str = "ingress_host";
    /// tcx ingress on the host end of a workload's veth.
    pub const GUARD: &str = "guard";
}

/// Map names. The value and key types are given beside each.
pub mod map {
    /// ARRAY(1): u32 → [`crate::workload::NodeConfig`].
    pub const CONFIG: &str = "CONFIG";
    /// HASH: network namespace cookie (u64) → [`crate::workload::Workload`].
    pub const ENROLLED: &str = "ENROLLED";
    /// HASH: cgroup id (u64) → [`crate::workload::Workload`], for host services.
    pub const ENROLLED_CGROUPS: &str = "ENROLLED_CGROUPS";
    /// HASH: cgroup id (u64) → u64 (generation): agents and proxies, whose sockets are the mesh's own.
    pub const MESH_CGROUPS: &str = "MESH_CGROUPS";
    /// LPM_TRIE: [`crate::address::Prefix`] → [`crate::workload::Class`] as u32.
    pub const DESTINATIONS: &str = "DESTINATIONS";
    /// SK_STORAGE: a dialling socket's [`crate::origin::Origin`].
    pub const DIALLED: &str = "DIALLED";
    /// SK_STORAGE: an accepted socket's [`crate::origin::Origin`].
    pub const ACCEPTED: &str = "ACCEPTED";
    /// HASH: [`crate::origin::FlowKey`] → [`crate::origin::Origin`], between connect and accept.
    pub const FLOWS: &str = "FLOWS";
    /// HASH: workload id (u32) → u64: entries in `FLOWS` now, so that one workload cannot fill it.
    pub const FLOW_QUOTA: &str = "FLOW_QUOTA";
    /// HASH: [`crate::inbound::InboundKey`] → [`crate::inbound::Inbound`].
    pub const INBOUND: &str = "INBOUND";
    /// SOCKHASH: [`crate::inbound::ListenerKey`] → listening socket.
    pub const LISTENERS: &str = "LISTENERS";
    /// HASH: interface index (u32) in the node's namespace → [`crate::guard::Guard`].
    pub const GUARDED: &str = "GUARDED";
    /// HASH: [`crate::guard::EstablishedKey`] → u64 (expiry, ns of `CLOCK_MONOTONIC`): connections older than enrolment.
    pub const ESTABLISHED: &str = "ESTABLISHED";
    /// RINGBUF: [`crate::event::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// PERCPU_HASH: [`crate::counter::CounterKey`] → u64.
    pub const COUNTERS: &str = "COUNTERS";
}

/// Constants of the programs that the loader sets to 0 (u8) where the kernel lacks a helper; the calls are then never
/// verified. Their default is 1.
pub mod global {
    /// `bpf_set_retval` in connect hooks: refused dials fail with `ECONNREFUSED` rather than `EPERM`.
    pub const HAS_SET_RETVAL: &str = "HAS_SET_RETVAL";
    /// `bpf_skc_to_mptcp_sock` (5.19): MPTCP applications are shown the peer that they dialled.
    pub const HAS_MULTIPATH: &str = "HAS_MULTIPATH";
}
