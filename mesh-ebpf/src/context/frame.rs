//! The context of tcx programs: a packet.

use core::ptr;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_CURRENT_NETNS, BPF_TCP_LISTEN, bpf_hdr_start_off,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Ipv4Tuple,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Ipv6Tuple,
};
use aya_ebpf::helpers::generated as helper;
use aya_ebpf::programs::TcContext;
use mesh_common::inbound::ListenerKey;
use mesh_ebpf::dial::is_v4_mapped;
use mesh_ebpf::packet::{Bytes, Packet, Unreadable, parse_ipv4, parse_ipv6};

use super::field::word;
use super::to_words;
use crate::maps::LISTENERS;

/// `TCX_NEXT`: let the next program decide, so that other people's programs on the device still run; and
/// `TC_ACT_UNSPEC` under clsact, which means the same.
pub const NEXT: i32 = -1;
/// `TCX_DROP`, `TC_ACT_SHOT`.
pub const DROP: i32 = 2;

/// Ethernet types, as the context holds them.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// Address Resolution Protocol.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// Enough for every header that a parser here reads.
const HEADERS: u32 = 512;

/// What came of giving a packet to a listener.
pub enum Assignment {
    /// The listener gets it.
    Done,
    /// There is no such listener.
    NoListener,
    /// The kernel refused.
    Refused,
}

/// A packet on its way through a device.
pub struct Frame<'a> {
    #[cfg_attr(
        not(feature = "log"),
        expect(dead_code, reason = "only log lines need the context itself")
    )]
    pub context: &'a TcContext,
    raw: *mut __sk_buff,
}

impl<'a> Frame<'a> {
    #[inline(always)]
    pub const fn new(context: &'a TcContext) -> Self {
        Self {
            context,
            raw: context.skb.skb,
        }
    }

    /// Index of the device.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        // SAFETY: the context is live while the program runs; so for every access below.
        unsafe { word!(self.raw, __sk_buff, ifindex) }
    }

    /// The protocol that the kernel will hand the packet to: an Ethernet type, host byte order.
    #[inline(always)]
    pub fn ethertype(&self) -> u16 {
        // SAFETY: see `interface`.
        u16::from_be(unsafe { word!(self.raw, __sk_buff, protocol) } as u16)
    }

    /// Whether the packet carries a VLAN tag (the kernel took it off the bytes).
    #[inline(always)]
    pub fn is_tagged(&self) -> bool {
        // SAFETY: see `interface`.
        unsafe { word!(self.raw, __sk_buff, vlan_present) != 0 }
    }

    /// cgroup id of the socket that sent the packet; 0 when there is none. It survives veth pairs and bridges within
    /// the node, and cannot be chosen by a workload.
    #[inline(always)]
    pub fn owner(&self) -> u64 {
        // SAFETY: a helper that takes this context.
        unsafe { helper::bpf_skb_cgroup_id(self.raw) }
    }

    /// The packet's headers; `None` when it is neither IPv4 nor IPv6.
    ///
    /// Headers are nearly always in the linear part of a packet, the only one that can be read relative to the
    /// network header; where they are not, they are pulled there and read again.
    #[inline(always)]
    pub fn packet(&self) -> Result<Option<Packet>, Unreadable> {
        for attempt in 0..2 {
            let packet = match self.ethertype() {
                ethertype::IPV4 => parse_ipv4(self),
                ethertype::IPV6 => parse_ipv6(self),
                _ => return Ok(None),
            };
            if let Ok(packet) = packet {
                return Ok(Some(packet));
            }
            if attempt == 1 || !self.pull() {
                break;
            }
        }
        Err(Unreadable)
    }

    #[inline(always)]
    fn pull(&self) -> bool {
        // SAFETY: see `interface`; a helper that takes this context.
        unsafe {
            let length = word!(self.raw, __sk_buff, len).min(HEADERS);
            helper::bpf_skb_pull_data(self.raw, length) == 0
        }
    }

    /// Whether a socket of its own waits for this TCP packet: an established one, one in the making, one in TIME_WAIT;
    /// listeners do not count.
    #[inline(always)]
    pub fn has_socket(&self, packet: &Packet) -> bool {
        let [.., source4] = to_words(&packet.source);
        let [.., destination4] = to_words(&packet.destination);
        let (sport, dport) = (packet.source_port.to_be(), packet.destination_port.to_be());
        if is_v4_mapped(&packet.destination) {
            let (saddr, daddr) = (source4, destination4);
            self.finds(&mut Ipv4Tuple {
                saddr,
                daddr,
                sport,
                dport,
            })
        } else {
            let (saddr, daddr) = (to_words(&packet.source), to_words(&packet.destination));
            self.finds(&mut Ipv6Tuple {
                saddr,
                daddr,
                sport,
                dport,
            })
        }
    }

    #[inline(always)]
    fn finds<T>(&self, tuple: &mut T) -> bool {
        // SAFETY: a helper call with this context and a tuple on the stack, whose size tells the family; the verifier
        // makes sure that a socket that was found is released.
        unsafe {
            let size = size_of::<T>() as u32;
            let here = u64::from(BPF_F_CURRENT_NETNS.cast_unsigned());
            let socket = helper::bpf_skc_lookup_tcp(
                self.raw.cast(),
                ptr::from_mut(tuple).cast(),
                size,
                here,
                0,
            );
            if socket.is_null() {
                return false;
            }
            let state = ptr::read_volatile(&raw const (*socket).state);
            helper::bpf_sk_release(socket.cast());
            state != BPF_TCP_LISTEN
        }
    }

    /// Gives the packet, which must start or end a handshake, to a listening socket.
    #[inline(always)]
    pub fn assign(&self, listener: &ListenerKey) -> Assignment {
        // SAFETY: helper calls with a map, a key on the stack, this context, and the looked-up socket, which the
        // verifier makes sure is released exactly once.
        unsafe {
            let map = ptr::from_ref(&LISTENERS).cast_mut().cast();
            let socket = helper::bpf_map_lookup_elem(map, ptr::from_ref(listener).cast());
            if socket.is_null() {
                return Assignment::NoListener;
            }
            let result = helper::bpf_sk_assign(self.raw.cast(), socket, 0);
            helper::bpf_sk_release(socket);
            if result == 0 {
                Assignment::Done
            } else {
                Assignment::Refused
            }
        }
    }
}

impl Bytes for Frame<'_> {
    /// Relative to the network header, so that devices without an Ethernet header work too.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Result<[u8; N], Unreadable> {
        let mut bytes = [0; N];
        // SAFETY: a helper that writes N bytes into an array of N.
        let result = unsafe {
            helper::bpf_skb_load_bytes_relative(
                self.raw.cast(),
                offset,
                bytes.as_mut_ptr().cast(),
                N as u32,
                bpf_hdr_start_off::BPF_HDR_START_NET,
            )
        };
        if result == 0 {
            Ok(bytes)
        } else {
            Err(Unreadable)
        }
    }
}
