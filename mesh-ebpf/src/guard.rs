//! tcx ingress on the host end of a workload's veth, outside the workload's reach: TCP towards the mesh that the proxy
//! does not own never leaves, whatever made it (raw and packet sockets, foreign processes, nested namespaces, removed
//! hooks), and nothing leaves under an address that is not the workload's.
//!
//! Traffic to destinations outside the mesh is not its business. It must not look at marks, user ids or ports to tell
//! the proxy's packets from others; only the owner's cgroup counts.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use mesh_common::address::Address;
use mesh_common::counter::Reason;
use mesh_common::guard::EstablishedKey;
use mesh_common::workload::Class;
use mesh_ebpf::packet::{Packet, Part, protocol};
use mesh_ebpf::verdict::{Decision, Owner, has_own_source, towards_mesh};

use crate::context::{DROP, Frame, NEXT, ethertype, now};
use crate::count;
use crate::log::debug;
use crate::maps::{DESTINATIONS, ESTABLISHED, GUARDED, MESH_CGROUPS};

/// A packet that leaves a workload.
#[classifier]
pub fn guard(context: TcContext) -> i32 {
    let frame = Frame::new(&context);
    match watch(&frame) {
        Ok(()) => NEXT,
        // Fail closed: what cannot be judged does not leave.
        Err(Refusal {
            workload,
            reason,
            packet,
        }) => {
            debug!(
                frame.context,
                "packet of workload {} dropped: reason {}", workload, reason as u32
            );
            count::dropped(&frame, workload, reason, packet.as_ref());
            DROP
        }
    }
}

/// Why a packet is dropped.
struct Refusal {
    workload: u32,
    reason: Reason,
    packet: Option<Packet>,
}

#[inline(always)]
fn watch(frame: &Frame<'_>) -> Result<(), Refusal> {
    // SAFETY: copied at once.
    let Some(guard) = unsafe { GUARDED.get(frame.interface()) }.copied() else {
        return Err(Refusal {
            workload: 0,
            reason: Reason::GuardUnknown,
            packet: None,
        });
    };
    let guard = &guard;
    let refuse = |reason, packet| Refusal {
        workload: guard.workload,
        reason,
        packet,
    };

    if frame.is_tagged() {
        return Err(refuse(Reason::OtherProtocol, None));
    }
    let packet = match frame.packet() {
        Ok(Some(packet)) => packet,
        Ok(None) if frame.ethertype() == ethertype::ARP => return Ok(()),
        Ok(None) => return Err(refuse(Reason::OtherProtocol, None)),
        Err(_) => return Err(refuse(Reason::GuardUnreadable, None)),
    };

    if !has_own_source(&packet, guard) {
        return Err(refuse(Reason::SpoofedSource, Some(packet)));
    }
    let owner = owner(frame.owner());
    if owner == Owner::Mesh || !is_towards_mesh(&packet) {
        return Ok(());
    }
    match towards_mesh(&packet, owner, guard, is_established(frame, &packet)) {
        Decision::Pass => Ok(()),
        Decision::Count(reason) => {
            count::add(guard.workload, reason);
            Ok(())
        }
        Decision::Drop(reason) => Err(refuse(reason, Some(packet))),
    }
}

#[inline(always)]
fn owner(cgroup: u64) -> Owner {
    /// The root of every cgroup hierarchy.
    const ROOT: u64 = 1;
    match cgroup {
        0 => Owner::Nobody,
        // SAFETY: nothing is read through the reference.
        _ if unsafe { MESH_CGROUPS.get(cgroup) }.is_some() => Owner::Mesh,
        ROOT => Owner::Root,
        _ => Owner::Workload,
    }
}

/// A destination that the connect hook would capture or deny.
#[inline(always)]
fn is_towards_mesh(packet: &Packet) -> bool {
    const WHOLE: u32 = 8 * size_of::<Address>() as u32;
    DESTINATIONS
        .get(&Key::new(WHOLE, packet.destination))
        .is_some_and(|class| *class != Class::Bypass as u32)
}

/// Whether the packet belongs to a connection that is older than enrolment.
#[inline(always)]
fn is_established(frame: &Frame<'_>, packet: &Packet) -> bool {
    if packet.protocol != protocol::TCP || packet.part == Part::Later {
        return false;
    }
    let key = EstablishedKey {
        interface: frame.interface(),
        local: packet.source,
        remote: packet.destination,
        local_port: packet.source_port,
        remote_port: packet.destination_port,
    };
    // SAFETY: copied at once.
    unsafe { ESTABLISHED.get(&key) }.is_some_and(|expires_at| now() < *expires_at)
}
