//! cgroup/getsockopt at the mesh's cgroup: the proxy asks an accepted socket for its original destination, with the
//! option number that netfilter uses, and gets a [`mesh_common::origin::Origin`]. The proxy needs no access to any map
//! for it.

use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use mesh_common::SO_ORIGINAL_DST;

use crate::context::OptionRequest;
use crate::maps::ACCEPTED;

/// Lets the call go on, with the kernel's answer or ours.
const PROCEED: i32 = 1;

/// `SOL_IP`.
const SOL_IP: i32 = 0;
/// `SOL_IPV6`.
const SOL_IPV6: i32 = 41;

/// `getsockopt()` of a process of the mesh.
#[cgroup_sockopt(getsockopt)]
pub fn origdst(context: SockoptContext) -> i32 {
    let request = OptionRequest::new(&context);
    let is_ours =
        request.option() == SO_ORIGINAL_DST && matches!(request.level(), SOL_IP | SOL_IPV6);
    // Fails closed: where there is nothing to tell, the kernel's own answer stands ("no such option"), and the proxy
    // closes a connection without an origin.
    if is_ours && let Some(origin) = request.socket().and_then(|socket| socket.origin(&ACCEPTED)) {
        request.answer(origin);
    }
    PROCEED
}
