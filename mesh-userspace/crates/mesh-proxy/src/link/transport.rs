//! Packets with descriptors over a `SOCK_SEQPACKET` socket. It moves messages; it does not know what they mean.

use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use mesh_core::record::Record;
use mesh_core::snapshot::World;
use mesh_core::workload::WorkloadId;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, getsockopt, sendmsg, socketpair,
    sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};

use super::error::LinkError;
use super::{Identities, SocketKind, ToAgent, ToWorker, payload};

/// Most bytes of one packet. The kernel's default send buffer (`wmem_default`, 208 KiB) holds one with room to spare.
pub const MAX_PACKET: usize = 128 << 10;

/// Most descriptors of one packet (`SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// Most records of one message.
pub const MAX_RECORDS: usize = 64;

/// One end of the link: sends `Outgoing`, receives `Incoming`. Sending and receiving may happen at the same time.
#[derive(Debug)]
pub struct Endpoint<Outgoing, Incoming> {
    socket: AsyncFd<OwnedFd>,
    /// Locked only while a packet is copied out of the kernel and decoded, never across an `.await`.
    packet: Mutex<Vec<u8>>,
    messages: PhantomData<fn(Outgoing) -> Incoming>,
}

/// The agent's end.
pub type AgentEnd = Endpoint<ToWorker, ToAgent>;

/// The worker's end.
pub type WorkerEnd = Endpoint<ToAgent, ToWorker>;

/// A received message and the descriptors that came with it.
#[derive(Debug)]
pub struct Received<Incoming> {
    /// The message.
    pub message: Incoming,
    /// Its descriptors, in order, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Makes a connected pair of sockets for a link: both non-blocking and close-on-exec. Each becomes an end with
/// [`Endpoint::new`]; the worker's is passed to its process as [`super::WORKER_FD`].
///
/// # Errors
/// What `socketpair` answered.
pub fn pair() -> Result<(OwnedFd, OwnedFd), LinkError> {
    socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )
    .map_err(|error| failed("create a pair of sockets")(error.into()))
}

