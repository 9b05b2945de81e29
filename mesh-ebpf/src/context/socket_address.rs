//! The context of connect and getpeername hooks: an address that is about to be dialled or shown.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::address::{Address, v4_mapped};

use super::field::{pointer, set_word, word};
use super::{Socket, from_words, to_words};

/// Whether the kernel has `bpf_set_retval` for these hooks. The loader clears it where it is missing, and the verifier
/// then never looks at the call. Without it a refused dial fails with `EPERM` instead of `ECONNREFUSED`.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: u8 = 1;

/// `ECONNREFUSED`.
const CONNECTION_REFUSED: i32 = 111;

/// The address of a `connect()` or `getpeername()`, and its socket.
pub struct SocketAddress<'a> {
    #[cfg_attr(
        not(feature = "log"),
        expect(dead_code, reason = "only log lines need the context itself")
    )]
    pub context: &'a SockAddrContext,
    raw: *mut bpf_sock_addr,
}

impl<'a> SocketAddress<'a> {
    #[inline(always)]
    pub const fn new(context: &'a SockAddrContext) -> Self {
        Self {
            context,
            raw: context.sock_addr,
        }
    }

    #[inline(always)]
    pub fn socket_type(&self) -> u32 {
        // SAFETY: the context is live while the program runs; so for every access below.
        unsafe { word!(self.raw, bpf_sock_addr, type_) }
    }

    #[inline(always)]
    pub fn protocol(&self) -> u32 {
        // SAFETY: see `socket_type`.
        unsafe { word!(self.raw, bpf_sock_addr, protocol) }
    }

    #[inline(always)]
    pub fn socket(&self) -> Option<Socket> {
        // SAFETY: see `socket_type`.
        Socket::new(unsafe { pointer!(self.raw, bpf_sock_addr, __bindgen_anon_1) })
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
        v4_mapped(unsafe { word!(self.raw, bpf_sock_addr, user_ip4) }.to_ne_bytes())
    }

    /// The address, in an IPv6 hook.
    #[inline(always)]
    pub fn address6(&self) -> Address {
        // SAFETY: see `socket_type`.
        from_words(unsafe {
            [
                word!(self.raw, bpf_sock_addr, user_ip6),
                word!(self.raw, bpf_sock_addr, user_ip6 + 4),
                word!(self.raw, bpf_sock_addr, user_ip6 + 8),
                word!(self.raw, bpf_sock_addr, user_ip6 + 12),
            ]
        })
    }

    /// The port, network byte order.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        // SAFETY: see `socket_type`.
        unsafe { word!(self.raw, bpf_sock_addr, user_port) as u16 }
    }

    /// Replaces address and port, in an IPv4 hook. The address is v4-mapped.
    #[inline(always)]
    pub fn replace4(&self, address: &Address, port: u16) {
        let [_, _, _, value] = to_words(address);
        // SAFETY: see `socket_type`; both fields are writable in these hooks.
        unsafe {
            set_word!(self.raw, bpf_sock_addr, user_ip4, value);
            set_word!(self.raw, bpf_sock_addr, user_port, u32::from(port));
        }
    }

    /// Replaces address and port, in an IPv6 hook.
    #[inline(always)]
    pub fn replace6(&self, address: &Address, port: u16) {
        let [first, second, third, fourth] = to_words(address);
        // SAFETY: see `replace4`.
        unsafe {
            set_word!(self.raw, bpf_sock_addr, user_ip6, first);
            set_word!(self.raw, bpf_sock_addr, user_ip6 + 4, second);
            set_word!(self.raw, bpf_sock_addr, user_ip6 + 8, third);
            set_word!(self.raw, bpf_sock_addr, user_ip6 + 12, fourth);
            set_word!(self.raw, bpf_sock_addr, user_port, u32::from(port));
        }
    }

    /// Makes the refused call fail with `ECONNREFUSED`, where the kernel lets a program choose.
    #[inline(always)]
    pub fn fail_as_refused(&self) {
        // SAFETY: a plain static; volatile because the loader replaces its value.
        if unsafe { core::ptr::read_volatile(&raw const HAS_SET_RETVAL) } != 0 {
            // SAFETY: a helper that checks its argument.
            unsafe { helper::bpf_set_retval(-CONNECTION_REFUSED) };
        }
    }
}
