//! tcx ingress: the first packet of a connection that arrives for a workload is given to one of the proxy's listeners.
//!
//! Only the start of a handshake is redirected (and its end, when SYN cookies leave that without a socket). Every other
//! packet belongs to a connection that already has a socket and finds it by itself, so connections older than enrolment
//! go on by construction. The accepted socket's own address is the
//! original destination; nothing is rewritten.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use mesh_common::counter::Reason;
use mesh_common::inbound::{Inbound, InboundKey, ListenerKey, ListenerKind};
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
        Arrival::Acknowledgement => {
            acknowledge(frame, place, &packet);
            Ok(())
        }
        Arrival::Start => start(frame, place, packet),
    }
}

/// Under a flood of SYNs the kernel answers with cookies and remembers nothing. The acknowledgement that comes back then
/// finds no socket, and would find the application's listener rather than the proxy's, which knows nothing of it.
/// Fails open: without the proxy's listener the packet is answered with a reset, as any stray one.
#[inline(always)]
fn acknowledge(frame: &Frame<'_>, place: Place, packet: &Packet) {
    // The cheaper look first: inside a workload nearly every packet has a socket, on a host hardly any is a service's.
    if place == Place::Workload && frame.has_socket(packet) {
        return;
    }
    let Some(inbound) = find(packet, place) else {
        return;
    };
    if place == Place::Host && frame.has_socket(packet) {
        return;
    }
    if let Some(kind) = listener_kind(packet, place)
        && !is_from_kubelet(frame)
    {
        frame.assign(&listener_key(inbound.workload, kind, packet));
    }
}

#[inline(always)]
fn start(frame: &Frame<'_>, place: Place, packet: Packet) -> Result<(), Refusal> {
    let found = find(&packet, place);
    let workload = found.map_or(0, |inbound| inbound.workload);
    if is_from_kubelet(frame) {
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

    match listener_kind(&packet, place) {
        Some(kind) => give(frame, workload, kind, packet),
        None => Ok(()),
    }
}

/// Which of the proxy's listeners a connection is for. None on the host for tunnels: there the tunnel listener is bound
/// to its port as usual.
#[inline(always)]
fn listener_kind(packet: &Packet, place: Place) -> Option<ListenerKind> {
    let is_tunnel = CONFIG
        .get(0)
        .is_some_and(|config| config.tunnel_port == packet.destination_port);
    match (is_tunnel, place) {
        (true, Place::Host) => None,
        (true, Place::Workload) => Some(ListenerKind::Tunnel),
        (false, _) => Some(ListenerKind::Plaintext),
    }
}

#[inline(always)]
fn listener_key(workload: u32, kind: ListenerKind, packet: &Packet) -> ListenerKey {
    let family = if is_v4_mapped(&packet.destination) {
        INET
    } else {
        INET6
    };
    ListenerKey {
        workload,
        kind: kind as u16,
        family,
    }
}

#[inline(always)]
fn give(
    frame: &Frame<'_>,
    workload: u32,
    kind: ListenerKind,
    packet: Packet,
) -> Result<(), Refusal> {
    let reason = match frame.assign(&listener_key(workload, kind, &packet)) {
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
fn is_from_kubelet(frame: &Frame<'_>) -> bool {
    CONFIG
        .get(0)
        .is_some_and(|config| config.kubelet_cgroup != 0 && config.kubelet_cgroup == frame.owner())
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
