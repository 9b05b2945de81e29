//! The TCP connections of a namespace that are older than its enrolment, by sock_diag.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseBuffer, InetResponseHeader, SocketId, StateFlags,
};
use netlink_packet_utils::{Emitable, Parseable};

use crate::netlink::Netlink;

/// One connection, seen from the namespace; never v4-mapped.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Connection {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// Every connection of the calling thread's namespace, from its first SYN on: one that was dialled before enrolment may
/// still be waiting for its answer.
pub(crate) fn list() -> io::Result<Vec<Connection>> {
    let mut netlink = Netlink::sock_diag()?;
    let mut connections = Vec::new();
    for (family, socket_id) in [
        (AF_INET, SocketId::new_v4()),
        (AF_INET6, SocketId::new_v6()),
    ] {
        let request = Diagnosis::Request(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE,
            socket_id,
        });
        for answer in netlink.dump(&request)? {
            if let Diagnosis::Answer(header) = answer {
                connections.push(connection(&header.socket_id));
            }
        }
    }
    Ok(connections)
}

fn connection(id: &SocketId) -> Connection {
    Connection {
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
    }
}

/// The two messages that we exchange, for the netlink crates' present traits (sock_diag's crate is a generation behind).
#[derive(Clone, Debug)]
enum Diagnosis {
    Request(InetRequest),
    Answer(InetResponseHeader),
}

impl NetlinkSerializable for Diagnosis {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Request(request) => request.buffer_len(),
            Self::Answer(answer) => answer.buffer_len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Request(request) => request.emit(buffer),
            Self::Answer(answer) => answer.emit(buffer),
        }
    }
}

impl NetlinkDeserializable for Diagnosis {
    type Error = io::Error;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, io::Error> {
        let buffer = InetResponseBuffer::new_checked(payload).map_err(io::Error::other)?;
        InetResponseHeader::parse(&buffer)
            .map(Self::Answer)
            .map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn sees_both_families_and_unmaps() -> io::Result<()> {
        let listener = TcpListener::bind("[::]:0")?;
        let port = listener.local_addr()?.port();
        // One through IPv6, one v4-mapped at the listener.
        let six = TcpStream::connect((Ipv6Addr::LOCALHOST, port))?;
        let four = TcpStream::connect(("127.0.0.1", port))?;
        let _accepted = (listener.accept()?, listener.accept()?);
        let all = list()?;
        for stream in [&six, &four] {
            let client = Connection {
                local: stream.local_addr()?,
                remote: stream.peer_addr()?,
            };
            let server = Connection {
                local: client.remote,
                remote: client.local,
            };
            assert!(all.contains(&client), "{client:?}");
            assert!(all.contains(&server), "{server:?}");
        }
        assert!(
            all.iter()
                .all(|c| c.local.port() != port || c.remote.port() != 0)
        );
        Ok(())
    }
}
