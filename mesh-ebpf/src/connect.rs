//! cgroup/connect4 and connect6, at the capture root: a dial of an enrolled workload towards the mesh is sent to the
//! proxy's listener inside the workload's own namespace, and the socket remembers where it was going.
//!
//! The hook runs in the kernel before any packet exists, for every way to dial (measured on 6.18: plain, non-blocking,
//! `MSG_FASTOPEN` with and without a cookie, `TCP_FASTOPEN_CONNECT`, `SO_BINDTODEVICE`, a bound source, io_uring, the
//! first subflow of MPTCP; each for IPv4, IPv6 and v4-mapped destinations where it exists). A socket cannot choose to
//! skip it. It must not trust anything the workload can set: who is dialling comes from the network namespace and the
//! cgroup alone.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::LAYOUT_VERSION;
use mesh_common::address::{Address, Prefix};
use mesh_common::counter::Reason;
use mesh_common::origin::Origin;
use mesh_common::workload::Workload;
use mesh_ebpf::dial::{self, Listener, Verdict};

use aya_ebpf::btf_maps::lpm_trie::Key;

use crate::context::{INET, INET6, SocketAddress, current, now};
use crate::count;
use crate::log::debug;
use crate::maps::{
    CONFIG, DESTINATIONS, DIALLED, ENROLLED, ENROLLED_CGROUPS, FLOW_QUOTA, MESH_CGROUPS,
};

/// What the hook returns to let the call go on.
const PROCEED: i32 = 1;
/// What it returns to make the call fail.
const REJECT: i32 = 0;

/// An IPv4 dial.
#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    let call = SocketAddress::new(&context);
    let dial = Dial {
        destination: call.address4(),
        port: call.port(),
        family: INET,
    };
    enter(&call, &dial)
}

/// An IPv6 dial, v4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    let call = SocketAddress::new(&context);
    let dial = Dial {
        destination: call.address6(),
        port: call.port(),
        family: INET6,
    };
    enter(&call, &dial)
}

/// What the application asked for.
struct Dial {
    destination: Address,
    /// Network byte order.
    port: u16,
    /// Of the socket: a v4-mapped destination is `INET6`.
    family: u16,
}

/// Why a dial of this workload is refused.
struct Refusal {
    workload: u32,
    reason: Reason,
}

#[inline(always)]
fn enter(call: &SocketAddress<'_>, dial: &Dial) -> i32 {
    match capture(call, dial) {
        Ok(()) => PROCEED,
        // Fail closed: an enrolled workload's dial that cannot be captured must not leave in clear.
        Err(Refusal { workload, reason }) => {
            debug!(
                call.context,
                "dial of workload {} refused: reason {}", workload, reason as u32
            );
            count::refused(workload, reason, &dial.destination, dial.port);
            call.fail_as_refused();
            REJECT
        }
    }
}

#[inline(always)]
fn capture(call: &SocketAddress<'_>, dial: &Dial) -> Result<(), Refusal> {
    if !dial::is_carried(call.socket_type(), call.protocol()) {
        return Ok(());
    }
    let Some(workload) = dialling_workload(call)? else {
        return Ok(());
    };
    let workload = &workload;

    if dial::stays_inside(&dial.destination, workload) {
        return forget(call, workload);
    }
    match dial::decide(&dial.destination, class_of(&dial.destination), workload) {
        Verdict::Inside => forget(call, workload),
        Verdict::Bypass => {
            count::add(workload.id, Reason::Bypassed);
            forget(call, workload)
        }
        Verdict::Redirect(listener) => redirect(call, dial, workload, &listener),
        Verdict::Refuse(reason) => Err(Refusal {
            workload: workload.id,
            reason,
        }),
    }
}

/// Who is dialling, if the mesh cares. A dial of somebody who is not enrolled costs one lookup; the mesh's own are told
/// apart after it, since they dial from inside enrolled namespaces.
#[inline(always)]
fn dialling_workload(call: &SocketAddress<'_>) -> Result<Option<Workload>, Refusal> {
    // SAFETY: the value is copied before anything is written to the map.
    let by_namespace = unsafe { ENROLLED.get(call.netns()) }.copied();
    let by_cgroup = enrolled_ancestor();
    if by_namespace.is_none() && by_cgroup.is_none() || is_mesh() {
        return Ok(None);
    }
    match (by_namespace, by_cgroup) {
        // A process of one workload with a socket of another's: neither identity may be given to it.
        (Some(workload), Some(other)) if workload.id != other.id => Err(Refusal {
            workload: workload.id,
            reason: Reason::ForeignSocket,
        }),
        (Some(workload), _) => Ok(Some(workload)),
        (None, workload) => Ok(workload),
    }
}

