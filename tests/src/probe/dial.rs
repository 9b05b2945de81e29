//! Every way in which a program can dial TCP.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::str::FromStr;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::{Report, symbol};

/// A way to dial.
#[derive(Clone, Debug, PartialEq)]
pub enum Way {
    /// `socket`, `connect`.
    Plain,
    /// `connect` on a non-blocking socket, then `poll`.
    NonBlocking,
    /// The first bytes with the SYN: `sendto(MSG_FASTOPEN)`.
    FastOpen,
    /// The same by the option `TCP_FASTOPEN_CONNECT`.
    FastOpenConnect,
    /// A multipath TCP socket.
    Mptcp,
    /// Bound to an interface.
    Device(String),
    /// Bound to an address.
    Source(IpAddr),
    /// Through io_uring: the kernel connects on a worker thread of its own.
    IoUring,
    /// With a firewall mark.
    Mark(u32),
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (word, value) = text.split_once('=').unwrap_or((text, ""));
        let bad = |error: &dyn std::fmt::Display| format!("{text:?}: {error}");
        Ok(match word {
            "plain" => Self::Plain,
            "nonblocking" => Self::NonBlocking,
            "fast-open" => Self::FastOpen,
            "fast-open-connect" => Self::FastOpenConnect,
            "mptcp" => Self::Mptcp,
            "device" => Self::Device(value.to_owned()),
            "source" => Self::Source(value.parse().map_err(|error| bad(&error))?),
            "io-uring" => Self::IoUring,
            "mark" => Self::Mark(value.parse().map_err(|error| bad(&error))?),
            _ => return Err(format!("{word:?} is no way to dial")),
        })
    }
}

/// How a client ends a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Finishes after the last word, then reads to the end.
    Finish,
    /// Reads to the end, then resets: its address and port can be used again at once.
    Reset,
}

/// Dials, sends, reads to the end (or to the time limit), and reports all of it.
pub fn dial(to: SocketAddr, way: &Way, send: &[u8], ending: Ending, within: Duration) -> Report {
    let started = Instant::now();
    let mut report = Report::default();
    let stream = match connect(to, way, send, within) {
        Ok(stream) => stream,
        Err(error) => {
            report.error = Some(symbol(&error));
            report.connect_micros = micros(started);
            return report;
        }
    };
    report.connect_micros = micros(started);
    report.local = stream.local_addr().ok();
    report.peer = stream.peer_addr().ok();
    // Fast open has sent them already.
    let sent = matches!(way, Way::FastOpen);
    let rest: &[u8] = if sent { b"" } else { send };
    let exchanged = exchange(&stream, rest, ending, within, started, &mut report);
    if ending == Ending::Reset {
        // Without it the connection is closed in order, which is no fault of what is tested.
        drop(SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
    }
    report.error = exchanged.err().map(|error| symbol(&error));
    report
}

fn exchange(
    mut stream: &TcpStream,
    send: &[u8],
    ending: Ending,
    within: Duration,
    started: Instant,
    report: &mut Report,
) -> io::Result<()> {
    stream.set_read_timeout(Some(within))?;
    stream.write_all(send)?;
    if ending == Ending::Finish {
        match stream.shutdown(std::net::Shutdown::Write) {
            // It was reset meanwhile, which is for the read to tell.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            finished => finished?,
        }
    }
    let mut buffer = [0; 4_096];
    loop {
        let count = match stream.read(&mut buffer) {
            // What the ring leaves behind may interrupt the next call.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            return Ok(());
        }
        if report.first_byte_micros == 0 {
            report.first_byte_micros = micros(started);
        }
        report
            .received
            .push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

/// Connects in a given way.
pub fn connect(to: SocketAddr, way: &Way, first: &[u8], within: Duration) -> io::Result<TcpStream> {
    let address = SockAddr::from(to);
    let protocol = if *way == Way::Mptcp {
        Protocol::MPTCP
    } else {
        Protocol::TCP
    };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
    // The time limit of a blocking connect.
    socket.set_write_timeout(Some(within))?;
    match way {
        Way::Plain | Way::Mptcp => socket.connect(&address)?,
        // Makes the socket non-blocking, connects, polls, and asks for the error.
        Way::NonBlocking => socket.connect_timeout(&address, within)?,
        Way::FastOpen => {
            socket.send_to_with_flags(first, &address, libc::MSG_FASTOPEN)?;
        }
        Way::FastOpenConnect => {
            fast_open_connect(&socket)?;
            socket.connect(&address)?;
        }
        Way::Device(name) => {
            socket.bind_device(Some(name.as_bytes()))?;
            socket.connect(&address)?;
        }
        Way::Source(source) => {
            socket.bind(&SocketAddr::new(*source, 0).into())?;
            socket.connect(&address)?;
        }
        Way::IoUring => connect_by_ring(&socket, &address)?,
        Way::Mark(mark) => {
            socket.set_mark(*mark)?;
            socket.connect(&address)?;
        }
    }
    Ok(OwnedFd::from(socket).into())
}

fn fast_open_connect(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a c_int that lives until the call returns, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn connect_by_ring(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let mut ring = IoUring::new(2)?;
    let entry = opcode::Connect::new(
        types::Fd(socket.as_raw_fd()),
        address.as_ptr().cast(),
        address.len(),
    )
    .build();
    // SAFETY: socket and address live until the completion below has been taken.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring
        .completion()
        .next()
        .map(|completion| completion.result())
        .ok_or_else(|| io::Error::other("the ring gave no completion"))?;
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(())
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
