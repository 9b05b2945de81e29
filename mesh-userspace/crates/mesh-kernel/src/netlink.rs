//! A netlink conversation, synchronous: a request, its answers, an error if the kernel has one.
//!
//! Netlink sockets belong to the namespace in which they are made, and ours are made on a thread that is in a workload's
//! namespace for a moment only; that is why this is not a task of its own.

use std::fmt::Debug;
use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket, SocketAddr};

pub(crate) mod clsact;
pub(crate) mod delivery;
pub(crate) mod interfaces;

/// Dumps that were disturbed by a change are repeated this often before their answer is taken as it is.
const DUMP_ATTEMPTS: usize = 5;

/// One netlink socket.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Routing, links, addresses, filters, of the calling thread's namespace.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(NETLINK_ROUTE)
    }

    /// Sockets of the calling thread's namespace.
    pub(crate) fn sock_diag() -> io::Result<Self> {
        Self::open(NETLINK_SOCK_DIAG)
    }

    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Every object that a request asks for.
    pub(crate) fn dump<M>(&mut self, request: &M) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone + Debug,
    {
        for _ in 1..DUMP_ATTEMPTS {
            if let (answers, false) = self.ask(request, NLM_F_DUMP)? {
                return Ok(answers);
            }
        }
        Ok(self.ask(request, NLM_F_DUMP)?.0)
    }

    /// The one object that a request asks for.
    pub(crate) fn get<M>(&mut self, request: &M) -> io::Result<Option<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone + Debug,
    {
        Ok(self.ask(request, NLM_F_ACK)?.0.pop())
    }

    /// Makes a change; returns when the kernel has acknowledged it.
    pub(crate) fn change<M>(&mut self, request: &M, flags: u16) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone + Debug,
    {
        self.ask(request, NLM_F_ACK | flags).map(drop)
    }

    /// Sends a request and collects answers until the kernel says that it is done; also tells whether a dump was disturbed.
    fn ask<M>(&mut self, request: &M, flags: u16) -> io::Result<(Vec<M>, bool)>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Clone + Debug,
    {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.clone()));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        let mut disturbed = false;
        loop {
            let (packet, _) = self.socket.recv_from_full()?;
            let mut rest = packet.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
                // Messages are aligned to 4 bytes; the last one need not be padded.
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                disturbed |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok((answers, disturbed)),
                    NetlinkPayload::Error(error) if error.code.is_none() => {
                        return Ok((answers, disturbed));
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// Whether an attempt to remove something found that it is gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EAFNOSUPPORT | libc::EINVAL)
    )
}
