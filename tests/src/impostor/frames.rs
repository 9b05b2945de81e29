//! Frames of `warren/1`, as far as a story needs them: type u8, payload length u24, stream u32, payload.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};

pub(super) const OPEN: u8 = 1;
pub(super) const OPEN_RESULT: u8 = 2;
pub(super) const DATA: u8 = 3;
pub(super) const FIN: u8 = 4;
pub(super) const RESET: u8 = 5;
pub(super) const RAW: u8 = 7;

/// One frame.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn new(kind: u8, stream: u32, payload: Vec<u8>) -> Self {
        Self {
            kind,
            stream,
            payload,
        }
    }

    /// OPEN of a stream to an application, for a client.
    pub(super) fn open(stream: u32, destination: SocketAddr, client: SocketAddr) -> Self {
        const VERSION: u8 = 1;
        let mut payload = vec![VERSION];
        for (field, address) in [(1_u8, destination), (2, client)] {
            let mut value = match address.ip() {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            value.extend(address.port().to_be_bytes());
            payload.push(field);
            payload.extend((value.len() as u16).to_be_bytes());
            payload.extend(value);
        }
        Self::new(OPEN, stream, payload)
    }

    /// Writes it as one record.
    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let length = (self.payload.len() as u32).to_be_bytes();
        let mut bytes = vec![self.kind];
        bytes.extend(&length[1..]);
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads the next.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; 8];
        from.read_exact(&mut header)?;
        let [kind, a, b, c, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        from.read_exact(&mut payload)?;
        Ok(Self::new(kind, u32::from_be_bytes(stream), payload))
    }
}
