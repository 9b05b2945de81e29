//! One application's socket, as a stream uses it: read into the tunnel's buffer, write out of it, and what waits between.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::ready::Entry;

/// Slices that one system call takes.
pub(super) const SLICES: usize = 16;

/// The socket of one application.
pub(super) struct App {
    socket: Rc<TcpStream>,
    /// Bytes that the socket did not take at once. At most the stream's window.
    pending: VecDeque<u8>,
    /// While nothing is read from the socket: waits for a reset.
    watch: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// What a read gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Taken {
    /// So many bytes; there may be more, at once.
    More(usize),
    /// So many bytes, and now nothing.
    Last(usize),
    /// Nothing for now.
    Nothing,
    /// The application has finished.
    Finished,
}

impl App {
    pub(super) fn new(socket: TcpStream, pending: VecDeque<u8>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self {
            socket: Rc::new(socket),
            pending,
            watch: None,
        })
    }

    /// Reads into one place.
    pub(super) fn read(&mut self, space: &mut [u8]) -> io::Result<Taken> {
        let room = space.len();
        self.take(room, |mut socket| socket.read(space))
    }

    /// Reads into several places with one system call.
    pub(super) fn read_areas(&mut self, areas: &mut [IoSliceMut<'_>]) -> io::Result<Taken> {
        let room = areas.iter().map(|area| area.len()).sum();
        self.take(room, |mut socket| socket.read_vectored(areas))
    }

    /// A read that does not fill its room has emptied the socket: that is remembered instead of asking the kernel again,
    /// which would cost a second system call for every message.
    fn take(
        &mut self,
        room: usize,
        read: impl FnOnce(&socket2::Socket) -> io::Result<usize>,
    ) -> io::Result<Taken> {
        self.watch = None;
        let mut count = None;
        let outcome = self.socket.try_io(Interest::READABLE, || {
            let read = read(&SockRef::from(&*self.socket))?;
            count = Some(read);
            if 0 < read && read < room {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(())
        });
        match (count, outcome) {
            (Some(0), _) => Ok(Taken::Finished),
            (Some(count), Ok(())) => Ok(Taken::More(count)),
            (Some(count), Err(_)) => Ok(Taken::Last(count)),
            (None, Err(error)) if is_temporary(&error) => Ok(Taken::Nothing),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok(Taken::Nothing),
        }
    }

    /// Comes back when there is something to read.
    pub(super) fn wait_readable(&mut self, entry: &Entry) {
        if self.socket.poll_read_ready(&mut entry.context()).is_ready() {
            entry.push();
        }
    }

    /// Comes back when the application resets its connection, which is not noticed otherwise while nothing is read.
    /// Returns whether it has.
    pub(super) fn wait_reset(&mut self, entry: &Entry) -> io::Result<()> {
        let socket = &self.socket;
        let watch = self.watch.get_or_insert_with(|| {
            let socket = Rc::clone(socket);
            Box::pin(async move {
                // An error of the reactor means that nothing is noticed: then the next read or write will tell.
                let _ready = socket.ready(Interest::ERROR).await;
            })
        });
        if watch.as_mut().poll(&mut entry.context()).is_pending() {
            return Ok(());
        }
        self.watch = None;
        match self.socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Hands bytes over, behind those that wait. Returns how many the socket has taken.
    pub(super) fn write(&mut self, slices: &[&[u8]], entry: &Entry) -> io::Result<usize> {
        let mut taken = 0;
        if self.pending.is_empty() {
            taken = match slices {
                [one] => retry(self.socket.try_write(one))?,
                several => {
                    let mut vectors = [IoSlice::new(&[]); SLICES];
                    for (vector, slice) in vectors.iter_mut().zip(several) {
                        *vector = IoSlice::new(slice);
                    }
                    let count = several.len().min(SLICES);
                    retry(self.socket.try_write_vectored(&vectors[..count]))?
                }
            };
        }
        let mut skip = taken;
        for slice in slices {
            let rest = &slice[skip.min(slice.len())..];
            skip -= slice.len() - rest.len();
            self.pending.extend(rest);
        }
        if !self.pending.is_empty() {
            self.wait_writable(entry);
        }
        Ok(taken)
    }

    /// Hands over what waits. Returns how many bytes the socket has taken.
    pub(super) fn flush(&mut self, entry: &Entry) -> io::Result<usize> {
        let mut taken = 0;
        while !self.pending.is_empty() {
            let (front, back) = self.pending.as_slices();
            let slices = [IoSlice::new(front), IoSlice::new(back)];
            match retry(self.socket.try_write_vectored(&slices))? {
                0 => {
                    self.wait_writable(entry);
                    break;
                }
                count => {
                    taken += count;
                    self.pending.drain(..count);
                }
            }
        }
        if self.pending.is_empty() {
            // An idle connection holds nothing.
            self.pending = VecDeque::new();
        }
        Ok(taken)
    }

    fn wait_writable(&mut self, entry: &Entry) {
        if self
            .socket
            .poll_write_ready(&mut entry.context())
            .is_ready()
        {
            entry.push();
        }
    }

    /// Whether bytes wait for the socket.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Tells the application that nothing more will come.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match SockRef::from(&*self.socket).shutdown(Shutdown::Write) {
            // It has closed or reset its connection already: then there is nobody to tell.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }

    /// Ends the connection with a reset.
    pub(super) fn reset(self) {
        reset(&self.socket);
    }

    /// The socket itself, to give it back. `None` while somebody else watches it.
    pub(super) fn into_socket(self) -> Option<TcpStream> {
        let Self {
            socket,
            pending: _,
            watch,
        } = self;
        drop(watch);
        Rc::into_inner(socket)
    }
}

/// Makes closing the socket a reset (RST): the application shall see what a broken connection looks like, not an orderly
/// end.
pub(super) fn reset(socket: &TcpStream) {
    if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection ends without a reset");
    }
}

/// 0 when the socket takes nothing now.
fn retry(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if is_temporary(&error) => Ok(0),
        other => other,
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
