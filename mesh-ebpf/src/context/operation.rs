//! The context of sockops programs: something happened to a TCP connection.

use aya_ebpf::bindings::{BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::SockOpsContext;
use mesh_common::address::{Address, v4_mapped};

use super::field::{pointer, word};
use super::{INET, INET6, Socket, from_words};

/// An operation on a connection.
pub struct Operation<'a> {
    #[cfg_attr(
        not(feature = "log"),
        expect(dead_code, reason = "only log lines need the context itself")
    )]
    pub context: &'a SockOpsContext,
    raw: *mut bpf_sock_ops,
}

impl<'a> Operation<'a> {
    #[inline(always)]
    pub const fn new(context: &'a SockOpsContext) -> Self {
        Self {
            context,
            raw: context.ops,
        }
    }

    /// Which operation: a `BPF_SOCK_OPS_*` number.
    #[inline(always)]
    pub fn kind(&self) -> u32 {
        // SAFETY: the context is live while the program runs; so for every access below.
        unsafe { word!(self.raw, bpf_sock_ops, op) }
    }

    /// The state that the connection goes to, in a state callback.
    #[inline(always)]
    pub fn next_state(&self) -> u32 {
        // SAFETY: see `kind`.
        unsafe { word!(self.raw, bpf_sock_ops, __bindgen_anon_1 + 4) }
    }

    #[inline(always)]
    pub fn socket(&self) -> Option<Socket> {
        // SAFETY: see `kind`.
        Socket::new(unsafe { pointer!(self.raw, bpf_sock_ops, __bindgen_anon_2) })
    }

    /// Cookie of the socket's network namespace.
    #[inline(always)]
    pub fn netns(&self) -> u64 {
        // SAFETY: a helper that takes this context.
        unsafe { helper::bpf_get_netns_cookie(self.raw.cast()) }
    }

    /// Local and remote address, for the two families of the internet. The IPv6 fields of an `AF_INET6` socket hold
    /// the mapped form of an IPv4 connection, so the client's and the server's view agree whatever their families are.
    #[inline(always)]
    pub fn addresses(&self) -> Option<(Address, Address)> {
        const V4: u32 = INET as u32;
        const V6: u32 = INET6 as u32;
        // SAFETY: see `kind`.
        unsafe {
            match word!(self.raw, bpf_sock_ops, family) {
                V4 => Some((
                    v4_mapped(word!(self.raw, bpf_sock_ops, local_ip4).to_ne_bytes()),
                    v4_mapped(word!(self.raw, bpf_sock_ops, remote_ip4).to_ne_bytes()),
                )),
                V6 => Some((
                    from_words([
                        word!(self.raw, bpf_sock_ops, local_ip6),
                        word!(self.raw, bpf_sock_ops, local_ip6 + 4),
                        word!(self.raw, bpf_sock_ops, local_ip6 + 8),
                        word!(self.raw, bpf_sock_ops, local_ip6 + 12),
                    ]),
                    from_words([
                        word!(self.raw, bpf_sock_ops, remote_ip6),
                        word!(self.raw, bpf_sock_ops, remote_ip6 + 4),
                        word!(self.raw, bpf_sock_ops, remote_ip6 + 8),
                        word!(self.raw, bpf_sock_ops, remote_ip6 + 12),
                    ]),
                )),
                _ => None,
            }
        }
    }

    /// The local port, host byte order.
    #[inline(always)]
    pub fn local_port(&self) -> u16 {
        // SAFETY: see `kind`.
        unsafe { word!(self.raw, bpf_sock_ops, local_port) as u16 }
    }

    /// The remote port, host byte order. The kernel keeps it in network byte order, as the upper half of a word.
    #[inline(always)]
    pub fn remote_port(&self) -> u16 {
        // SAFETY: see `kind`.
        u32::from_be(unsafe { word!(self.raw, bpf_sock_ops, remote_port) }) as u16
    }

    /// Asks for a callback at every change of the connection's state, besides what others asked for.
    #[inline(always)]
    pub fn watch_state(&self) -> bool {
        // SAFETY: see `kind`; a helper that takes this context.
        unsafe {
            let flags =
                word!(self.raw, bpf_sock_ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
            helper::bpf_sock_ops_cb_flags_set(self.raw, flags.cast_signed()) == 0
        }
    }
}
