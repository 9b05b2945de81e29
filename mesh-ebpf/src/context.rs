//! The only place that touches contexts and raw helpers: one small type per kind of context.
//!
//! Every field of a context is read and written through [`field`], which knows what the verifier accepts. It must not
//! decide anything.

mod field;
mod frame;
mod operation;
mod option_request;
mod socket_address;

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated as helper;
use mesh_common::address::Address;
use mesh_common::origin::Origin;

pub use frame::{Assignment, DROP, Frame, NEXT, ethertype};
pub use operation::Operation;
pub use option_request::OptionRequest;
pub use socket_address::SocketAddress;

/// `AF_INET`.
pub const INET: u16 = 2;
/// `AF_INET6`.
pub const INET6: u16 = 10;

/// Whether the kernel has `bpf_skc_to_mptcp_sock` (5.19). The loader clears it where it is missing, and the verifier then
/// never looks at the call. Without it an MPTCP application is captured all the same, but shown the listener as its peer.
#[unsafe(no_mangle)]
static HAS_MULTIPATH: u8 = 1;

/// A kernel socket, as helpers take it. Never null.
#[derive(Clone, Copy)]
pub struct Socket(ptr::NonNull<c_void>);

impl Socket {
    /// `None` for a null pointer.
    #[inline(always)]
    pub fn new<T>(socket: *mut T) -> Option<Self> {
        ptr::NonNull::new(socket.cast()).map(Self)
    }

    /// The socket that the application holds, when this one is a subflow of an MPTCP connection.
    #[inline(always)]
    pub fn multipath(self) -> Option<Self> {
        // SAFETY: a plain static; volatile because the loader replaces its value.
        if unsafe { ptr::read_volatile(&raw const HAS_MULTIPATH) } == 0 {
            return None;
        }
        // SAFETY: a helper that checks what it is given.
        Self::new(unsafe { helper::bpf_skc_to_mptcp_sock(self.0.as_ptr()) })
    }

    /// The origin that `map` holds for this socket.
    #[inline(always)]
    pub fn origin(self, map: &'static SkStorage<Origin>) -> Option<&'static Origin> {
        // SAFETY: the verifier checks that the socket is one and that the map is socket storage. The value lives as
        // long as the socket, which outlives the program's run, and only the owner of the socket writes it.
        unsafe { storage(map, self, ptr::null_mut(), 0).as_ref() }
    }

    /// Sets the origin that `map` holds for this socket; false when there is no memory for it.
    #[inline(always)]
    pub fn set_origin(self, map: &'static SkStorage<Origin>, origin: &mut Origin) -> bool {
        let value = storage(
            map,
            self,
            ptr::from_mut(origin),
            BPF_SK_STORAGE_GET_F_CREATE.into(),
        );
        if value.is_null() {
            return false;
        }
        // An entry of an earlier dial is returned as it is, so write in any case.
        // SAFETY: not null, and the verifier knows its size from the map.
        unsafe { *value = *origin };
        true
    }

    /// Removes the origin that `map` holds for this socket, if any.
    #[inline(always)]
    pub fn forget_origin(self, map: &'static SkStorage<Origin>) {
        // SAFETY: as in `origin`.
        unsafe {
            helper::bpf_sk_storage_delete(ptr::from_ref(map).cast_mut().cast(), self.0.as_ptr())
        };
    }
}

#[inline(always)]
fn storage(
    map: &'static SkStorage<Origin>,
    socket: Socket,
    value: *mut Origin,
    flags: u64,
) -> *mut Origin {
    let map = ptr::from_ref(map).cast_mut().cast();
    // SAFETY: a helper call; the verifier checks every argument.
    unsafe { helper::bpf_sk_storage_get(map, socket.0.as_ptr(), value.cast(), flags).cast() }
}

/// The dialling or calling process.
pub mod current {
    use super::helper;

    /// cgroup id of the process.
    #[inline(always)]
    pub fn cgroup() -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { helper::bpf_get_current_cgroup_id() }
    }

    /// cgroup id of its ancestor at `level` (root = 0); 0 when its own cgroup is not that deep.
    #[inline(always)]
    pub fn ancestor_cgroup(level: u32) -> u64 {
        // SAFETY: a helper that checks its argument.
        unsafe { helper::bpf_get_current_ancestor_cgroup_id(level.cast_signed()) }
    }

    /// Its process id (thread group), in the initial namespace.
    #[inline(always)]
    pub fn pid() -> u32 {
        (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32
    }

    /// Its user id, in the initial namespace.
    #[inline(always)]
    pub fn uid() -> u32 {
        aya_ebpf::helpers::bpf_get_current_uid_gid() as u32
    }
}

/// ns of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { helper::bpf_ktime_get_ns() }
}

/// Adds to a shared map value, whatever other CPUs do to it at the same time.
///
/// The compiler offers no atomic addition for this target (it has no compare-and-swap before 5.12), but the plain one,
/// whose result nobody reads, is an instruction of every kernel.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub fn add(value: *mut u64, difference: i64) {
    // SAFETY: the caller has the pointer from a map lookup, which the verifier checks; map values are 8-byte aligned.
    unsafe {
        core::arch::asm!("lock *(u64 *)({value} + 0) += {difference}", value = in(reg) value, difference = in(reg) difference);
    }
}

/// For the build machine's compiler, which only looks at this code.
#[cfg(not(target_arch = "bpf"))]
pub fn add(value: *mut u64, difference: i64) {
    // SAFETY: as above.
    let value = unsafe { core::sync::atomic::AtomicU64::from_ptr(value) };
    value.fetch_add(
        difference.cast_unsigned(),
        core::sync::atomic::Ordering::Relaxed,
    );
}

/// An address as contexts hold it: four words.
#[inline(always)]
fn from_words(words: [u32; 4]) -> Address {
    // SAFETY: plain bytes of the same size.
    unsafe { core::mem::transmute(words) }
}

/// The same the other way round.
#[inline(always)]
fn to_words(address: &Address) -> [u32; 4] {
    // SAFETY: plain bytes of the same size.
    unsafe { core::mem::transmute(*address) }
}
