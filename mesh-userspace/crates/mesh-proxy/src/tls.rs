//! TLS 1.3 for tunnels, over a TCP socket, without copies.
//!
//! rustls makes the handshake and every decision in it. Once it is done the traffic keys are taken over and records are
//! encrypted and decrypted here, **in place**, in buffers that this module owns: rustls 0.23 allocates and copies each
//! record in either direction, which is a good part of what a proxy costs per byte. Taking the keys over is also what
//! a hand-over of live tunnels to another process needs.
//!
//! | step | module |
//! |---|---|
//! | who the peer is, and the keys | `handshake` |
//! | one record, encrypted or decrypted in place | `record` |
//! | bytes from the socket become plaintexts | `inbox` |
//! | plaintexts become bytes for the socket, many records in one write | `outbox` |
//! | where the buffers come from | `buffer` |
//!
//! It must not know frames, streams or applications.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use mesh_core::outcome::Reason;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

mod buffer;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod handshake;
mod inbox;
mod outbox;
mod record;
#[cfg(test)]
mod tests;

pub(crate) use buffer::give_back as give_back_buffers;
pub(crate) use inbox::Inbox;
pub(crate) use outbox::Outbox;

use handshake::Keys;
use record::{Opener, Sealer};

use crate::socket::{self, Watch};

/// The protocol of tunnels between Warren nodes.
pub(crate) const ALPN: &[u8] = mesh_identity::tls::ALPN_WARREN_1;

/// Why a TLS connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The connection underneath broke.
    #[error("the connection broke: {0}")]
    Socket(io::Error),
    /// The peer closed the connection without saying so in TLS.
    #[error("the peer ended the connection abruptly")]
    Truncated,
    /// The handshake took too long.
    #[error("the handshake did not finish within {0:?}")]
    HandshakeTimeout(Duration),
    /// The handshake failed.
    #[error("the handshake failed: {}", mesh_identity::failure::explain(.0).detail)]
    Handshake(rustls::Error),
    /// The peer refused us, or gave up, with an alert (RFC 8446 §6).
    #[error("the peer ended the connection with TLS alert {0} ({alert})", alert = alert_name(*.0))]
    Alert(u8),
    /// The peer speaks another protocol inside TLS.
    #[error("the peer did not agree to the protocol warren/1")]
    Protocol,
    /// A record that violates TLS, or that was changed on the way.
    #[error("a TLS record is not acceptable: {0}")]
    Record(&'static str),
}

impl TlsError {
    /// What it means for the connections that depend on it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Socket(_) | Self::Truncated => Reason::TunnelLost,
            Self::HandshakeTimeout(_) => Reason::Unreachable,
            Self::Handshake(error) => match error {
                rustls::Error::InvalidCertificate(_)
                | rustls::Error::NoCertificatesPresented
                | rustls::Error::InvalidCertRevocationList(_) => Reason::PeerIdentity,
                rustls::Error::AlertReceived(alert) => alert_reason(u8::from(*alert)),
                _ => Reason::PeerProtocol,
            },
            Self::Alert(alert) => alert_reason(*alert),
            Self::Protocol | Self::Record(_) => Reason::PeerProtocol,
        }
    }
}

/// Alerts that speak of certificates say that the peer refused ours (RFC 8446 §6.2).
fn alert_reason(alert: u8) -> Reason {
    match alert {
        42..=46 | 48 | 49 | 113 | 116 => Reason::PeerIdentity,
        _ => Reason::PeerProtocol,
    }
}

fn alert_name(alert: u8) -> String {
    format!("{:?}", rustls::AlertDescription::from(alert))
}

/// What the handshake found out.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// The peer's certificates, its own first. Verified.
    pub(crate) peer: Vec<CertificateDer<'static>>,
    /// The certificates that we showed, where we are the server.
    pub(crate) shown: Vec<CertificateDer<'static>>,
    /// TLS version and cipher suite.
    pub(crate) name: String,
}

