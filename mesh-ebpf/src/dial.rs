//! What is done with a dial of an enrolled workload: the part of the connect hooks that only looks at values.

use mesh_common::address::{Address, v4_mapped};
use mesh_common::counter::Reason;
use mesh_common::origin::MAX_FLOWS_PER_WORKLOAD;
use mesh_common::workload::{Class, Workload};

/// `SOCK_STREAM`.
const STREAM: u32 = 1;
/// `IPPROTO_TCP`.
const TCP: u32 = 6;
/// `IPPROTO_MPTCP`. On 6.18 the hooks see the first subflow, whose protocol is TCP, but no kernel promises that.
const MULTIPATH_TCP: u32 = 262;

/// Whether a socket of this type and protocol is one that the mesh carries.
#[inline(always)]
pub const fn is_carried(socket_type: u32, protocol: u32) -> bool {
    socket_type == STREAM && (protocol == TCP || protocol == MULTIPATH_TCP)
}

/// Whether an address of the common form stands for an IPv4 address.
#[inline(always)]
pub const fn is_v4_mapped(address: &Address) -> bool {
    let head = u64::from_ne_bytes(*first_half(address));
    head == 0 && address[8] == 0 && address[9] == 0 && address[10] == 0xff && address[11] == 0xff
}

#[inline(always)]
const fn first_half(address: &Address) -> &[u8; 8] {
    match address.first_chunk() {
        Some(half) => half,
        None => &[0; 8],
    }
}

/// Whether a dial stays inside the workload: loopback, the unspecified address (which means loopback), its own address.
#[inline(always)]
pub fn stays_inside(destination: &Address, workload: &Workload) -> bool {
    if is_v4_mapped(destination) {
        return destination[12] == 127
            || *destination == v4_mapped([0; 4])
            || *destination == v4_mapped(workload.address4);
    }
    // ::, ::1 and the workload's address; a workload without one has :: here.
    let mut loopback: Address = [0; 16];
    loopback[15] = 1;
    *destination == [0; 16] || *destination == loopback || *destination == workload.address6
}

/// Where a captured dial is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Listener {
    /// The workload's own address, of the dialled family.
    pub address: Address,
    /// Port of the outbound listener, network byte order.
    pub port: u16,
}

/// The outbound listener for a destination's family, if the workload has an address and a listener of that family.
#[inline(always)]
pub fn listener(destination: &Address, workload: &Workload) -> Option<Listener> {
    let found = if is_v4_mapped(destination) {
        Listener {
            address: v4_mapped(workload.address4),
            port: workload.port4,
        }
    } else {
        Listener {
            address: workload.address6,
            port: workload.port6,
        }
    };
    let is_absent =
        found.port == 0 || found.address == [0; 16] || found.address == v4_mapped([0; 4]);
    (!is_absent).then_some(found)
}

/// What happens to a dial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It goes out untouched, and nobody asks.
    Inside,
    /// It goes out untouched, to a destination outside the mesh.
    Bypass,
    /// It goes to the proxy.
    Redirect(Listener),
    /// It fails with `ECONNREFUSED`.
    Refuse(Reason),
}

/// Decides about a dial that leaves the workload; `class` is the number found in `DESTINATIONS`, if any. A number that
/// this version does not know is refused (fail closed).
#[inline(always)]
pub fn decide(destination: &Address, class: Option<u32>, workload: &Workload) -> Verdict {
    const BYPASS: u32 = Class::Bypass as u32;
    const CAPTURE: u32 = Class::Capture as u32;
    match class {
        None | Some(BYPASS) => Verdict::Bypass,
        Some(CAPTURE) => match listener(destination, workload) {
            Some(listener) => Verdict::Redirect(listener),
            None => Verdict::Refuse(Reason::NoListener),
        },
        Some(_) => Verdict::Refuse(Reason::DestinationDenied),
    }
}

