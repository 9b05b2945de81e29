//! cgroup/getsockopt at the mesh's cgroup: the proxy asks an accepted socket for its original destination, with the
//! option number that netfilter uses, and gets an [`Origin`]. The proxy needs no access to any map for it.

use core::mem::size_of;
use core::ptr::{self, addr_of};

use aya_ebpf::bindings::bpf_sockopt;
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use mesh_common::SO_ORIGINAL_DST;
use mesh_common::origin::Origin;

use crate::context::Socket;
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
    // Fails closed: where there is nothing to tell, the kernel's own answer stands ("no such option"), and the proxy
    // closes a connection without an origin.
    let _answered = answer(context.sockopt);
    PROCEED
}

#[inline(always)]
fn answer(request: *mut bpf_sockopt) -> Option<()> {
    // SAFETY: the context is live while the program runs; volatile accesses of each field's own width.
    let (level, option, socket) = unsafe {
        (
            ptr::read_volatile(addr_of!((*request).level)),
            ptr::read_volatile(addr_of!((*request).optname)),
            ptr::read_volatile(addr_of!((*request).__bindgen_anon_1.sk)),
        )
    };
    if option != SO_ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6) {
        return None;
    }
    let origin = Socket::new(socket)?.origin(&ACCEPTED)?;

    // SAFETY: as above; the buffer is written only after its size was checked, which is also what lets the verifier
    // accept it. The two stores at the end must not become one of 8 bytes.
    unsafe {
        let buffer: *mut u8 = ptr::read_volatile(addr_of!((*request).__bindgen_anon_2.optval)).cast();
        let end = ptr::read_volatile(addr_of!((*request).__bindgen_anon_3.optval_end)) as usize;
        if buffer as usize + size_of::<Origin>() > end {
            return None;
        }
        ptr::write_unaligned(buffer.cast::<Origin>(), *origin);
        ptr::write_volatile(addr_of!((*request).optlen).cast_mut(), size_of::<Origin>() as i32);
        ptr::write_volatile(addr_of!((*request).retval).cast_mut(), 0);
    }
    Some(())
}