impl<Outgoing: Serialize, Incoming: DeserializeOwned> Endpoint<Outgoing, Incoming> {
    /// Takes one end of a [`pair`]. Must be called within a tokio runtime with I/O.
    ///
    /// # Errors
    /// When the descriptor is not a socket of this kind.
    pub fn new(socket: OwnedFd) -> Result<Self, LinkError> {
        let kind = getsockopt(&socket, sockopt::SockType)
            .map_err(|error| failed("find the end")(error.into()))?;
        if kind != SockType::SeqPacket {
            let wrong = io::Error::new(io::ErrorKind::InvalidInput, "not a SOCK_SEQPACKET socket");
            return Err(failed("find the end")(wrong));
        }
        // The flag is shared by all holders of the description; whoever made the pair may not have set it.
        socket2::SockRef::from(&socket)
            .set_nonblocking(true)
            .map_err(failed("set the end non-blocking"))?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: the AsyncFd owns the descriptor; it stays open and the same until the AsyncFd is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, interest) }
            .map_err(|error| failed("watch the end")(error.into()))?;
        Ok(Self {
            socket,
            packet: Mutex::new(Vec::new()),
            messages: PhantomData,
        })
    }

    /// Sends a message with descriptors. They stay the caller's; the receiver gets duplicates.
    ///
    /// # Errors
    /// [`LinkError::Socket`] with `BrokenPipe` when the other end is gone; the size errors before anything is sent.
    pub async fn send(
        &self,
        message: &Outgoing,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), LinkError> {
        let packet = encode(message, descriptors.len())?;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                send_packet(socket.as_fd(), &packet, &raw)
            })
            .await
            .map_err(failed("send"))
    }

    /// Says that nothing more will be said: the other end finds the link ended behind what was sent before.
    ///
    /// # Errors
    /// [`LinkError::Socket`] when the other end is gone.
    pub fn hang_up(&self) -> Result<(), LinkError> {
        socket2::SockRef::from(self.socket.get_ref())
            .shutdown(std::net::Shutdown::Write)
            .map_err(failed("hang up"))
    }

    /// Sends a message if that needs no waiting; `false`: the other end is slow, try again later.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub fn try_send(
        &self,
        message: &Outgoing,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<bool, LinkError> {
        let packet = encode(message, descriptors.len())?;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        match send_packet(self.socket.get_ref().as_fd(), &packet, &raw) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(failed("send")(error)),
        }
    }

    /// Waits for the next message; `None` when the other end is closed. Cancel-safe: nothing is lost when the future
    /// is dropped.
    ///
    /// # Errors
    /// A message that cannot be read, or whose descriptors did not all arrive, is an error of that message only: its
    /// descriptors are closed and the link stays usable. [`LinkError::Socket`] is an error of the link.
    pub async fn recv(&self) -> Result<Option<Received<Incoming>>, LinkError> {
        loop {
            let mut guard = self
                .socket
                .ready(Interest::READABLE)
                .await
                .map_err(failed("wait"))?;
            match self.receive_packet() {
                Err(LinkError::Socket { source, .. })
                    if source.kind() == io::ErrorKind::WouldBlock =>
                {
                    guard.clear_ready_matching(Ready::READABLE);
                }
                Err(LinkError::Socket { source, .. })
                    if source.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn receive_packet(&self) -> Result<Option<Received<Incoming>>, LinkError> {
        let mut packet = self.packet.lock().unwrap_or_else(PoisonError::into_inner);
        packet.resize(MAX_PACKET, 0);
        let arrived =
            receive(self.socket.get_ref().as_fd(), &mut packet).map_err(failed("receive"))?;
        if arrived.descriptors_lost {
            return Err(LinkError::DescriptorsLost);
        }
        if arrived.size > MAX_PACKET {
            return Err(LinkError::TooLarge {
                size: arrived.size,
                most: MAX_PACKET,
            });
        }
        if arrived.size == 0 {
            // No message is empty: this is the end of the stream.
            return Ok(None);
        }
        let message = postcard::from_bytes(&packet[..arrived.size]).map_err(LinkError::Message)?;
        Ok(Some(Received {
            message,
            descriptors: arrived.descriptors,
        }))
    }
}

impl AgentEnd {
    /// Sends a world.
    ///
    /// # Errors
    /// As [`Endpoint::send`] and [`payload::seal`].
    pub async fn send_world(&self, world: &World) -> Result<(), LinkError> {
        let payload = payload::seal(world)?;
        self.send(&ToWorker::World, &[payload.as_fd()]).await
    }

    /// Sends certificates, keys and roots.
    ///
    /// # Errors
    /// As [`Endpoint::send`] and [`payload::seal`].
    pub async fn send_identities(&self, identities: &Identities) -> Result<(), LinkError> {
        let payload = payload::seal(identities)?;
        self.send(&ToWorker::Identities, &[payload.as_fd()]).await
    }

    /// Sends sockets, in as many messages as they need.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub async fn send_sockets(
        &self,
        workload: WorkloadId,
        kind: SocketKind,
        sockets: &[OwnedFd],
    ) -> Result<(), LinkError> {
        for part in sockets.chunks(MAX_DESCRIPTORS) {
            let descriptors: Vec<BorrowedFd<'_>> = part.iter().map(AsFd::as_fd).collect();
            self.send(&ToWorker::Sockets { workload, kind }, &descriptors)
                .await?;
        }
        Ok(())
    }
}

impl WorkerEnd {
    /// Sends records, in as many messages as they need; gives back how many were lost because a single one is larger
    /// than a packet.
    ///
    /// # Errors
    /// As [`Endpoint::send`].
    pub async fn send_records(&self, records: Vec<Record>) -> Result<u64, LinkError> {
        let mut lost = 0;
        let mut parts = vec![records];
        while let Some(mut part) = parts.pop() {
            if part.len() > MAX_RECORDS {
                let rest = part.split_off(MAX_RECORDS);
                parts.push(rest);
            }
            let message = ToAgent::Records(part);
            match self.send(&message, &[]).await {
                Err(LinkError::TooLarge { .. }) => {
                    let ToAgent::Records(mut part) = message else {
                        continue;
                    };
                    if part.len() == 1 {
                        lost += 1;
                        continue;
                    }
                    let rest = part.split_off(part.len() / 2);
                    parts.push(rest);
                    parts.push(part);
                }
                result => result?,
            }
        }
        Ok(lost)
    }
}

fn encode<M: Serialize>(message: &M, descriptors: usize) -> Result<Vec<u8>, LinkError> {
    if descriptors > MAX_DESCRIPTORS {
        return Err(LinkError::TooManyDescriptors(descriptors));
    }
    let packet = postcard::to_stdvec(message).map_err(LinkError::Message)?;
    if packet.len() > MAX_PACKET {
        return Err(LinkError::TooLarge {
            size: packet.len(),
            most: MAX_PACKET,
        });
    }
    Ok(packet)
}

fn send_packet(socket: BorrowedFd<'_>, packet: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights[..]
    };
    loop {
        let sent = sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(packet)],
            control,
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
            None,
        );
        match sent {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

struct Arrived {
    /// Size of the packet on the wire, which may be more than was copied.
    size: usize,
    descriptors: Vec<OwnedFd>,
    /// The kernel could not install all descriptors (limit of open files), or there were more than fit.
    descriptors_lost: bool,
}

// SAFETY: CMSG_SPACE only computes.
const CONTROL: usize =
    unsafe { libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<RawFd>()) as u32) } as usize;

/// Room for the control message of [`MAX_DESCRIPTORS`] descriptors, aligned as `cmsghdr` needs it.
#[repr(C)]
union Control {
    header: libc::cmsghdr,
    bytes: [u8; CONTROL],
}

/// `recvmsg` by hand: nix gives up on truncated control data, and the descriptors that did arrive would leak.
fn receive(socket: BorrowedFd<'_>, packet: &mut [u8]) -> io::Result<Arrived> {
    let mut control = MaybeUninit::<Control>::zeroed();
    let mut vector = libc::iovec {
        iov_base: packet.as_mut_ptr().cast(),
        iov_len: packet.len(),
    };
    // SAFETY: msghdr is plain data; all zero is "nothing".
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Control>() as _;
    // MSG_TRUNC returns the true size of a packet that does not fit.
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: the header points at buffers that live until after the call, with their true lengths.
    let size = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    if size < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut descriptors = Vec::new();
    // SAFETY: the kernel filled the control buffer and its length; the macros stay within them.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS
            {
                let length = (*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(message).cast::<RawFd>();
                for index in 0..length / size_of::<RawFd>() {
                    let raw = first.add(index).read_unaligned();
                    // The kernel just installed it for us: nobody else owns it.
                    descriptors.push(OwnedFd::from_raw_fd(raw));
                }
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    Ok(Arrived {
        size: size.unsigned_abs(),
        descriptors,
        descriptors_lost: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> LinkError {
    move |source| LinkError::Socket { operation, source }
}

#[cfg(test)]
mod tests;
