//! What happens to a packet: the pure decisions of the `ingress` and `guard` programs.
//!
//! The programs fetch what a decision needs (owner, class, age of the connection) in order of cost and stop early;
//! the rules themselves are here, where each has a test.

use mesh_common::address::{Address, v4_mapped};
use mesh_common::counter::Reason;
use mesh_common::guard::{Guard, GuardMode, UdpMode};

use crate::packet::{Packet, Part, flag, protocol};

/// What is done with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// It passes, uncounted: this is the ordinary case.
    Pass,
    /// It passes and is counted.
    Count(Reason),
    /// It is dropped, counted and reported.
    Drop(Reason),
}

/// What a packet that arrives for a workload is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// The start of a TCP connection: a listener has to be found for it.
    Start,
    /// The start of one in fragments: assigning a listener would be lost when the kernel puts them together.
    FragmentedStart,
    /// A bare acknowledgement. If it belongs to no socket, it may be the end of a handshake that the kernel answered
    /// with a SYN cookie, of which nothing is remembered but what is in this packet.
    Acknowledgement,
    /// Everything else: it belongs to a connection that has a socket, or is no TCP.
    Other,
}

/// Classifies a packet for a workload.
#[inline(always)]
pub const fn arrival(packet: &Packet) -> Arrival {
    let starts = packet.tcp_flags & (flag::SYN | flag::ACK) == flag::SYN;
    let acknowledges =
        packet.tcp_flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::ACK;
    match (packet.protocol, packet.part) {
        (protocol::TCP, Part::Whole) if starts => Arrival::Start,
        (protocol::TCP, Part::Whole) if acknowledges && !packet.has_payload => {
            Arrival::Acknowledgement
        }
        (protocol::TCP, Part::First) if starts => Arrival::FragmentedStart,
        // A later fragment alone starts nothing: the kernel refuses fragments that overlap the first.
        _ => Arrival::Other,
    }
}

/// Whether a packet carries an address that its workload may send from.
#[inline(always)]
pub fn has_own_source(packet: &Packet, guard: &Guard) -> bool {
    let source = &packet.source;
    if *source == v4_mapped([0; 4]) {
        // No address yet: only to ask a DHCP server for one.
        return packet.protocol == protocol::UDP && packet.destination_port == 67;
    }
    if *source == v4_mapped(guard.address4) || (*source == guard.address6 && *source != [0; 16]) {
        return true;
    }
    if *source == [0; 16] {
        // Duplicate address detection and multicast listener reports (RFC 4862, RFC 3810).
        return packet.protocol == protocol::ICMPV6;
    }
    is_link_local(source)
        && (packet.protocol == protocol::ICMPV6
            || (packet.protocol == protocol::UDP && packet.destination_port == 547))
}

#[inline(always)]
const fn is_link_local(address: &Address) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

/// Whose socket a packet comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// Nobody's: forwarded out of a nested namespace, or sent for a socket that is gone.
    Nobody,
    /// The root cgroup's: the kernel's own control sockets, which send resets and answer in TIME_WAIT.
    Root,
    /// The mesh's own.
    Mesh,
    /// Anybody else's; in a workload's namespace that is the workload.
    Workload,
}

/// Decides about a packet with a proper source address, towards the mesh, that the mesh does not own. `is_established`
/// says that its connection is older than the workload's enrolment.
#[inline(always)]
pub fn towards_mesh(
    packet: &Packet,
    owner: Owner,
    guard: &Guard,
    is_established: bool,
) -> Decision {
    const PERMISSIVE: u32 = GuardMode::Permissive as u32;
    const UDP_ALLOWED: u32 = UdpMode::Allow as u32;
    let is_permissive = guard.mode == PERMISSIVE;
    match packet.protocol {
        protocol::TCP if is_established => Decision::Count(Reason::Established),
        protocol::TCP if is_bare_control(packet, owner) => Decision::Pass,
        protocol::TCP if is_permissive => Decision::Count(Reason::UncapturedTcpPermitted),
        protocol::TCP => Decision::Drop(tcp_reason(owner, guard)),
        protocol::UDP if guard.udp == UDP_ALLOWED => Decision::Pass,
        protocol::UDP => Decision::Drop(Reason::UdpDenied),
        protocol::ICMP | protocol::ICMPV6 => Decision::Pass,
        _ if is_permissive => Decision::Count(Reason::OtherProtocolPermitted),
        _ => Decision::Drop(Reason::OtherProtocol),
    }
}

/// A reset, or an acknowledgement or end without payload, that the kernel sends on its own account: after a socket is
/// gone no owner is left to ask. So is the answer to a SYN under a flood of them, which comes from no socket either. It
/// carries nothing of an application.
#[inline(always)]
fn is_bare_control(packet: &Packet, owner: Owner) -> bool {
    let is_kernels = matches!(owner, Owner::Nobody | Owner::Root);
    let is_start = packet.tcp_flags & (flag::SYN | flag::ACK) == flag::SYN;
    let is_control = packet.tcp_flags & (flag::RST | flag::ACK | flag::FIN) != 0;
    is_kernels && is_control && !is_start && packet.part == Part::Whole && !packet.has_payload
}

/// A mode that this version does not know counts as strict (fail closed).
#[inline(always)]
const fn tcp_reason(owner: Owner, guard: &Guard) -> Reason {
    const CLOSED: u32 = GuardMode::Closed as u32;
    match (guard.mode, owner) {
        (CLOSED, _) => Reason::GuardClosed,
        (_, Owner::Nobody) => Reason::OwnerlessTcp,
        (_, _) => Reason::UncapturedTcp,
    }
}

#[cfg(test)]
mod tests;