/// Whether a workload has as many dials under way as it may. The count starts anew when a workload is enrolled again, and
/// dials from before still give their places back: it may be below zero for good, which is not the same as enormous.
#[inline(always)]
pub const fn is_used_up(dials: u64) -> bool {
    dials.cast_signed() >= MAX_FLOWS_PER_WORKLOAD.cast_signed()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn address(text: &str) -> Address {
        match text.parse() {
            Ok(std::net::IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
            Ok(std::net::IpAddr::V6(v6)) => v6.octets(),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    fn workload() -> Workload {
        Workload {
            id: 7,
            flags: 0,
            address4: [10, 1, 0, 2],
            port4: 41_001_u16.to_be(),
            port6: 41_002_u16.to_be(),
            address6: "fd01::2".parse::<Ipv6Addr>().expect("address").octets(),
        }
    }

    #[test]
    fn only_tcp_streams_are_carried() {
        for (socket_type, protocol, carried) in [
            (1, 6, true),
            (1, 262, true),
            (2, 17, false),
            (1, 132, false),
            (5, 132, false),
            (3, 6, false),
        ] {
            assert_eq!(
                is_carried(socket_type, protocol),
                carried,
                "type {socket_type} protocol {protocol}"
            );
        }
    }

    #[test]
    fn what_stays_inside() {
        for (destination, inside) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("0.0.0.0", true),
            ("10.1.0.2", true),
            ("::ffff:10.1.0.2", true),
            ("10.1.0.3", false),
            ("::1", true),
            ("::", true),
            ("fd01::2", true),
            ("fd01::3", false),
            ("::2", false),
            // IPv4-compatible, not IPv4-mapped.
            ("::10.1.0.2", false),
        ] {
            assert_eq!(
                stays_inside(&address(destination), &workload()),
                inside,
                "{destination}"
            );
        }
    }

    #[test]
    fn a_workload_without_an_address_of_the_family_is_refused() {
        let bare = Workload {
            address4: [0; 4],
            address6: [0; 16],
            ..workload()
        };
        let unheard = Workload {
            port4: 0,
            port6: 0,
            ..workload()
        };
        for workload in [bare, unheard] {
            for destination in ["10.9.9.9", "fd09::9"] {
                let verdict = decide(
                    &address(destination),
                    Some(Class::Capture as u32),
                    &workload,
                );
                assert_eq!(
                    verdict,
                    Verdict::Refuse(Reason::NoListener),
                    "{destination}"
                );
            }
        }
    }

    #[test]
    fn a_count_below_zero_does_not_shut_a_workload_out() {
        assert!(!is_used_up(0));
        assert!(!is_used_up(MAX_FLOWS_PER_WORKLOAD - 1));
        assert!(is_used_up(MAX_FLOWS_PER_WORKLOAD));
        assert!(is_used_up(MAX_FLOWS_PER_WORKLOAD + 1));
        assert!(!is_used_up(0_u64.wrapping_sub(1)));
    }

    #[test]
    fn the_class_decides() {
        let v4 = Listener {
            address: address("10.1.0.2"),
            port: 41_001_u16.to_be(),
        };
        let v6 = Listener {
            address: address("fd01::2"),
            port: 41_002_u16.to_be(),
        };
        for (destination, class, verdict) in [
            ("10.9.9.9", None, Verdict::Bypass),
            ("10.9.9.9", Some(0), Verdict::Bypass),
            ("10.9.9.9", Some(1), Verdict::Redirect(v4)),
            ("fd09::9", Some(1), Verdict::Redirect(v6)),
            (
                "10.9.9.9",
                Some(2),
                Verdict::Refuse(Reason::DestinationDenied),
            ),
            (
                "10.9.9.9",
                Some(77),
                Verdict::Refuse(Reason::DestinationDenied),
            ),
        ] {
            assert_eq!(
                decide(&address(destination), class, &workload()),
                verdict,
                "{destination} {class:?}"
            );
        }
    }
}
