//! A peer that speaks frame by frame, as a test says.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use tokio::net::TcpStream;

use crate::tls::{Channel, Received};
use crate::wire::{Frame, frames};

const HANDSHAKE: Duration = Duration::from_secs(5);

/// A peer with a good certificate, and such manners as the test gives it.
pub(crate) struct Hostile(pub(super) Channel);

impl Hostile {
    pub(crate) async fn connect(
        to: SocketAddr,
        config: Arc<rustls::ClientConfig>,
        peer: &SpiffeId,
    ) -> Self {
        let socket = TcpStream::connect(to).await.unwrap();
        let name = mesh_identity::tls::server_name(peer);
        let connected = Channel::connect(socket, config, name, HANDSHAKE).await;
        let mut channel = connected.unwrap().0;
        // The last words of the handshake would otherwise wait for the first frame.
        poll_fn(|cx| channel.poll_flush(cx)).await.unwrap();
        Self(channel)
    }

    pub(super) async fn take(socket: TcpStream, config: Arc<rustls::ServerConfig>) -> Self {
        let accepted = Channel::accept(socket, config, HANDSHAKE).await;
        Self(accepted.unwrap().0)
    }

    /// Sends plaintext as one record. Whether the peer still took it.
    pub(crate) async fn send(&mut self, record: &[u8]) -> bool {
        self.0.outbox.append(record);
        self.0.seal().unwrap();
        poll_fn(|cx| self.0.poll_flush(cx)).await.is_ok()
    }

    pub(crate) async fn say(&mut self, said: &[Frame<'_>]) -> bool {
        let mut record = Vec::new();
        for frame in said {
            frame.encode(&mut record);
        }
        self.send(&record).await
    }

    /// Reads until `wanted` finds what it looks for; `false` at the end of the tunnel.
    pub(crate) async fn hears(&mut self, mut wanted: impl FnMut(Frame<'_>) -> bool) -> bool {
        loop {
            match self.0.open_records() {
                Ok(received) => {
                    let payloads = self.0.inbox.payloads();
                    let count = payloads.len();
                    for payload in payloads {
                        if frames(payload).any(|frame| wanted(frame.unwrap())) {
                            return true;
                        }
                    }
                    self.0.inbox.handed_over(count);
                    if received == Received::Last {
                        return false;
                    }
                    if count > 0 {
                        continue;
                    }
                }
                Err(_) => return false,
            }
            if !matches!(poll_fn(|cx| self.0.poll_fill(cx)).await, Ok(true)) {
                return false;
            }
        }
    }
}