/// A TLS connection after its handshake.
pub(crate) struct Channel {
    socket: Rc<TcpStream>,
    watch: Option<Watch>,
    opener: Opener,
    sealer: Sealer,
    keys: Keys,
    /// What arrives.
    pub(crate) inbox: Inbox,
    /// What leaves.
    pub(crate) outbox: Outbox,
}

/// What the peer has said about the connection itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Received {
    /// Plaintexts are in the inbox, perhaps.
    Records,
    /// Plaintexts are in the inbox, perhaps, and they are the last: the peer closed its direction properly.
    Last,
}

impl Channel {
    /// Makes the handshake as the side that dialled.
    ///
    /// # Errors
    /// When the peer is not one that `config` accepts, or does not answer in time.
    pub(crate) async fn connect(
        socket: TcpStream,
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
        limit: Duration,
    ) -> Result<(Self, Session), TlsError> {
        within(limit, handshake::client(socket, config, name)).await
    }

    /// Makes the handshake as the side that accepted.
    ///
    /// # Errors
    /// When the peer is not one that `config` accepts, or does not answer in time.
    pub(crate) async fn accept(
        socket: TcpStream,
        config: Arc<rustls::ServerConfig>,
        limit: Duration,
    ) -> Result<(Self, Session), TlsError> {
        within(limit, handshake::server(socket, config)).await
    }

    /// Ready when the connection broke, for the time when it is not read.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<TlsError> {
        let watch = self.watch.get_or_insert_with(|| Watch::new(&self.socket));
        let outcome = ready!(watch.poll(&self.socket, cx));

        self.watch = None;
        Poll::Ready(match outcome {
            Ok(()) => TlsError::Truncated,
            Err(error) => TlsError::Socket(error),
        })
    }

    /// Makes the end of the connection a reset: nothing that is still under way matters to anybody.
    pub(crate) fn reset(&self) {
        socket::reset(&self.socket);
    }

    /// Reads what has arrived into the inbox. Ready with `true` when there is something new; `false` at the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, TlsError>> {
        self.inbox
            .poll_fill(cx, &self.socket)
            .map_err(TlsError::Socket)
    }

    /// Decrypts the next records in the inbox, at most a batch of them.
    pub(crate) fn open_records(&mut self) -> Result<Received, TlsError> {
        let Self {
            opener,
            keys,
            inbox,
            sealer,
            outbox,
            ..
        } = self;
        let outcome = inbox.open_records(opener, keys)?;
        if outcome.update_requested {
            outbox.update_keys(sealer, keys)?;
        }
        Ok(if outcome.closed {
            Received::Last
        } else {
            Received::Records
        })
    }

    /// Encrypts everything in the outbox that is not yet.
    pub(crate) fn seal(&mut self) -> Result<(), TlsError> {
        self.outbox.seal(&mut self.sealer, &mut self.keys)
    }

    /// Encrypts what was read into [`Outbox::areas`], `count` bytes, with a head in front of each payload.
    pub(crate) fn seal_areas<const SKIP: usize>(
        &mut self,
        count: usize,
        head: impl Fn(usize) -> [u8; SKIP],
    ) -> Result<(), TlsError> {
        self.outbox.seal_areas(&mut self.sealer, count, head)?;
        self.seal()
    }

    /// Adds close_notify behind everything in the outbox.
    pub(crate) fn seal_close(&mut self) -> Result<(), TlsError> {
        self.outbox
            .alert(&mut self.sealer, &mut self.keys, record::CLOSE_NOTIFY)
    }

    /// Adds an alert behind everything in the outbox.
    pub(crate) fn seal_alert(&mut self, alert: u8) -> Result<(), TlsError> {
        self.outbox.alert(&mut self.sealer, &mut self.keys, alert)
    }

    /// Writes what is encrypted. Ready when nothing is left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TlsError>> {
        self.outbox
            .poll_flush(cx, &self.socket)
            .map_err(TlsError::Socket)
    }
}

async fn within<T>(
    limit: Duration,
    handshake: impl Future<Output = Result<T, TlsError>>,
) -> Result<T, TlsError> {
    tokio::time::timeout(limit, handshake)
        .await
        .unwrap_or(Err(TlsError::HandshakeTimeout(limit)))
}
