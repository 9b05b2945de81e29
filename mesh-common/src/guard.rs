//! What may leave a workload through the host end of its veth.

use crate::address::Address;

/// Value of `GUARDED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Guard {
    /// The node's id of the workload.
    pub workload: u32,
    /// A [`GuardMode`] as u32.
    pub mode: u32,
    /// A [`UdpMode`] as u32.
    pub udp: u32,
    /// The workload's IPv4 address, network byte order; zero when it has none.
    pub address4: [u8; 4],
    /// The workload's IPv6 address; zero when it has none.
    pub address6: Address,
}
const _: () = assert!(size_of::<Guard>() == 32);

/// How strict the guard is. An interface with the program but no entry in `GUARDED` drops everything.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GuardMode {
    /// Enrolment is under way: nothing new may leave, established connections may.
    Closed = 0,
    /// TCP towards the mesh that the proxy does not own is dropped and counted.
    Strict = 1,
    /// It is counted and passes.
    Permissive = 2,
}

/// What happens to UDP towards addresses of the mesh.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UdpMode {
    /// It passes (name resolution, QUIC), in clear as ever.
    Allow = 0,
    /// It is dropped and counted.
    Deny = 1,
}

/// Key of `ESTABLISHED`: a connection that is older than the workload's enrolment, seen from the workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EstablishedKey {
    /// Index of the host end of the veth.
    pub interface: u32,
    /// The workload's address.
    pub local: Address,
    /// The other end's address.
    pub remote: Address,
    /// The workload's port, host byte order.
    pub local_port: u16,
    /// The other end's port, host byte order.
    pub remote_port: u16,
}
const _: () = assert!(size_of::<EstablishedKey>() == 40);

/// Most entries of `ESTABLISHED`.
pub const MAX_ESTABLISHED: u32 = 65_536;
