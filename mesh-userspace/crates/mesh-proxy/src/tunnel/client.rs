//! Makes a tunnel to a peer: dial, handshake, and the check that it is one of those expected.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_core::outcome::Reason;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use super::error::TunnelError;
use super::mailbox::Mailbox;
use super::state::Side;
use super::table::Streams;
use super::task::Task;
use super::{Dialler, Limits, PeerChain, TunnelKey};
use crate::tls::{Channel, TlsError};

/// A peer that has vanished is noticed after this time: while bytes are under way by their not being acknowledged, and
/// otherwise by probes.
const VANISHED: Duration = Duration::from_secs(20);
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(3);
const PROBES: u32 = 3;

/// A tunnel that can be used.
pub(super) struct Dialled {
    pub(super) task: Task,
    pub(super) mailbox: Rc<Mailbox>,
    pub(super) peer: SpiffeId,
    pub(super) chain: Arc<PeerChain>,
    pub(super) tls: String,
}

/// Why there is no tunnel. Told to everybody who waited for it.
#[derive(Clone, Debug)]
pub(super) struct DialFailure {
    pub(super) reason: Reason,
    pub(super) detail: String,
    /// It was the handshake, not the way there.
    pub(super) handshake: bool,
}

/// Makes a tunnel.
pub(super) async fn dial(
    dialler: &dyn Dialler,
    key: &TunnelKey,
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    limits: Limits,
) -> Result<Dialled, DialFailure> {
    let unreachable = |error: io::Error| DialFailure {
        reason: Reason::Unreachable,
        detail: format!("dial the tunnel listener {}: {error}", key.address),
        handshake: false,
    };
    let socket = dialler
        .dial(key.source, key.address)
        .await
        .map_err(unreachable)?;
    prepare(&socket).map_err(unreachable)?;
    let refused = |error: TunnelError| DialFailure {
        reason: match error.reason() {
            // Before there was a tunnel none can have been lost.
            Reason::TunnelLost => Reason::Unreachable,
            reason => reason,
        },
        detail: format!("tunnel to {}: {error}", key.address),
        handshake: true,
    };
    let (channel, session) = Channel::connect(socket, config, name, limits.handshake)
        .await
        .map_err(|error| refused(error.into()))?;
    let peer =
        mesh_identity::tls::peer_identity(&session.peer).map_err(|error| refused(error.into()))?;
    if !key.peers.contains(&peer) {
        // The verifier has made sure of it; but what follows relies on it.
        return Err(refused(TunnelError::Tls(TlsError::Handshake(
            rustls::CertificateError::ApplicationVerificationFailure.into(),
        ))));
    }
    let mailbox = Rc::new(Mailbox::default());
    let streams = Streams::new(Side::Dialling, limits, Rc::clone(&mailbox), None);
    Ok(Dialled {
        task: Task::new(channel, streams),
        mailbox,
        peer,
        chain: PeerChain::verified_now(session.peer),
        tls: session.name,
    })
}

/// Sets the options of a tunnel's socket.
pub(super) fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_user_timeout(Some(VANISHED))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(PROBE_AFTER)
            .with_interval(PROBE_EVERY)
            .with_retries(PROBES),
    )
}
