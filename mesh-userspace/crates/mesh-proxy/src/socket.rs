//! Operations of non-blocking sockets that cost one system call where the usual ones cost two, and what the usual ones do
//! not offer: resets, made and noticed.
//!
//! It must not know what the bytes are.

use std::future::Future;
use std::io::{self, IoSliceMut, Read};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a read gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Taken {
    /// So many bytes; there may be more, at once.
    More(usize),
    /// So many bytes, and now nothing.
    Last(usize),
    /// Nothing for now.
    Nothing,
    /// The other side has finished.
    Finished,
}

/// Reads into one place.
pub(crate) fn read(socket: &TcpStream, space: &mut [u8]) -> io::Result<Taken> {
    take(socket, space.len(), |mut inner| inner.read(space))
}

/// Reads into several places with one system call.
pub(crate) fn read_areas(socket: &TcpStream, areas: &mut [IoSliceMut<'_>]) -> io::Result<Taken> {
    let room = areas.iter().map(|area| area.len()).sum();
    take(socket, room, |mut inner| inner.read_vectored(areas))
}

/// A read that does not fill its room has emptied the socket: that is remembered instead of asking the kernel again, which
/// would cost a second system call for every message.
fn take(
    socket: &TcpStream,
    room: usize,
    read: impl FnOnce(&socket2::Socket) -> io::Result<usize>,
) -> io::Result<Taken> {
    let mut count = None;
    let outcome = socket.try_io(Interest::READABLE, || {
        let read = read(&SockRef::from(socket))?;
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
        (None, Err(error)) if !is_temporary(&error) => Err(error),
        (None, _) => Ok(Taken::Nothing),
    }
}

/// What a write gave: 0 when the socket takes nothing now.
pub(crate) fn written(result: io::Result<usize>) -> io::Result<usize> {
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

/// Makes closing the socket a reset (RST): the other side shall see what a broken connection looks like, not an orderly
/// end.
pub(crate) fn reset(socket: &TcpStream) {
    if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection ends without a reset");
    }
}

/// Notices that a socket broke, which nothing else does while it is neither read nor written.
pub(crate) struct Watch(Pin<Box<dyn Future<Output = ()>>>);

impl Watch {
    pub(crate) fn new(socket: &Rc<TcpStream>) -> Self {
        let socket = Rc::clone(socket);
        Self(Box::pin(async move {
            // An error of the reactor means that nothing is noticed: then the next read or write will tell.
            let _ready = socket.ready(Interest::ERROR).await;
        }))
    }

    /// Ready when the socket broke, with how. Must not be polled again then.
    pub(crate) fn poll(
        &mut self,
        socket: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.0.as_mut().poll(cx));
        Poll::Ready(match socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        })
    }
}
