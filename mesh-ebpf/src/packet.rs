//! Reads the headers of a packet as far as the mesh's decisions need them: addresses, protocol, ports, TCP flags.
//!
//! IPv4 options, IPv6 extension headers and fragments are understood. Whatever cannot be read is an error, never a
//! guess: the callers drop it (fail closed). It must not know where the bytes come from; see [`Bytes`].

use mesh_common::address::{Address, v4_mapped};

/// The bytes of a packet, from the network header on.
pub trait Bytes {
    /// Copies `N` bytes at `offset`; [`Unreadable`] when the packet ends before them.
    fn read<const N: usize>(&self, offset: u32) -> Result<[u8; N], Unreadable>;
}

/// The headers are truncated, malformed, or nested deeper than any honest packet's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unreadable;

/// IP protocol numbers that the mesh tells apart (IANA assigned).
pub mod protocol {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// TCP header flags (RFC 9293 §3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers: the start of a connection.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
}

/// Which part of its datagram a packet is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment, with the transport header.
    First,
    /// A later fragment: ports and flags are elsewhere.
    Later,
}

/// What the headers say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port, host byte order; 0 when the protocol has none or the fragment does not carry it.
    pub source_port: u16,
    /// Destination port, likewise.
    pub destination_port: u16,
    /// IP protocol number of the transport header.
    pub protocol: u8,
    /// Bits of [`flag`]; 0 unless this is TCP and carries its header.
    pub tcp_flags: u8,
    /// Which part of the datagram this is.
    pub part: Part,
    /// Whether bytes follow the TCP header. False for other protocols.
    pub has_payload: bool,
}

/// Where a network header ends and what follows.
struct Network {
    packet: Packet,
    /// Offset of the transport header.
    transport: u32,
    /// Offset of the end of the datagram, by its own length field.
    end: u32,
}

/// Reads an IPv4 packet (RFC 791).
#[inline(always)]
pub fn parse_ipv4(bytes: &impl Bytes) -> Result<Packet, Unreadable> {
    let header: [u8; 20] = bytes.read(0)?;
    let length = u32::from(header[0] & 0x0f) * 4;
    let end = match u16::from_be_bytes([header[2], header[3]]) {
        // What the kernel hands over in one piece may be longer than the field can say ("BIG TCP"); for anything else
        // the kernel itself refuses a zero.
        0 => u32::MAX,
        length => u32::from(length),
    };
    if header[0] >> 4 != 4 || length < 20 || end < length {
        return Err(Unreadable);
    }

    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let source = v4_mapped([header[12], header[13], header[14], header[15]]);
    let destination = v4_mapped([header[16], header[17], header[18], header[19]]);
    let packet = Packet::without_transport(
        source,
        destination,
        header[9],
        part(fragment & 0x1fff, fragment & 0x2000 != 0),
    );
    transport(
        bytes,
        Network {
            packet,
            transport: length,
            end,
        },
    )
}

/// Reads an IPv6 packet (RFC 8200).
#[inline(always)]
pub fn parse_ipv6(bytes: &impl Bytes) -> Result<Packet, Unreadable> {
    let header: [u8; 40] = bytes.read(0)?;
    if header[0] >> 4 != 6 {
        return Err(Unreadable);
    }
    let end = match u16::from_be_bytes([header[4], header[5]]) {
        // A jumbogram (RFC 2675): the real length is in an option, and more than 65,535.
        0 => u32::MAX,
        length => 40 + u32::from(length),
    };
    let mut source: Address = [0; 16];
    source.copy_from_slice(&header[8..24]);
    let mut destination: Address = [0; 16];
    destination.copy_from_slice(&header[24..40]);

    let chain = skip_extension_headers(bytes, header[6])?;
    let packet = Packet::without_transport(source, destination, chain.protocol, chain.part);
    transport(
        bytes,
        Network {
            packet,
            transport: chain.end,
            end,
        },
    )
}

/// Where the chain of IPv6 extension headers leads.
struct Chain {
    protocol: u8,
    part: Part,
    end: u32,
}

/// Honest packets carry two or three; the bound is what makes the walk finite for the verifier.
const MAX_EXTENSION_HEADERS: u32 = 8;

#[inline(always)]
fn skip_extension_headers(bytes: &impl Bytes, first: u8) -> Result<Chain, Unreadable> {
    let mut chain = Chain {
        protocol: first,
        part: Part::Whole,
        end: 40,
    };
    for _ in 0..MAX_EXTENSION_HEADERS {
        match chain.protocol {
            // Hop-by-hop options, routing, destination options, mobility, HIP, shim6: length in 8 octets, less one.
            0 | 43 | 60 | 135 | 139 | 140 => {
                let [next, length] = bytes.read(chain.end)?;
                chain.protocol = next;
                chain.end += (u32::from(length) + 1) * 8;
            }
            // Authentication header (RFC 4302): length in 4 octets, less two.
            51 => {
                let [next, length] = bytes.read(chain.end)?;
                chain.protocol = next;
                chain.end += (u32::from(length) + 2) * 4;
            }
            44 => {
                let [next, _, high, low] = bytes.read(chain.end)?;
                let offset = u16::from_be_bytes([high, low]);
                chain.protocol = next;
                chain.end += 8;
                chain.part = part(offset >> 3, offset & 1 != 0);
                if chain.part == Part::Later {
                    // What follows is the middle of something: its first byte is not a header.
                    return Ok(chain);
                }
            }
            _ => return Ok(chain),
        }
    }
    Err(Unreadable)
}

#[inline(always)]
const fn part(offset: u16, more: bool) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        (_, _) => Part::Later,
    }
}

#[inline(always)]
fn transport(bytes: &impl Bytes, network: Network) -> Result<Packet, Unreadable> {
    let Network {
        mut packet,
        transport,
        end,
    } = network;
    if packet.part == Part::Later {
        return Ok(packet);
    }
    match packet.protocol {
        protocol::TCP => {
            // Up to the flags: a first fragment that hides them (RFC 1858) is unreadable.
            let header: [u8; 14] = bytes.read(transport)?;
            let length = u32::from(header[12] >> 4) * 4;
            if length < 20 {
                return Err(Unreadable);
            }
            packet.ports([header[0], header[1], header[2], header[3]]);
            packet.tcp_flags = header[13];
            packet.has_payload = end > transport + length;
        }
        protocol::UDP => packet.ports(bytes.read(transport)?),
        _ => {}
    }
    Ok(packet)
}

impl Packet {
    #[inline(always)]
    const fn without_transport(
        source: Address,
        destination: Address,
        protocol: u8,
        part: Part,
    ) -> Self {
        Self {
            source,
            destination,
            source_port: 0,
            destination_port: 0,
            protocol,
            tcp_flags: 0,
            part,
            has_payload: false,
        }
    }

    #[inline(always)]
    const fn ports(&mut self, bytes: [u8; 4]) {
        self.source_port = u16::from_be_bytes([bytes[0], bytes[1]]);
        self.destination_port = u16::from_be_bytes([bytes[2], bytes[3]]);
    }
}

#[cfg(test)]
mod tests;
