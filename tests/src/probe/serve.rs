//! A server with one behaviour per port; a thread per connection.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::SIGTERM;
use socket2::SockRef;

use super::pattern::Pattern;
use super::{Event, say, symbol};

/// Between two looks at whether to end.
const LOOK_MILLIS: u16 = 50;
const LOOK: Duration = Duration::from_millis(LOOK_MILLIS as u64);

/// What a server does with a connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Behaviour {
    /// Sends back what it reads, until the client has finished.
    Echo,
    /// Speaks first, then echoes: as mail and database servers do.
    Greet(String),
    /// Says its name, then waits for the client to finish.
    Name(String),
    /// Reads a pattern to its end, then answers with count and verdict: works only when half-close does.
    Sink,
    /// Reads a number, sends so many bytes of the pattern, and finishes.
    Source,
    /// Never reads.
    Hold,
    /// Says farewell and finishes at once, then reads what the client still sends.
    Farewell,
    /// Reads so many bytes, then resets the connection.
    Reset(u64),
}

impl FromStr for Behaviour {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (word, value) = text.split_once(':').unwrap_or((text, ""));
        Ok(match word {
            "echo" => Self::Echo,
            "greet" => Self::Greet(value.to_owned()),
            "name" => Self::Name(value.to_owned()),
            "sink" => Self::Sink,
            "source" => Self::Source,
            "hold" => Self::Hold,
            "farewell" => Self::Farewell,
            "reset" => Self::Reset(
                value
                    .parse()
                    .map_err(|error| format!("{text:?}: {error}"))?,
            ),
            _ => return Err(format!("{word:?} is no behaviour")),
        })
    }
}

/// A port and what is served there: `8080=echo`. All addresses of both families, unless one is given: `10.1.0.2:8080=echo`.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    address: SocketAddr,
    behaviour: Behaviour,
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, behaviour) = text
            .split_once('=')
            .ok_or_else(|| format!("{text:?}: expected PORT=BEHAVIOUR"))?;
        let address = match place.parse::<u16>() {
            Ok(port) => SocketAddr::from(([0_u16; 8], port)),
            Err(_) => place
                .parse()
                .map_err(|error| format!("{place:?}: {error}"))?,
        };
        Ok(Self {
            address,
            behaviour: behaviour.parse()?,
        })
    }
}

/// Connections that are open, and whether more are taken.
#[derive(Default)]
struct Open {
    /// The process was asked to end.
    asked: Arc<AtomicBool>,
    connections: AtomicU64,
}

/// Serves until the process ends; with `finish`, SIGTERM closes the listeners, and the end comes when every connection that was
/// accepted has ended.
pub fn serve(services: &[Service], finish: bool) -> Result<()> {
    let pattern = Arc::new(Pattern::default());
    let open = Arc::new(Open::default());
    if finish {
        signal_hook::flag::register(SIGTERM, Arc::clone(&open.asked)).context("heed SIGTERM")?;
    }
    let mut threads = Vec::new();
    let mut listeners = Vec::new();
    for service in services {
        let listener = TcpListener::bind(service.address)
            .with_context(|| format!("listen on {}", service.address))?;
        // Fast open has to be asked for; without it the kernel falls back silently and the story would prove nothing.
        allow_fast_open(&listener)?;
        // What waits in its queue is taken before it is closed.
        listener.set_nonblocking(true)?;
        listeners.push((listener, service.behaviour.clone()));
    }
    say(&Event::Listening);
    for (listener, behaviour) in listeners {
        let (pattern, open) = (Arc::clone(&pattern), Arc::clone(&open));
        threads.push(thread::spawn(move || {
            accept(&listener, &behaviour, &pattern, &open)
        }));
    }
    for thread in threads {
        thread
            .join()
            .map_err(|_panic| anyhow::anyhow!("a listener's thread panicked"))??;
    }
    while open.connections.load(Ordering::Relaxed) > 0 {
        thread::sleep(LOOK);
    }
    Ok(())
}

fn allow_fast_open(listener: &TcpListener) -> Result<()> {
    let queue: libc::c_int = 16;

    // SAFETY: the option's value is a c_int that lives until the call returns, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            size_of_val(&queue) as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("allow TCP Fast Open");
    }
    Ok(())
}

