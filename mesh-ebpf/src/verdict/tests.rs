//! The rules of the ingress and guard programs, one row each.

use super::*;

const OWN4: [u8; 4] = [10, 1, 0, 2];
const OWN6: Address = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const OTHER4: [u8; 4] = [10, 2, 0, 3];
const LINK_LOCAL: Address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const UNSPECIFIED: Address = [0; 16];

fn guard(mode: GuardMode, udp: UdpMode) -> Guard {
    Guard {
        workload: 7,
        mode: mode as u32,
        udp: udp as u32,
        address4: OWN4,
        address6: OWN6,
    }
}

fn packet(protocol: u8) -> Packet {
    Packet {
        source: v4_mapped(OWN4),
        destination: v4_mapped(OTHER4),
        source_port: 4242,
        destination_port: 80,
        protocol,
        tcp_flags: 0,
        part: Part::Whole,
        has_payload: false,
    }
}

fn tcp(flags: u8) -> Packet {
    Packet {
        tcp_flags: flags,
        ..packet(protocol::TCP)
    }
}

#[test]
fn arrivals() {
    let first = |flags| Packet {
        part: Part::First,
        ..tcp(flags)
    };
    let later = Packet {
        part: Part::Later,
        tcp_flags: 0,
        ..packet(protocol::TCP)
    };
    for (name, packet, expected) in [
        ("SYN", tcp(flag::SYN), Arrival::Start),
        (
            "SYN with data (fast open)",
            Packet {
                has_payload: true,
                ..tcp(flag::SYN)
            },
            Arrival::Start,
        ),
        ("SYN with every other flag", tcp(!flag::ACK), Arrival::Start),
        ("SYN and ACK", tcp(flag::SYN | flag::ACK), Arrival::Other),
        ("bare ACK", tcp(flag::ACK), Arrival::Acknowledgement),
        (
            "data",
            Packet {
                has_payload: true,
                ..tcp(flag::ACK)
            },
            Arrival::Other,
        ),
        ("FIN", tcp(flag::FIN | flag::ACK), Arrival::Other),
        ("RST", tcp(flag::RST), Arrival::Other),
        (
            "first fragment of a SYN",
            first(flag::SYN),
            Arrival::FragmentedStart,
        ),
        ("first fragment of data", first(flag::ACK), Arrival::Other),
        ("later fragment", later, Arrival::Other),
        ("UDP", packet(protocol::UDP), Arrival::Other),
    ] {
        assert_eq!(arrival(&packet), expected, "{name}");
    }
}

#[test]
fn sources() {
    let from = |source: Address, protocol, port| Packet {
        source,
        destination_port: port,
        ..packet(protocol)
    };
    let guard = guard(GuardMode::Strict, UdpMode::Allow);
    for (name, packet, own) in [
        ("own IPv4", from(v4_mapped(OWN4), 6, 80), true),
        ("own IPv6", from(OWN6, 6, 80), true),
        ("another IPv4", from(v4_mapped(OTHER4), 6, 80), false),
        ("another IPv6", from([0xfd; 16], 6, 80), false),
        (
            "link-local neighbour discovery",
            from(LINK_LOCAL, 58, 0),
            true,
        ),
        ("link-local DHCPv6", from(LINK_LOCAL, 17, 547), true),
        ("link-local DNS", from(LINK_LOCAL, 17, 53), false),
        ("link-local TCP", from(LINK_LOCAL, 6, 80), false),
        (
            "duplicate address detection",
            from(UNSPECIFIED, 58, 0),
            true,
        ),
        ("TCP from ::", from(UNSPECIFIED, 6, 80), false),
        ("DHCP", from(v4_mapped([0; 4]), 17, 67), true),
        ("UDP from 0.0.0.0", from(v4_mapped([0; 4]), 17, 53), false),
        ("TCP from 0.0.0.0", from(v4_mapped([0; 4]), 6, 67), false),
    ] {
        assert_eq!(has_own_source(&packet, &guard), own, "{name}");
    }
}

#[test]
fn a_workload_without_addresses_may_send_from_none() {
    let guard = Guard {
        address4: [0; 4],
        address6: UNSPECIFIED,
        ..guard(GuardMode::Strict, UdpMode::Allow)
    };
    for source in [UNSPECIFIED, v4_mapped([0; 4]), v4_mapped(OWN4), OWN6] {
        let packet = Packet {
            source,
            ..tcp(flag::SYN)
        };
        assert!(!has_own_source(&packet, &guard), "{source:?}");
    }
}

const MODES: [GuardMode; 3] = [GuardMode::Closed, GuardMode::Strict, GuardMode::Permissive];

/// One packet, and the decision in each of the modes closed, strict, permissive.
fn check(name: &str, packet: &Packet, owner: Owner, expected: [Decision; 3]) {
    for (mode, expected) in MODES.into_iter().zip(expected) {
        let decision = towards_mesh(packet, owner, &guard(mode, UdpMode::Allow), false);
        assert_eq!(decision, expected, "{name}, {mode:?}");
    }
}

