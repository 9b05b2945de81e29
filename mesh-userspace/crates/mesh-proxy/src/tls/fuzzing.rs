//! The TLS layer towards a peer whose bytes somebody changes on the way, from its first hello to its last record.
//!
//! The peer is rustls itself, in its ordinary form; so whatever is changed, its handshake and records are real up to there.

use std::cell::LazyCell;
use std::future::poll_fn;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use super::record::MAX_SIZE;
use super::{Channel, Received, TlsError};

/// Time is paused, so waiting in vain costs nothing.
const LIMIT: Duration = Duration::from_secs(1);

/// Pieces in which bytes are sent, at most: each is a turn of both sides.
const PIECES: usize = 64;

thread_local! {
    static RUNTIME: LazyCell<Runtime> = const { LazyCell::new(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap_or_else(|error| panic!("no runtime: {error}"))
    }) };
}

/// Both sides' configurations, and what happens between them.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Of the side that dials.
    pub client: Arc<ClientConfig>,
    /// Of the side that accepts.
    pub server: Arc<ServerConfig>,
    /// Its name.
    pub name: ServerName<'static>,
    /// Who the peer is.
    pub peer: SpiffeId,
    /// Whether we are the side that accepts.
    pub accepting: bool,
    /// These bytes, rather than a peer.
    pub bytes: Option<&'a [u8]>,
    /// What is changed of what the peer sends: position, what is done there, and with what.
    pub edits: Vec<(usize, u8, u8)>,
    /// In pieces of this size.
    pub piece: usize,
    /// What the peer says after the handshake, record by record.
    pub says: Vec<&'a [u8]>,
    /// It renews its keys before this record.
    pub renews_before: usize,
    /// It closes properly.
    pub closes: bool,
}

/// Carries the plan out. What we decrypt is a beginning of what the peer said, whatever was changed; who we speak to is
/// the peer; and what we hold between two turns is less than a record.
pub fn channel(plan: &Plan<'_>) {
    RUNTIME.with(|runtime| runtime.block_on(carry_out(plan)));
}

async fn carry_out(plan: &Plan<'_>) {
    let (ours, theirs) = pair();
    let ((), received) = tokio::join!(peer(plan, theirs), us(plan, ours));
    let said = plan.says.concat();
    assert!(
        said.starts_with(&received),
        "decrypted {} bytes that the peer did not say so",
        received.len()
    );
}

/// Local sockets cost less than TCP's, and leave no connections behind that wait for the end of their time.
fn pair() -> (TcpStream, TcpStream) {
    let (ours, theirs) = UnixStream::pair().unwrap_or_else(|error| panic!("no sockets: {error}"));
    let [ours, theirs] = [ours, theirs].map(|socket| {
        let socket = std::net::TcpStream::from(OwnedFd::from(socket));
        socket
            .set_nonblocking(true)
            .and_then(|()| TcpStream::from_std(socket))
            .unwrap_or_else(|error| panic!("no socket: {error}"))
    });
    (ours, theirs)
}

async fn us(plan: &Plan<'_>, socket: TcpStream) -> Vec<u8> {
    let shaken = if plan.accepting {
        Channel::accept(socket, Arc::clone(&plan.server), LIMIT).await
    } else {
        let (config, name) = (Arc::clone(&plan.client), plan.name.clone());
        Channel::connect(socket, config, name, LIMIT).await
    };
    let mut received = Vec::new();
    let Ok((mut channel, session)) = shaken else {
        return received;
    };
    let identity = mesh_identity::tls::peer_identity(&session.peer);
    assert_eq!(identity.ok().as_ref(), Some(&plan.peer), "not who it is");
    assert!(plan.bytes.is_none(), "a peer without a key was believed");
    while let Ok(more) = tokio::time::timeout(LIMIT, turn(&mut channel, &mut received)).await {
        if !matches!(more, Ok(true)) {
            break;
        }
    }
    received
}

