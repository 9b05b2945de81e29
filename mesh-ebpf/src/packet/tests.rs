//! Every row is one packet, built byte by byte, and what its headers must be read as.

use super::*;

/// A packet in memory.
struct Memory(Vec<u8>);

impl Bytes for Memory {
    fn read<const N: usize>(&self, offset: u32) -> Result<[u8; N], Unreadable> {
        let offset = offset as usize;
        self.0
            .get(offset..offset + N)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Unreadable)
    }
}

const CLIENT: [u8; 4] = [10, 1, 0, 2];
const SERVER: [u8; 4] = [10, 2, 0, 3];
const CLIENT6: Address = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const SERVER6: Address = [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];

fn tcp(flags: u8, options: usize, payload: usize) -> Vec<u8> {
    let mut header = vec![0; 20 + options];
    header[0..2].copy_from_slice(&4242_u16.to_be_bytes());
    header[2..4].copy_from_slice(&80_u16.to_be_bytes());
    header[12] = (((20 + options) / 4) as u8) << 4;
    header[13] = flags;
    header.extend(vec![b'x'; payload]);
    header
}

fn udp() -> Vec<u8> {
    [
        &4242_u16.to_be_bytes()[..],
        &53_u16.to_be_bytes(),
        &8_u16.to_be_bytes(),
        &[0, 0],
    ]
    .concat()
}

fn ipv4(protocol: u8, options: usize, fragment: u16, rest: &[u8]) -> Vec<u8> {
    let length = 20 + options;
    let mut header = vec![0; length];
    header[0] = 0x40 | (length / 4) as u8;
    header[2..4].copy_from_slice(&((length + rest.len()) as u16).to_be_bytes());
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[9] = protocol;
    header[12..16].copy_from_slice(&CLIENT);
    header[16..20].copy_from_slice(&SERVER);
    header.extend(rest);
    header
}

fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    header[6] = next;
    header[8..24].copy_from_slice(&CLIENT6);
    header[24..40].copy_from_slice(&SERVER6);
    header.extend(rest);
    header
}

/// An extension header of `octets` octets of 8.
fn extension(next: u8, octets: u8) -> Vec<u8> {
    let mut header = vec![0; usize::from(octets) * 8];
    header[0] = next;
    header[1] = octets - 1;
    header
}

fn fragment_header(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let field = (offset << 3) | u16::from(more);
    [&[next, 0], &field.to_be_bytes()[..], &[0, 0, 0, 1]].concat()
}

/// What is read, in the words of a row: protocol, ports, flags, part, payload.
type Row = (u8, u16, u16, u8, Part, bool);

fn row(packet: Packet) -> Row {
    (
        packet.protocol,
        packet.source_port,
        packet.destination_port,
        packet.tcp_flags,
        packet.part,
        packet.has_payload,
    )
}

const SYN: Row = (6, 4242, 80, flag::SYN, Part::Whole, false);

