//! Two sockops programs that carry a dial's origin from the dialler's socket to the accepted one.
//!
//! ```text
//! connect()  DIALLED[client]                                    ACCEPTED[accepted]  getsockopt()
//!                 │ origin_client, before the SYN                        ▲
//!                 └──────────► FLOWS[namespace, 4-tuple] ────────────────┘ origin_proxy, connection made
//!                                        │ origin_client, client closed before the proxy accepted
//!                                        └──► removed
//! ```
//!
//! TCP itself orders the steps: the entry exists before the SYN is sent. The key holds the namespace's cookie, which
//! the kernel never uses twice, so workloads with equal addresses cannot meet.

use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use mesh_common::counter::Reason;
use mesh_common::origin::{FlowKey, Origin};
use mesh_ebpf::dial::is_used_up;

use crate::context::{self, Operation};
use crate::count;
use crate::log::debug;
use crate::maps::{ACCEPTED, DIALLED, ENROLLED, FLOW_QUOTA, FLOWS};

/// The result of a sockops program is not used for these operations.
const DONE: u32 = 1;

/// `EEXIST`, as map functions return it.
const EXISTS: i32 = -17;

/// At the capture root: remembers a captured dial under its 4-tuple, and forgets it if nobody accepts.
#[sock_ops]
pub fn origin_client(context: SockOpsContext) -> u32 {
    let operation = Operation::new(&context);
    match operation.kind() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => enter_connect(&operation),
        BPF_SOCK_OPS_STATE_CB if operation.next_state() == BPF_TCP_CLOSE => {
            if let Some(key) = client_key(&operation) {
                take(&key);
            }
        }
        _ => {}
    }
    DONE
}

/// At the mesh's cgroup: moves the memory into the accepted socket.
#[sock_ops]
pub fn origin_proxy(context: SockOpsContext) -> u32 {
    let operation = Operation::new(&context);
    if operation.kind() == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        // Fail closed: without an origin the proxy closes the connection.
        if let Err(reason) = accept(&operation) {
            count::add(reason.workload, reason.reason);
        }
    }
    DONE
}

struct Failure {
    workload: u32,
    reason: Reason,
}

#[inline(always)]
fn enter_connect(operation: &Operation<'_>) {
    let Some(origin) = operation
        .socket()
        .and_then(|socket| socket.origin(&DIALLED))
    else {
        return;
    };
    if origin.listener_port != operation.remote_port().to_be() {
        // Dialled again after a disconnect, outside the capture.
        return;
    }
    // Fail closed: without the entry the proxy finds no origin and closes the connection.
    if let Err(reason) = remember(operation, origin) {
        debug!(
            operation.context,
            "dial of workload {} not remembered: reason {}", origin.workload, reason as u32
        );
        count::refused(origin.workload, reason, &origin.address, origin.port);
    }
}

#[inline(always)]
fn remember(operation: &Operation<'_>, origin: &Origin) -> Result<(), Reason> {
    let key = client_key(operation).ok_or(Reason::FlowUnreadable)?;
    if !operation.watch_state() {
        // An entry that nobody would remove could use up the workload's quota for good.
        return Err(Reason::FlowUnreadable);
    }
    let used = quota(origin.workload).ok_or(Reason::FlowMapFull)?;
    // SAFETY: from a lookup; a count that is a little old only moves the limit a little.
    if is_used_up(unsafe { core::ptr::read_volatile(used) }) {
        return Err(Reason::FlowQuota);
    }
    match FLOWS.insert(&key, origin, BPF_NOEXIST.into()) {
        Ok(()) => {
            context::add(used, 1);
            Ok(())
        }
        // Left over from a socket with the same 4-tuple, and already counted.
        Err(EXISTS) => FLOWS
            .insert(&key, origin, 0)
            .map_err(|_full| Reason::FlowMapFull),
        Err(_full) => Err(Reason::FlowMapFull),
    }
}

/// Where the workload's entries are counted; made on first use.
#[inline(always)]
fn quota(workload: u32) -> Option<*mut u64> {
    if let Some(used) = FLOW_QUOTA.get_ptr_mut(workload) {
        return Some(used);
    }
    // Another CPU may have made it meanwhile; the lookup tells.
    let _made = FLOW_QUOTA.insert(workload, 0, BPF_NOEXIST.into());
    FLOW_QUOTA.get_ptr_mut(workload)
}

#[inline(always)]
fn accept(operation: &Operation<'_>) -> Result<(), Failure> {
    let unreadable = Failure {
        workload: 0,
        reason: Reason::FlowUnreadable,
    };
    let Some((local, remote)) = operation.addresses() else {
        return Err(unreadable);
    };
    let key = FlowKey {
        netns: operation.netns(),
        source: remote,
        destination: local,
        source_port: operation.remote_port(),
        destination_port: operation.local_port(),
        padding: 0,
    };
    let Some(mut origin) = take(&key) else {
        return is_outbound_listener(&key).map_or(Ok(()), |workload| {
            Err(Failure {
                workload,
                reason: Reason::NoOrigin,
            })
        });
    };
    let socket = operation.socket().ok_or(unreadable)?;
    if !socket.set_origin(&ACCEPTED, &mut origin) {
        return Err(Failure {
            workload: origin.workload,
            reason: Reason::NoSocketStorage,
        });
    }
    Ok(())
}

/// The mesh accepts tunnels and plaintext connections as well, which have no origin and need none. Only a connection to
/// an outbound listener without one is worth counting: somebody dialled the listener itself.
#[inline(always)]
fn is_outbound_listener(key: &FlowKey) -> Option<u32> {
    // SAFETY: copied at once.
    let workload = unsafe { ENROLLED.get(key.netns) }?;
    let port = key.destination_port.to_be();
    (port == workload.port4 || port == workload.port6).then_some(workload.id)
}

#[inline(always)]
fn client_key(operation: &Operation<'_>) -> Option<FlowKey> {
    let (local, remote) = operation.addresses()?;
    Some(FlowKey {
        netns: operation.netns(),
        source: local,
        destination: remote,
        source_port: operation.local_port(),
        destination_port: operation.remote_port(),
        padding: 0,
    })
}

/// Removes an entry and gives its place back. Both ends may try; the kernel lets one of them succeed.
#[inline(always)]
fn take(key: &FlowKey) -> Option<Origin> {
    // SAFETY: copied before it is removed.
    let origin = *unsafe { FLOWS.get(key) }?;
    FLOWS.remove(key).ok()?;
    if let Some(used) = FLOW_QUOTA.get_ptr_mut(origin.workload) {
        context::add(used, -1);
    }
    Some(origin)
}
