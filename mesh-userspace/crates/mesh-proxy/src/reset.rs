//! Ends connections with a reset. A refusal or a failure must never look like a clean end of data.

use std::time::Duration;

use tokio::net::TcpStream;

/// Resets a connection: the peer's next read or write fails.
pub(crate) fn now(connection: TcpStream) {
    arm(&connection);
}

/// Makes the next close a reset.
fn arm(connection: &TcpStream) {
    // It fails only where the connection is gone already; then there is nobody left to tell.
    drop(socket2::SockRef::from(connection).set_linger(Some(Duration::ZERO)));
}

/// A connection that is reset unless it is taken: whichever way a story ends before it has decided, by an error, a
/// cancellation or a panic, the application sees a failure.
#[derive(Debug)]
pub(crate) struct ResetOnDrop(Option<TcpStream>);

impl ResetOnDrop {
    pub(crate) fn new(connection: TcpStream) -> Self {
        Self(Some(connection))
    }

    /// The connection.
    pub(crate) fn get(&self) -> Option<&TcpStream> {
        self.0.as_ref()
    }

    /// Takes the connection: from now on its end is somebody else's decision.
    pub(crate) fn take(&mut self) -> Option<TcpStream> {
        self.0.take()
    }
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            arm(connection);
        }
    }
}
