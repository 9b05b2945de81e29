//! The context of connect and getpeername hooks: an address that is about to be dialled or shown.

use core::ptr::addr_of;

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::address::{Address, v4_mapped};

use super::{Socket, read, read_ipv6, write};

/// Whether the kernel has `bpf_set_retval` for these hooks. The loader clears it where it is missing, and the verifier
/// then never looks at the call. Without it a refused dial fails with `EPERM` instead of `ECONNREFUSED`.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u8 = 1;

/// `ECONNREFUSED`.
const CONNECTION_REFUSED: i32 = 111;

/// The address of a `connect()` or `getpeername()`, and its socket.
pub struct SocketAddress<'a> {
    #[cfg_attr(not(feature = "log"), expect(dead_code, reason = "only log lines need the context itself"))]
    pub context: &'a SockAddrContext,
    raw: *mut bpf_sock_addr,
}

impl<'a> SocketAddress<'a> {
    #[inline(always)]
    pub const fn new(context: &'a SockAddrContext) -> Self {
        Self { context, raw: context.sock_addr }
    }

    #[inline(always)]
    pub fn socket_type(&self) -> u32 {
        // SAFETY: the context is live while the program runs; so for every access below.
        unsafe { read(addr_of!((*self.raw).type_)) }
    }

    #[inline(always)]
    pub fn protocol(&self) -> u32 {
        // SAFETY: see `socket_type`.
        unsafe { read(addr_of!((*self.raw).protocol)) }
    }

    #[inline(always)]
    pub fn socket(&self) -> Option<Socket> {
        // SAFETY: see `socket_type`.
        Socket::new(unsafe { read(addr_of!((*self.raw).__bindgen_anon_1.sk)) })
    }

    /// Cookie of the socket's network namespace.
    #[inline(always)]
    pub fn netns(&self) -> u64 {
        // SAFETY: a helper that takes this context.
        unsafe { helper::bpf_get_netns_cookie(self.raw.cast()) }
    }

    /// The address, in an IPv4 hook.
    #[inline(always)]
    pub fn address4(&self) -> Address {
        // SAFETY: see `socket_type`.
        v4_mapped(unsafe { read(addr_of!((*self.raw).user_ip4)) }.to_ne_bytes())
    }

    /// The address, in an IPv6 hook.
    #[inline(always)]
    pub fn address6(&self) -> Address {
        // SAFETY: see `socket_type`.
        unsafe { read_ipv6(addr_of!((*self.raw).user_ip6)) }
    }

    /// The port, network byte order.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        // SAFETY: see `socket_type`.
        unsafe { read(addr_of!((*self.raw).user_port)) as u16 }
    }

    /// Replaces address and port, in an IPv4 hook. The address is v4-mapped.
    #[inline(always)]
    pub fn replace4(&self, address: &Address, port: u16) {
        let value = u32::from_ne_bytes([address[12], address[13], address[14], address[15]]);
        // SAFETY: see `socket_type`; both fields are writable in these hooks.
        unsafe {
            write(addr_of!((*self.raw).user_ip4).cast_mut(), value);
            write(addr_of!((*self.raw).user_port).cast_mut(), u32::from(port));
        }
    }

    /// Replaces address and port, in an IPv6 hook.
    #[inline(always)]
    pub fn replace6(&self, address: &Address, port: u16) {
        // SAFETY: see `replace4`.
        let words = unsafe { addr_of!((*self.raw).user_ip6) }.cast_mut().cast::<u32>();
        for index in 0..4 {
            let at = index * 4;
            let word = u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]]);
            // SAFETY: see `replace4`; four words.
            unsafe { write(words.add(index), word) };
        }
        // SAFETY: see `replace4`.
        unsafe { write(addr_of!((*self.raw).user_port).cast_mut(), u32::from(port)) };
    }

    /// Makes the refused call fail with `ECONNREFUSED`, where the kernel lets a program choose.
    #[inline(always)]
    pub fn fail_as_refused(&self) {
        // SAFETY: a plain static; volatile because the loader replaces its value.
        if unsafe { read(&raw const HAS_SET_RETVAL) } != 0 {
            // SAFETY: a helper that checks its argument.
            unsafe { helper::bpf_set_retval(-CONNECTION_REFUSED) };
        }
    }
}
