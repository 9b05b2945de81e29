//! The context of getsockopt programs: somebody asks a socket for an option.

use core::ptr;

use aya_ebpf::bindings::bpf_sockopt;
use aya_ebpf::programs::SockoptContext;

use super::Socket;
use super::field::{pointer, set_word, word};

/// A `getsockopt()` call, after the kernel made its own answer.
pub struct OptionRequest {
    raw: *mut bpf_sockopt,
}

impl OptionRequest {
    #[inline(always)]
    pub const fn new(context: &SockoptContext) -> Self {
        Self {
            raw: context.sockopt,
        }
    }

    #[inline(always)]
    pub fn level(&self) -> i32 {
        // SAFETY: the context is live while the program runs; so for every access below.
        unsafe { word!(self.raw, bpf_sockopt, level) }.cast_signed()
    }

    #[inline(always)]
    pub fn option(&self) -> i32 {
        // SAFETY: see `level`.
        unsafe { word!(self.raw, bpf_sockopt, optname) }.cast_signed()
    }

    #[inline(always)]
    pub fn socket(&self) -> Option<Socket> {
        // SAFETY: see `level`.
        Socket::new(unsafe { pointer!(self.raw, bpf_sockopt, __bindgen_anon_1) })
    }

    /// Answers with `value`, if the caller's buffer holds it; otherwise the kernel's own answer stands.
    #[inline(always)]
    pub fn answer<T: Copy>(&self, value: &T) {
        // SAFETY: see `level`; the buffer is written only after its size was checked, which is also what lets the
        // verifier accept it.
        unsafe {
            let buffer = pointer!(self.raw, bpf_sockopt, __bindgen_anon_2);
            let end = pointer!(self.raw, bpf_sockopt, __bindgen_anon_3);
            if buffer.byte_add(size_of::<T>()) > end {
                return;
            }
            ptr::write_unaligned(buffer.cast::<T>(), *value);
            set_word!(self.raw, bpf_sockopt, optlen, size_of::<T>() as u32);
            set_word!(self.raw, bpf_sockopt, retval, 0);
        }
    }
}
