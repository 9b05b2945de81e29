//! One application's socket, as a stream uses it: read into the tunnel's buffer, write out of it, and what waits between.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::rc::Rc;
use std::task::Poll;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::ready::Entry;
use crate::socket::{self, Taken, Watch};

/// Slices that one system call takes.
pub(super) const SLICES: usize = 16;

/// The socket of one application.
pub(super) struct App {
    socket: Rc<TcpStream>,
    /// Bytes that the socket did not take at once. At most the stream's window.
    pending: VecDeque<u8>,
    /// Waits for a reset, since the socket was first not read for a while.
    watch: Option<Watch>,
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
        socket::read(&self.socket, space)
    }

    /// Reads into several places with one system call.
    pub(super) fn read_areas(&mut self, areas: &mut [IoSliceMut<'_>]) -> io::Result<Taken> {
        socket::read_areas(&self.socket, areas)
    }

    /// Comes back when there is something to read.
    pub(super) fn wait_readable(&mut self, entry: &Entry) {
        if self.socket.poll_read_ready(&mut entry.context()).is_ready() {
            entry.push();
        }
    }

    /// Comes back when the application resets its connection, which is not noticed otherwise while nothing is read.
    pub(super) fn wait_reset(&mut self, entry: &Entry) -> io::Result<()> {
        let watch = self.watch.get_or_insert_with(|| Watch::new(&self.socket));
        match watch.poll(&self.socket, &mut entry.context()) {
            Poll::Pending => Ok(()),
            Poll::Ready(outcome) => {
                self.watch = None;
                outcome
            }
        }
    }

    /// Hands bytes over, behind those that wait. Returns how many the socket has taken.
    pub(super) fn write(&mut self, slices: &[&[u8]], entry: &Entry) -> io::Result<usize> {
        let mut taken = 0;
        if self.pending.is_empty() {
            taken = match slices {
                [one] => socket::written(self.socket.try_write(one))?,
                several => {
                    let mut vectors = [IoSlice::new(&[]); SLICES];
                    for (vector, slice) in vectors.iter_mut().zip(several) {
                        *vector = IoSlice::new(slice);
                    }
                    let count = several.len().min(SLICES);
                    socket::written(self.socket.try_write_vectored(&vectors[..count]))?
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

    /// Hands bytes over as far as the socket takes them. `None` when it takes none now: it comes back then.
    pub(super) fn write_some<'a>(
        &mut self,
        slices: impl Iterator<Item = &'a [u8]>,
        entry: &Entry,
    ) -> io::Result<Option<usize>> {
        if self.has_pending() {
            return Ok(None);
        }
        let mut vectors = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (vector, slice) in vectors.iter_mut().zip(slices) {
            *vector = IoSlice::new(slice);
            count += 1;
        }
        match socket::written(self.socket.try_write_vectored(&vectors[..count]))? {
            0 => {
                self.wait_writable(entry);
                Ok(None)
            }
            taken => Ok(Some(taken)),
        }
    }

    /// Hands over what waits. Returns how many bytes the socket has taken.
    pub(super) fn flush(&mut self, entry: &Entry) -> io::Result<usize> {
        let mut taken = 0;
        while !self.pending.is_empty() {
            let (front, back) = self.pending.as_slices();
            let slices = [IoSlice::new(front), IoSlice::new(back)];
            match socket::written(self.socket.try_write_vectored(&slices))? {
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

    /// How many bytes wait for the socket.
    #[cfg(feature = "fuzzing")]
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
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
        socket::reset(&self.socket);
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
