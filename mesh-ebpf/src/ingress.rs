//! tcx ingress: the first packet of a connection that arrives for a workload is given to one of the proxy's listeners.
//!
//! Only a SYN is ever redirected. Every other packet belongs to a connection that already has a socket and finds it by
//! itself, so connections older than enrolment go on by construction. The accepted socket's own address is the
//! original destination; nothing is rewritten.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use mesh_common::counter::Reason;
use mesh_common::inbound::{Inbound, InboundKey, ListenerKey, ListenerKind};
use mesh_common::workload::NodeConfig;
use mesh_ebpf::dial::is_v4_mapped;
use mesh_ebpf::packet::Packet;
use mesh_ebpf::verdict::{Arrival, arrival};

use crate::context::{Assignment, DROP, Frame, INET, INET6, NEXT};
use crate::count;
use crate::log::debug;
use crate::maps::{CONFIG, INBOUND};

/// Inside a workload's namespace.
#[classifier]
pub fn ingress(context: TcContext) -> i32 {
    enter(&Frame::new(&context), Place::Workload)
}

/// On a device of the host, for host services.
#[classifier]
pub fn ingress_host(context: TcContext) -> i32 {
    enter(&Frame::new(&context), Place::Host)
}

/// Where the program is attached.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Place {
    /// Everything that arrives is for the workload: what is unknown is dropped.
    Workload,
    /// The host's other traffic passes by as well: what is unknown is not ours.
    Host,
}

/// Why a packet is dropped.
struct Refusal {
    workload: u32,
    reason: Reason,
    packet: Option<Packet>,
}

#[inline(always)]
fn enter(frame: &Frame<'_>, place: Place) -> i32 {
    match receive(frame, place) {
        Ok(()) => NEXT,
        // Fail closed: a connection that the proxy cannot take must not reach the application. The client tries again.
        Err(Refusal {
            workload,
            reason,
            packet,
        }) => {
            debug!(
                frame.context,
                "packet for workload {} dropped: reason {}", workload, reason as u32
            );
            count::dropped(frame, workload, reason, packet.as_ref());
            DROP
        }
    }
}

#[inline(always)]
fn receive(frame: &Frame<'_>, place: Place) -> Result<(), Refusal> {
    let read = frame.packet();
    let packet = match read {
        Ok(Some(packet)) => packet,
        Ok(None) => return Ok(()),
        // On the host too: the kernel follows longer chains of headers than this program, so what passed here unread
        // could be a connection to a service.
        Err(_) => {
            return Err(Refusal {
                workload: 0,
                reason: Reason::InboundUnreadable,
                packet: None,
            });
        }
    };
    match arrival(&packet) {
        Arrival::Other => Ok(()),
        Arrival::FragmentedStart => match find(&packet, place) {
            None if place == Place::Host => Ok(()),
            found => {
                let workload = found.map_or(0, |inbound| inbound.workload);
                Err(Refusal {
                    workload,
                    reason: Reason::InboundFragment,
                    packet: Some(packet),
                })
            }
        },
        Arrival::Start => start(frame, place, packet),
    }
}

#[inline(always)]
fn start(frame: &Frame<'_>, place: Place, packet: Packet) -> Result<(), Refusal> {
    let config = CONFIG.get(0);
    let found = find(&packet, place);
    let workload = found.map_or(0, |inbound| inbound.workload);
    if config.is_some_and(|config| is_from_kubelet(frame, config)) {
        // Only on this node does a packet still have its owner here, so nobody else can look like kubelet.
        count::add(workload, Reason::InboundKubelet);
        return Ok(());
    }
    if found.is_none() {
        return match place {
            Place::Host => Ok(()),
            Place::Workload => Err(Refusal {
                workload: 0,
                reason: Reason::InboundUnknown,
                packet: Some(packet),
            }),
        };
    }

    let is_tunnel = config.is_some_and(|config| config.tunnel_port == packet.destination_port);
    let kind = match (is_tunnel, place) {
        // On the host the tunnel listener is bound to its port as usual.
        (true, Place::Host) => return Ok(()),
        (true, Place::Workload) => ListenerKind::Tunnel,
        (false, _) => ListenerKind::Plaintext,
    };
    give(frame, workload, kind, packet)
}

#[inline(always)]
fn give(
    frame: &Frame<'_>,
    workload: u32,
    kind: ListenerKind,
    packet: Packet,
) -> Result<(), Refusal> {
    let family = if is_v4_mapped(&packet.destination) {
        INET
    } else {
        INET6
    };
    let reason = match frame.assign(&ListenerKey {
        workload,
        kind: kind as u16,
        family,
    }) {
        Assignment::Done => {
            let reason = match kind {
                ListenerKind::Tunnel => Reason::InboundTunnel,
                ListenerKind::Plaintext => Reason::InboundPlaintext,
            };
            count::add(workload, reason);
            return Ok(());
        }
        Assignment::NoListener => Reason::InboundNoListener,
        Assignment::Refused => Reason::InboundAssignFailed,
    };
    Err(Refusal {
        workload,
        reason,
        packet: Some(packet),
    })
}

#[inline(always)]
fn is_from_kubelet(frame: &Frame<'_>, config: &NodeConfig) -> bool {
    config.kubelet_cgroup != 0 && frame.owner() == config.kubelet_cgroup
}

#[inline(always)]
fn find(packet: &Packet, place: Place) -> Option<Inbound> {
    let port = match place {
        Place::Workload => 0,
        Place::Host => packet.destination_port,
    };
    let key = InboundKey {
        address: packet.destination,
        port,
        padding: 0,
    };
    // SAFETY: copied at once.
    unsafe { INBOUND.get(&key) }.copied()
}
