//! Packets made by hand, as an attacker inside a workload would send them: past `connect`, past TCP, with any source.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet to send.
#[derive(Clone, Debug)]
pub struct Forgery {
    /// The source that it claims.
    pub source: SocketAddr,
    /// Its destination.
    pub destination: SocketAddr,
    /// UDP rather than TCP.
    pub udp: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Forgery {
    /// Sends it with a raw IP socket, header included.
    pub fn send_raw(&self) -> io::Result<usize> {
        let domain = Domain::for_address(self.destination);
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        // The port of a raw IPv6 destination is a protocol number, and must be zero here.
        let to = SockAddr::from(SocketAddr::new(self.destination.ip(), 0));
        socket.send_to(&self.packet()?, &to)
    }

    /// Sends it with a packet socket on an interface, to a hardware address.
    pub fn send_on(&self, interface: &str, hardware: [u8; 6]) -> io::Result<usize> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let kind: u16 = if self.destination.is_ipv4() {
            0x0800
        } else {
            0x86dd
        };
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
        // SAFETY: all bytes zero is a valid sockaddr_ll, which is plain numbers.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = kind.to_be();
        address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&hardware);
        let packet = self.packet()?;
        // SAFETY: packet and address live until the call returns, and their sizes are given.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                packet.as_ptr().cast(),
                packet.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        usize::try_from(sent).map_err(|_negative| io::Error::last_os_error())
    }

    /// IP header, transport header, payload.
    fn packet(&self) -> io::Result<Vec<u8>> {
        let transport = self.transport();
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = u16::try_from(20 + transport.len()).map_err(io::Error::other)?;
                let mut header = vec![0x45, 0];
                header.extend(length.to_be_bytes());
                // Identification, no fragments, time to live, protocol, checksum (below).
                header.extend([0, 0, 0x40, 0, 64, self.protocol(), 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                let checksum = checksum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                Ok([header, transport].concat())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let length = u16::try_from(transport.len()).map_err(io::Error::other)?;
                let mut header = vec![0x60, 0, 0, 0];
                header.extend(length.to_be_bytes());
                header.extend([self.protocol(), 64]);
                header.extend(source.octets());
                header.extend(destination.octets());
                Ok([header, transport].concat())
            }
            _ => Err(io::Error::other(
                "source and destination are of different families",
            )),
        }
    }

    /// A TCP segment with PSH and ACK, as in the middle of a connection, or a UDP datagram.
    fn transport(&self) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source.port().to_be_bytes());
        segment.extend(self.destination.port().to_be_bytes());
        let checksum_at = if self.udp {
            let length = u16::try_from(8 + self.payload.len()).unwrap_or(u16::MAX);
            segment.extend(length.to_be_bytes());
            segment.extend([0, 0]);
            6
        } else {
            segment.extend(0x0102_0304_u32.to_be_bytes());
            segment.extend(0x0506_0708_u32.to_be_bytes());
            segment.extend([0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
            16
        };
        segment.extend(&self.payload);
        let checksum = checksum(&[self.pseudo_header(segment.len()), segment.clone()].concat());
        segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let mut header = Vec::new();
        for address in [self.source.ip(), self.destination.ip()] {
            match address {
                IpAddr::V4(address) => header.extend(address.octets()),
                IpAddr::V6(address) => header.extend(address.octets()),
            }
        }
        header.extend(length.to_be_bytes());
        header.extend(u32::from(self.protocol()).to_be_bytes());
        header
    }

    fn protocol(&self) -> u8 {
        if self.udp { UDP } else { TCP }
    }
}

/// The checksum of the internet protocols (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn a_header_with_its_checksum_sums_to_nothing() {
        // The worked example of RFC 1071, §3.
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }
}
