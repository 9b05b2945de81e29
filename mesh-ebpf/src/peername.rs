//! cgroup/getpeername4 and getpeername6, at the capture root: an application that asks for its peer gets the
//! destination that it dialled, not the listener that it was sent to.
//!
//! The kernel runs this hook for `accept()` too; accepted sockets have no dialled origin, so they pass untouched.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::origin::Origin;

use crate::context::SocketAddress;
use crate::maps::DIALLED;

/// These hooks may only let the call go on.
const PROCEED: i32 = 1;

/// `getpeername()` on an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn peername4(context: SockAddrContext) -> i32 {
    let call = SocketAddress::new(&context);
    if let Some(origin) = dialled(&call) {
        call.replace4(&origin.address, origin.port);
    }
    PROCEED
}

/// `getpeername()` on an IPv6 socket; v4-mapped addresses are kept in their mapped form.
#[cgroup_sock_addr(getpeername6)]
pub fn peername6(context: SockAddrContext) -> i32 {
    let call = SocketAddress::new(&context);
    if let Some(origin) = dialled(&call) {
        call.replace6(&origin.address, origin.port);
    }
    PROCEED
}

/// What the socket dialled, if it is still connected to the listener that it was sent to then. Fails open: without an
/// origin the application is shown the true other end of its socket, which is no secret.
#[inline(always)]
fn dialled(call: &SocketAddress<'_>) -> Option<&'static Origin> {
    let origin = call.socket()?.origin(&DIALLED)?;
    (origin.listener_port == call.port()).then_some(origin)
}