#[test]
fn ipv4_packets() {
    let more = 0x2000;
    let dont_fragment = 0x4000;
    let rows: Vec<(&str, Vec<u8>, Result<Row, Unreadable>)> = vec![
        ("SYN", ipv4(6, 0, 0, &tcp(flag::SYN, 0, 0)), Ok(SYN)),
        (
            "SYN that must not be fragmented",
            ipv4(6, 0, dont_fragment, &tcp(flag::SYN, 0, 0)),
            Ok(SYN),
        ),
        (
            "TCP options are no payload",
            ipv4(6, 0, 0, &tcp(flag::SYN, 20, 0)),
            Ok(SYN),
        ),
        (
            "IPv4 options",
            ipv4(6, 40, 0, &tcp(flag::SYN, 0, 0)),
            Ok(SYN),
        ),
        (
            "data behind both",
            ipv4(6, 8, 0, &tcp(flag::ACK, 12, 1)),
            Ok((6, 4242, 80, flag::ACK, Part::Whole, true)),
        ),
        (
            "UDP",
            ipv4(17, 0, 0, &udp()),
            Ok((17, 4242, 53, 0, Part::Whole, false)),
        ),
        (
            "ICMP",
            ipv4(1, 0, 0, &[8, 0, 0, 0]),
            Ok((1, 0, 0, 0, Part::Whole, false)),
        ),
        (
            "SCTP has no ports here",
            ipv4(132, 0, 0, &udp()),
            Ok((132, 0, 0, 0, Part::Whole, false)),
        ),
        (
            "first fragment",
            ipv4(6, 0, more, &tcp(flag::SYN, 0, 4)),
            Ok((6, 4242, 80, flag::SYN, Part::First, true)),
        ),
        (
            "middle fragment",
            ipv4(6, 0, more | 3, &tcp(flag::SYN, 0, 4)),
            Ok((6, 0, 0, 0, Part::Later, false)),
        ),
        (
            "last fragment",
            ipv4(6, 0, 3, b"x"),
            Ok((6, 0, 0, 0, Part::Later, false)),
        ),
        (
            "first fragment without flags",
            ipv4(6, 0, more, &tcp(flag::SYN, 0, 0)[..8]),
            Err(Unreadable),
        ),
        (
            "TCP cut before its flags",
            ipv4(6, 0, 0, &tcp(flag::SYN, 0, 0)[..13]),
            Err(Unreadable),
        ),
        (
            "UDP cut in its ports",
            ipv4(17, 0, 0, &udp()[..3]),
            Err(Unreadable),
        ),
        (
            "cut in the header",
            ipv4(6, 0, 0, &[])[..19].to_vec(),
            Err(Unreadable),
        ),
        ("nothing", Vec::new(), Err(Unreadable)),
    ];
    for (name, bytes, expected) in rows {
        let read = parse_ipv4(&Memory(bytes));
        if let Ok(packet) = read {
            assert_eq!(
                (packet.source, packet.destination),
                (v4_mapped(CLIENT), v4_mapped(SERVER)),
                "{name}"
            );
        }
        assert_eq!(read.map(row), expected, "{name}");
    }
}

#[test]
fn malformed_ipv4_headers() {
    let whole = ipv4(6, 0, 0, &tcp(flag::SYN, 0, 0));
    for (name, at, value) in [
        ("another version", 0, 0x65),
        ("a header shorter than possible", 0, 0x44),
        ("a datagram shorter than its header", 3, 19),
        ("a TCP header shorter than possible", 32, 0x40),
    ] {
        let mut bytes = whole.clone();
        bytes[2] = 0;
        bytes[at] = value;
        assert_eq!(parse_ipv4(&Memory(bytes)), Err(Unreadable), "{name}");
    }
}