#[inline(always)]
fn is_mesh() -> bool {
    // SAFETY: nothing is read through the reference.
    unsafe { MESH_CGROUPS.get(current::cgroup()) }.is_some()
}

/// The innermost enrolled cgroup that the dialling process is in.
#[inline(always)]
fn enrolled_ancestor() -> Option<Workload> {
    const LEVELS: u32 = u32::BITS;
    let levels = CONFIG.get(0)?.cgroup_levels;
    if levels == 0 {
        return None;
    }
    for depth in 0..LEVELS {
        let level = LEVELS - 1 - depth;
        if levels & (1 << level) == 0 {
            continue;
        }
        let cgroup = current::ancestor_cgroup(level);
        // SAFETY: as in `dialling_workload`.
        if let Some(workload) = unsafe { ENROLLED_CGROUPS.get(cgroup) } {
            return Some(*workload);
        }
    }
    None
}

#[inline(always)]
fn class_of(destination: &Address) -> Option<u32> {
    const WHOLE: u32 = 8 * size_of::<Address>() as u32;
    const _: () = assert!(size_of::<Key<Address>>() == size_of::<Prefix>());
    DESTINATIONS.get(&Key::new(WHOLE, *destination)).copied()
}

/// A socket that was captured once, disconnected and dialled again must not go on claiming its first destination.
#[inline(always)]
fn forget(call: &SocketAddress<'_>, workload: &Workload) -> Result<(), Refusal> {
    let socket = call.socket().ok_or(Refusal {
        workload: workload.id,
        reason: Reason::DialUnreadable,
    })?;
    socket.forget_origin(&DIALLED);
    if let Some(whole) = socket.multipath() {
        whole.forget_origin(&DIALLED);
    }
    Ok(())
}

#[inline(always)]
fn redirect(
    call: &SocketAddress<'_>,
    dial: &Dial,
    workload: &Workload,
    listener: &Listener,
) -> Result<(), Refusal> {
    let refuse = |reason| Refusal {
        workload: workload.id,
        reason,
    };
    if is_quota_used_up(workload.id) {
        return Err(refuse(Reason::FlowQuota));
    }
    let socket = call
        .socket()
        .ok_or_else(|| refuse(Reason::DialUnreadable))?;
    let mut origin = origin(call, dial, workload, listener);
    if !socket.set_origin(&DIALLED, &mut origin) {
        return Err(refuse(Reason::NoSocketStorage));
    }
    // An MPTCP dial comes here as its first subflow, and sockops see that same socket; `getpeername()` comes as the
    // socket of the whole (measured on 6.18). It needs its own copy, and is only told less if there is no memory for it.
    if let Some(whole) = socket.multipath() {
        whole.set_origin(&DIALLED, &mut origin);
    }
    if dial.family == INET {
        call.replace4(&listener.address, listener.port);
    } else {
        call.replace6(&listener.address, listener.port);
    }
    count::add(workload.id, Reason::Captured);
    debug!(call.context, "dial of workload {} captured", workload.id);
    Ok(())
}

/// Looked at here as well as where entries are made, because only here can the application be told.
#[inline(always)]
fn is_quota_used_up(workload: u32) -> bool {
    // SAFETY: copied at once.
    unsafe { FLOW_QUOTA.get(workload) }.is_some_and(|used| dial::is_used_up(*used))
}

#[inline(always)]
fn origin(
    call: &SocketAddress<'_>,
    dial: &Dial,
    workload: &Workload,
    listener: &Listener,
) -> Origin {
    Origin {
        version: LAYOUT_VERSION,
        family: dial.family,
        port: dial.port,
        listener_port: listener.port,
        address: dial.destination,
        workload: workload.id,
        pid: current::pid(),
        uid: current::uid(),
        padding: 0,
        cgroup: current::cgroup(),
        netns: call.netns(),
        dialled_at: now(),
    }
}