/// One turn, as a tunnel's task takes it. Whether there may be another.
async fn turn(channel: &mut Channel, received: &mut Vec<u8>) -> Result<bool, TlsError> {
    loop {
        let outcome = channel.open_records()?;
        let payloads = channel.inbox.payloads();
        let count = payloads.len();
        payloads.for_each(|payload| received.extend_from_slice(payload));
        channel.inbox.handed_over(count);
        if outcome == Received::Last {
            return Ok(false);
        }
        if count == 0 {
            break;
        }
    }
    channel.inbox.release();
    assert!(
        channel.inbox.held() < MAX_SIZE + 256,
        "held between turns: {}",
        channel.inbox.held()
    );
    channel.seal()?;
    poll_fn(|cx| channel.poll_flush(cx)).await?;
    poll_fn(|cx| channel.poll_fill(cx)).await
}

async fn peer(plan: &Plan<'_>, mut socket: TcpStream) {
    let mut wire = Wire {
        edits: &plan.edits,
        piece: plan.piece.max(1),
        sent: 0,
        pieces: 0,
    };
    let done = match plan.bytes {
        Some(bytes) => wire.send(&mut socket, bytes).await,
        None => converse(plan, &mut socket, &mut wire).await,
    };
    // Whether it came to an end is not the question; ours must.
    if done.is_some() {
        let _closed = socket.shutdown().await;
    }
}

async fn converse(plan: &Plan<'_>, socket: &mut TcpStream, wire: &mut Wire<'_>) -> Option<()> {
    let mut tls = if plan.accepting {
        Connection::Client(ClientConnection::new(Arc::clone(&plan.client), plan.name.clone()).ok()?)
    } else {
        Connection::Server(ServerConnection::new(Arc::clone(&plan.server)).ok()?)
    };
    while tls.is_handshaking() {
        wire.send(socket, &written(&mut tls)).await?;
        if tls.is_handshaking() {
            let mut buffer = [0; 4096];
            let count = tokio::time::timeout(LIMIT, socket.read(&mut buffer))
                .await
                .ok()?
                .ok()?;
            let mut arrived = buffer.get(..count).filter(|bytes| !bytes.is_empty())?;
            while !arrived.is_empty() {
                tls.read_tls(&mut arrived).ok()?;
                tls.process_new_packets().ok()?;
            }
        }
    }
    wire.send(socket, &written(&mut tls)).await?;
    for (number, record) in plan.says.iter().enumerate() {
        if number == plan.renews_before {
            tls.refresh_traffic_keys().ok()?;
        }
        tls.writer().write_all(record).ok()?;
        wire.send(socket, &written(&mut tls)).await?;
    }
    if plan.closes {
        tls.send_close_notify();
        wire.send(socket, &written(&mut tls)).await?;
    }
    Some(())
}

fn written(tls: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        if tls.write_tls(&mut bytes).is_err() {
            break;
        }
    }
    bytes
}

/// The way from the peer to us.
struct Wire<'a> {
    edits: &'a [(usize, u8, u8)],
    piece: usize,
    sent: usize,
    pieces: usize,
}

impl Wire<'_> {
    /// `None`: nothing more arrives.
    async fn send(&mut self, socket: &mut TcpStream, bytes: &[u8]) -> Option<()> {
        let mut changed = Vec::with_capacity(bytes.len());
        let mut cut = false;
        for byte in bytes {
            let edit = self.edits.iter().find(|(at, _, _)| *at == self.sent);
            self.sent += 1;
            match edit {
                None => changed.push(*byte),
                Some((_, 0, value)) => changed.push(byte ^ value),
                Some((_, 1, _)) => {}
                Some((_, 2, value)) => changed.extend([*value, *byte]),
                Some((_, 3, value)) => {
                    changed.extend(std::iter::repeat_n(*byte, 1 + usize::from(*value)))
                }
                Some(_) => {
                    cut = true;
                    break;
                }
            }
        }
        for piece in changed.chunks(self.piece.max(changed.len() / PIECES)) {
            self.pieces += 1;
            socket.write_all(piece).await.ok()?;
            tokio::task::yield_now().await;
        }
        (!cut).then_some(())
    }
}