#[test]
fn ipv6_packets() {
    let syn = tcp(flag::SYN, 0, 0);
    let behind = |header: Vec<u8>| [header, syn.clone()].concat();
    let chain = |count: usize| {
        let mut headers: Vec<u8> = (1..count).flat_map(|_| extension(60, 1)).collect();
        headers.extend(extension(6, 1));
        behind(headers)
    };
    let rows: Vec<(&str, Vec<u8>, Result<Row, Unreadable>)> = vec![
        ("SYN", ipv6(6, &syn), Ok(SYN)),
        (
            "data",
            ipv6(6, &tcp(flag::ACK, 12, 3)),
            Ok((6, 4242, 80, flag::ACK, Part::Whole, true)),
        ),
        (
            "options are no data",
            ipv6(6, &tcp(flag::ACK, 12, 0)),
            Ok((6, 4242, 80, flag::ACK, Part::Whole, false)),
        ),
        (
            "hop-by-hop options",
            ipv6(0, &behind(extension(6, 2))),
            Ok(SYN),
        ),
        (
            "routing header",
            ipv6(43, &behind(extension(6, 3))),
            Ok(SYN),
        ),
        (
            "destination options",
            ipv6(60, &behind(extension(6, 32))),
            Ok(SYN),
        ),
        (
            "authentication header",
            ipv6(51, &behind([&[6, 4], &[0; 22][..]].concat())),
            Ok(SYN),
        ),
        ("seven headers", ipv6(60, &chain(7)), Ok(SYN)),
        ("eight headers", ipv6(60, &chain(8)), Err(Unreadable)),
        (
            "no next header",
            ipv6(59, &[]),
            Ok((59, 0, 0, 0, Part::Whole, false)),
        ),
        (
            "ESP hides what it carries",
            ipv6(50, &syn),
            Ok((50, 0, 0, 0, Part::Whole, false)),
        ),
        (
            "ICMPv6",
            ipv6(58, &[128, 0, 0, 0]),
            Ok((58, 0, 0, 0, Part::Whole, false)),
        ),
        (
            "UDP",
            ipv6(17, &udp()),
            Ok((17, 4242, 53, 0, Part::Whole, false)),
        ),
        (
            "atomic fragment",
            ipv6(44, &behind(fragment_header(6, 0, false))),
            Ok(SYN),
        ),
        (
            "first fragment",
            ipv6(44, &behind(fragment_header(6, 0, true))),
            Ok((6, 4242, 80, flag::SYN, Part::First, false)),
        ),
        (
            "later fragment",
            ipv6(44, &behind(fragment_header(6, 3, true))),
            Ok((6, 0, 0, 0, Part::Later, false)),
        ),
        (
            "later fragment of options is not read on",
            ipv6(44, &behind(fragment_header(60, 3, true))),
            Ok((60, 0, 0, 0, Part::Later, false)),
        ),
        ("fragment header cut", ipv6(44, &[6, 0, 0]), Err(Unreadable)),
        ("extension header cut", ipv6(0, &[6]), Err(Unreadable)),
        (
            "extension header that points past the end",
            ipv6(0, &extension(6, 2)),
            Err(Unreadable),
        ),
        (
            "TCP cut before its flags",
            ipv6(6, &syn[..13]),
            Err(Unreadable),
        ),
        (
            "cut in the header",
            ipv6(6, &[])[..39].to_vec(),
            Err(Unreadable),
        ),
    ];
    for (name, bytes, expected) in rows {
        let read = parse_ipv6(&Memory(bytes));
        if let Ok(packet) = read {
            assert_eq!(
                (packet.source, packet.destination),
                (CLIENT6, SERVER6),
                "{name}"
            );
        }
        assert_eq!(read.map(row), expected, "{name}");
    }
}

/// Longer than the length field can say: a jumbogram, or several segments in one.
#[test]
fn a_length_of_zero_counts_as_carrying_payload() {
    let mut bytes = ipv4(6, 0, 0, &tcp(flag::ACK, 0, 0));
    bytes[2..4].fill(0);
    assert_eq!(
        parse_ipv4(&Memory(bytes)).map(|packet| packet.has_payload),
        Ok(true)
    );
    let mut bytes = ipv6(6, &tcp(flag::RST, 0, 0));
    bytes[4..6].fill(0);
    assert_eq!(
        parse_ipv6(&Memory(bytes)).map(|packet| packet.has_payload),
        Ok(true)
    );
}

/// Whatever the bytes are, the answer comes without a panic and within the packet.
#[test]
fn every_truncation_and_every_single_byte() {
    let v4 = ipv4(6, 8, 0, &tcp(flag::SYN, 8, 4));
    let v6 = ipv6(
        0,
        &[
            extension(44, 1),
            fragment_header(60, 0, true),
            extension(6, 1),
            tcp(2, 0, 0),
        ]
        .concat(),
    );
    for whole in [v4, v6] {
        for length in 0..=whole.len() {
            let _ = parse_ipv4(&Memory(whole[..length].to_vec()));
            let _ = parse_ipv6(&Memory(whole[..length].to_vec()));
        }
        for at in 0..whole.len() {
            for value in 0..=u8::MAX {
                let mut bytes = whole.clone();
                bytes[at] = value;
                let _ = parse_ipv4(&Memory(bytes.clone()));
                let _ = parse_ipv6(&Memory(bytes));
            }
        }
    }
}