#[test]
fn tcp_towards_the_mesh() {
    use Decision::{Count, Drop, Pass};
    let uncaptured = [
        Drop(Reason::GuardClosed),
        Drop(Reason::UncapturedTcp),
        Count(Reason::UncapturedTcpPermitted),
    ];
    let ownerless = [
        Drop(Reason::GuardClosed),
        Drop(Reason::OwnerlessTcp),
        Count(Reason::UncapturedTcpPermitted),
    ];
    let data = Packet {
        has_payload: true,
        ..tcp(flag::ACK)
    };
    let reset_with_data = Packet {
        has_payload: true,
        ..tcp(flag::RST)
    };
    let later = Packet {
        part: Part::Later,
        tcp_flags: 0,
        ..packet(protocol::TCP)
    };
    let first = Packet {
        part: Part::First,
        ..tcp(flag::ACK)
    };

    check(
        "a workload's SYN",
        &tcp(flag::SYN),
        Owner::Workload,
        uncaptured,
    );
    check("a workload's data", &data, Owner::Workload, uncaptured);
    check(
        "a workload's RST",
        &tcp(flag::RST),
        Owner::Workload,
        uncaptured,
    );
    check("a workload's fragment", &later, Owner::Workload, uncaptured);
    check("root's SYN", &tcp(flag::SYN), Owner::Root, uncaptured);
    check("nobody's SYN", &tcp(flag::SYN), Owner::Nobody, ownerless);
    check(
        "nobody's SYN with ACK and data",
        &Packet {
            has_payload: true,
            ..tcp(flag::SYN | flag::ACK)
        },
        Owner::Nobody,
        ownerless,
    );
    check(
        "nobody's SYN with FIN",
        &tcp(flag::SYN | flag::FIN),
        Owner::Nobody,
        ownerless,
    );
    check("nobody's data", &data, Owner::Nobody, ownerless);
    check(
        "nobody's reset with data",
        &reset_with_data,
        Owner::Nobody,
        ownerless,
    );
    check("nobody's later fragment", &later, Owner::Nobody, ownerless);
    check("nobody's first fragment", &first, Owner::Nobody, ownerless);
    check(
        "nobody's packet without flags",
        &tcp(0),
        Owner::Nobody,
        ownerless,
    );
    for owner in [Owner::Nobody, Owner::Root] {
        for flags in [
            flag::RST,
            flag::RST | flag::ACK,
            flag::ACK,
            flag::FIN | flag::ACK,
            flag::SYN | flag::ACK,
        ] {
            check("bare control", &tcp(flags), owner, [Pass; 3]);
        }
    }
}

#[test]
fn connections_older_than_enrolment() {
    let data = Packet {
        has_payload: true,
        ..tcp(flag::ACK)
    };
    for mode in MODES {
        let guard = guard(mode, UdpMode::Deny);
        let decision = towards_mesh(&data, Owner::Workload, &guard, true);
        assert_eq!(decision, Decision::Count(Reason::Established), "{mode:?}");
    }
}

#[test]
fn other_protocols_towards_the_mesh() {
    use Decision::{Count, Drop, Pass};
    check("ICMP", &packet(protocol::ICMP), Owner::Workload, [Pass; 3]);
    check(
        "ICMPv6",
        &packet(protocol::ICMPV6),
        Owner::Workload,
        [Pass; 3],
    );
    check("UDP", &packet(protocol::UDP), Owner::Workload, [Pass; 3]);
    let other = [
        Drop(Reason::OtherProtocol),
        Drop(Reason::OtherProtocol),
        Count(Reason::OtherProtocolPermitted),
    ];
    for protocol in [4, 41, 47, 50, 132] {
        check(
            "another protocol",
            &packet(protocol),
            Owner::Workload,
            other,
        );
    }
    for mode in MODES {
        let decision = towards_mesh(
            &packet(protocol::UDP),
            Owner::Workload,
            &guard(mode, UdpMode::Deny),
            false,
        );
        assert_eq!(decision, Drop(Reason::UdpDenied), "{mode:?}");
    }
}

#[test]
fn modes_of_another_version_are_strict() {
    let unknown = Guard {
        mode: 99,
        udp: 99,
        ..guard(GuardMode::Strict, UdpMode::Allow)
    };
    let decide = |packet: &Packet| towards_mesh(packet, Owner::Workload, &unknown, false);
    assert_eq!(
        decide(&tcp(flag::SYN)),
        Decision::Drop(Reason::UncapturedTcp)
    );
    assert_eq!(
        decide(&packet(protocol::UDP)),
        Decision::Drop(Reason::UdpDenied)
    );
    assert_eq!(decide(&packet(47)), Decision::Drop(Reason::OtherProtocol));
}
