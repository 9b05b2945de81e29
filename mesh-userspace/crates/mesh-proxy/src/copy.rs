//! Carries bytes both ways between two plain connections: half-close, resets, back-pressure and byte counts.
//! It must not know who the ends are.
//!
//! Memory follows movement: a thread has one buffer, which is used between two `.await`s; only bytes that the other side
//! did not take at once get a buffer of their own, and reading stops until they are gone.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use mesh_core::outcome::Reason;
use socket2::TcpKeepalive;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::record::{Carrier, Ended};
use crate::reset::ResetOnDrop;

/// What one read takes at most. Large enough that a system call costs less than the copy it makes.
const CHUNK: usize = 64 << 10;

/// A peer that has vanished without a word is noticed after some minutes, and not never.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A pair of plain connections, as its record sees it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sent: Cell<u64>,
    received: Cell<u64>,
    cut: Cell<Option<Reason>>,
    cut_now: Notify,
}

impl Carrier for Meter {
    fn bytes(&self) -> (u64, u64) {
        (self.sent.get(), self.received.get())
    }

    fn cut(&self, reason: Reason) {
        self.cut.set(Some(reason));
        self.cut_now.notify_one();
    }
}

/// Which end failed.
enum Broken {
    Client(io::Error),
    Server(io::Error),
}

/// Carries bytes between `client` and `server` until both have finished, one fails, or `meter` is cut. Whatever ends it
/// other than both finishing resets both: a cut connection must not look complete. `kept` was read from the client
/// already.
pub(crate) async fn both_ways(
    client: TcpStream,
    server: TcpStream,
    kept: Vec<u8>,
    meter: Rc<Meter>,
) -> Ended {
    for connection in [&client, &server] {
        // Neither is worth a connection: where they fail, the connection has failed already.
        drop(connection.set_nodelay(true));
        drop(socket2::SockRef::from(connection).set_tcp_keepalive(&KEEPALIVE));
    }
    let mut client = ResetOnDrop::new(client);
    let mut server = ResetOnDrop::new(server);
    let (reason, detail) = tokio::select! {
        carried = carry(client.get(), server.get(), kept, &meter) => match carried {
            Ok(()) => {
                // Both have seen the end of data: now, and only now, a clean close is the truth.
                drop((client.take(), server.take()));
                (Reason::Finished, None)
            }
            Err(Broken::Client(error)) => (Reason::ClientReset, unusual(&error)),
            Err(Broken::Server(error)) => (Reason::ServerReset, unusual(&error)),
        },
        () = meter.cut_now.notified() => (meter.cut.get().unwrap_or(Reason::Fault), None),
    };
    Ended {
        reason,
        detail,
        sent: meter.sent.get(),
        received: meter.received.get(),
    }
}

async fn carry(
    client: Option<&TcpStream>,
    server: Option<&TcpStream>,
    kept: Vec<u8>,
    meter: &Meter,
) -> Result<(), Broken> {
    let (Some(client), Some(server)) = (client, server) else {
        return Ok(());
    };
    let up = async {
        one_way(client, server, kept, &meter.sent)
            .await
            .map_err(|side| side.named(Broken::Client, Broken::Server))
    };
    let down = async {
        one_way(server, client, Vec::new(), &meter.received)
            .await
            .map_err(|side| side.named(Broken::Server, Broken::Client))
    };
    tokio::try_join!(up, down)?;
    Ok(())
}

/// Which side of one direction failed.
enum Side {
    From(io::Error),
    To(io::Error),
}

impl Side {
    fn named(
        self,
        from: impl FnOnce(io::Error) -> Broken,
        to: impl FnOnce(io::Error) -> Broken,
    ) -> Broken {
        match self {
            Self::From(error) => from(error),
            Self::To(error) => to(error),
        }
    }
}

/// Carries one direction until its end, and passes the end on (half-close).
async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    kept: Vec<u8>,
    count: &Cell<u64>,
) -> Result<(), Side> {
    write_rest(&kept, from, to, count).await?;
    drop(kept);
    loop {
        from.readable().await.map_err(Side::From)?;
        // A connection that always has bytes must not keep the thread from the others.
        tokio::task::coop::consume_budget().await;
        match move_some(from, to, count)? {
            Moved::Some => {}
            Moved::Left(rest) => write_rest(&rest, from, to, count).await?,
            Moved::End => {
                return match socket2::SockRef::from(to).shutdown(std::net::Shutdown::Write) {
                    // The other side has gone already; whether by a reset is for the other direction to find.
                    Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
                    result => result.map_err(Side::To),
                };
            }
        }
    }
}

enum Moved {
    /// Everything that was read was written, or there was nothing.
    Some,
    /// These bytes were read and not taken yet.
    Left(Vec<u8>),
    /// The end of the stream.
    End,
}

fn move_some(from: &TcpStream, to: &TcpStream, count: &Cell<u64>) -> Result<Moved, Side> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(CHUNK, 0);
        let read = match from.try_read(buffer) {
            Ok(0) => return Ok(Moved::End),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Some),
            Err(error) => return Err(Side::From(error)),
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            match to.try_write(rest) {
                Ok(written) => {
                    add(count, written);
                    rest = &rest[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Moved::Left(rest.to_vec()));
                }
                Err(error) => return Err(Side::To(error)),
            }
        }
        Ok(Moved::Some)
    })
}

/// Writes what is left, as the other side takes it. Watches for a reset of the reading side meanwhile: it is not being
/// read, so nothing else would tell.
async fn write_rest(
    mut rest: &[u8],
    from: &TcpStream,
    to: &TcpStream,
    count: &Cell<u64>,
) -> Result<(), Side> {
    while !rest.is_empty() {
        tokio::select! {
            writable = to.writable() => writable.map_err(Side::To)?,
            broken = broken(from) => return Err(Side::From(broken)),
        }
        match to.try_write(rest) {
            Ok(written) => {
                add(count, written);
                rest = &rest[written..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Side::To(error)),
        }
    }
    Ok(())
}

/// Waits until a connection is reset.
async fn broken(connection: &TcpStream) -> io::Error {
    loop {
        if let Err(error) = connection.ready(Interest::ERROR).await {
            return error;
        }
        match connection.take_error() {
            Ok(Some(error)) | Err(error) => return error,
            // Readiness without an error: not a reset (an urgent byte, a spurious wake-up). Do not spin on it.
            Ok(None) => std::future::pending::<()>().await,
        }
    }
}

/// A reset needs no words. Anything else does.
fn unusual(error: &io::Error) -> Option<String> {
    let plain = matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    );
    (!plain).then(|| error.to_string())
}

fn add(count: &Cell<u64>, bytes: usize) {
    count.set(count.get() + bytes as u64);
}

#[cfg(test)]
mod tests;