/// Until the process is asked to end.
fn accept(
    listener: &TcpListener,
    behaviour: &Behaviour,
    pattern: &Arc<Pattern>,
    open: &Arc<Open>,
) -> Result<()> {
    let port = listener.local_addr()?.port();
    loop {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if open.asked.load(Ordering::Relaxed) {
                    return Ok(());
                }
                wait(listener)?;
                continue;
            }
            Err(error) => return Err(error).context("accept"),
        };
        let local = stream.local_addr()?;
        // A v4-mapped address is shown as what it is.
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        say(&Event::Accepted { port, peer, local });
        let (behaviour, pattern, open) = (behaviour.clone(), Arc::clone(pattern), Arc::clone(open));
        open.connections.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            let mut seen = Seen::default();
            let result = behaviour.serve(stream, &pattern, &mut seen);
            say(&Event::Closed {
                port,
                peer,
                bytes: seen.bytes,
                intact: seen.intact,
                error: result.err().map(|error| symbol(&error)),
            });
            open.connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// Until somebody dials, or for a moment.
fn wait(listener: &TcpListener) -> Result<()> {
    let mut waited = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    match poll(&mut waited, PollTimeout::from(LOOK_MILLIS)) {
        // A signal: whoever it is for looks.
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("wait for somebody to dial"),
    }
}

/// What was read of a connection.
#[derive(Default)]
struct Seen {
    bytes: u64,
    intact: Option<bool>,
}

impl Behaviour {
    fn serve(&self, mut stream: TcpStream, pattern: &Pattern, seen: &mut Seen) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match self {
            Self::Echo => echo(stream, seen),
            Self::Greet(text) => {
                stream.write_all(format!("{text}\n").as_bytes())?;
                echo(stream, seen)
            }
            Self::Name(text) => {
                stream.write_all(text.as_bytes())?;
                stream.shutdown(Shutdown::Write)?;
                drain(stream, seen)
            }
            Self::Sink => sink(stream, pattern, seen),
            Self::Source => source(stream, pattern),
            Self::Hold => loop {
                // Until the story ends this process: the connection must stay open, unread.
                thread::park_timeout(Duration::from_secs(3_600));
            },
            Self::Farewell => {
                stream.write_all(b"bye\n")?;
                stream.shutdown(Shutdown::Write)?;
                drain(stream, seen)
            }
            Self::Reset(after) => {
                drain_some(&mut stream, *after, seen)?;
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))
            }
        }
    }
}

fn echo(mut stream: TcpStream, seen: &mut Seen) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        seen.bytes += count as u64;
        stream.write_all(&buffer[..count])?;
    }
}

fn drain(mut stream: TcpStream, seen: &mut Seen) -> io::Result<()> {
    drain_some(&mut stream, u64::MAX, seen)
}

fn drain_some(stream: &mut TcpStream, most: u64, seen: &mut Seen) -> io::Result<()> {
    let mut buffer = vec![0; 65_536];
    while seen.bytes < most {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        seen.bytes += count as u64;
    }
    Ok(())
}

fn sink(mut stream: TcpStream, pattern: &Pattern, seen: &mut Seen) -> io::Result<()> {
    let mut buffer = vec![0; 262_144];
    let mut intact = true;
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        intact &= pattern.matches(seen.bytes, &buffer[..count]);
        seen.bytes += count as u64;
        seen.intact = Some(intact);
    }
    stream.write_all(format!("{} {intact}\n", seen.bytes).as_bytes())?;
    stream.shutdown(Shutdown::Write)
}

fn source(mut stream: TcpStream, pattern: &Pattern) -> io::Result<()> {
    let mut wanted = String::new();
    BufReader::new(&stream).read_line(&mut wanted)?;
    let wanted: u64 = wanted.trim().parse().map_err(io::Error::other)?;
    let mut sent = 0;
    while sent < wanted {
        let length = usize::try_from(wanted - sent)
            .unwrap_or(usize::MAX)
            .min(262_144);
        stream.write_all(pattern.at(sent, length))?;
        sent += length as u64;
    }
    stream.shutdown(Shutdown::Write)
}
