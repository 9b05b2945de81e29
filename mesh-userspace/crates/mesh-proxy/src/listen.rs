//! Accepts connections: one loop per listener and thread. A failed accept never ends a loop; only leaving and draining
//! do, and then what is in the queue already is still taken.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mesh_core::addr::{ClientAddr, canonical};
use mesh_core::identity::SpiffeId;
use mesh_core::outcome::Reason;
use mesh_core::record::{Direction, Party};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::context::Context;
use crate::inbound::{At, Tunnel};
use crate::link::ListenerKind;
use crate::record::Ended;
use crate::reset::{self, ResetOnDrop};
use crate::served::{HostShare, Served, Share};
use crate::{outbound, plain};

/// First pause after an accept that failed for want of descriptors or memory; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a handshake may take that the kernel began before the listener stopped, two retransmissions (200 and 400 ms)
/// included: closing the listener before would reset the client.
const SETTLE: Duration = Duration::from_secs(1);

/// An accepted connection of an application.
pub(crate) struct Accepted {
    /// The connection.
    pub(crate) connection: TcpStream,
    /// The other end.
    pub(crate) client: ClientAddr,
    /// Counts as one of the workload's connections for as long as it lives.
    pub(crate) share: Share,
}

/// Accepts what arrives at a workload's listener, until the workload leaves or the worker drains.
pub(crate) async fn workload(
    cx: Rc<Context>,
    served: Arc<Served>,
    listener: TcpListener,
    kind: ListenerKind,
) {
    // Until the queue is empty, the workload has not left.
    let _member = served.member();
    let stop = async {
        tokio::select! {
            () = served.leaving.begun() => {}
            () = cx.shared.drain.begun() => {}
        }
    };
    accept(&cx, &listener, stop, |connection, client| match kind {
        ListenerKind::Outbound => {
            story(
                &cx,
                &served,
                connection,
                client,
                Direction::Outbound,
                outbound::serve,
            );
        }
        ListenerKind::Plaintext => {
            story(
                &cx,
                &served,
                connection,
                client,
                Direction::Inbound,
                plain::serve,
            );
        }
        ListenerKind::Tunnel => {
            let own: Arc<[SpiffeId]> = Arc::new([served.local.identity.clone()]);
            tunnel(
                &cx,
                connection,
                client,
                &own,
                At::Workload(Arc::clone(&served)),
            );
        }
    })
    .await;
}

/// Accepts tunnels for the host services of this node, until the worker drains.
pub(crate) async fn host(cx: Rc<Context>, listener: TcpListener) {
    let stop = cx.shared.drain.begun();
    accept(&cx, &listener, stop, |connection, client| {
        let own = cx.shared.served.load().host_identities();
        tunnel(&cx, connection, client, &own, At::Host);
    })
    .await;
}

async fn accept(
    cx: &Rc<Context>,
    listener: &TcpListener,
    stop: impl Future<Output = ()>,
    mut serve: impl FnMut(TcpStream, ClientAddr),
) {
    let mut stop = std::pin::pin!(stop);
    let mut pause = FIRST_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((connection, client)) => {
                pause = FIRST_PAUSE;
                serve(connection, ClientAddr(canonical(client)));
            }
            Err(error) => {
                count_failure(cx);
                if exhausted(&error) {
                    tracing::warn!(%error, "cannot accept a connection; pausing");
                    // The connection stays in the queue. Stopping is not held up by the pause.
                    tokio::select! {
                        () = &mut stop => break,
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
                    }
                }
            }
        }
    }
    // What the kernel has queued was promised to be served, and so was what it has begun to shake hands with.
    let settled = Instant::now() + SETTLE;
    loop {
        while let Some((connection, client)) = next_queued(cx, listener) {
            serve(connection, client);
        }
        match timeout_at(settled, listener.accept()).await {
            Ok(Ok((connection, client))) => serve(connection, ClientAddr(canonical(client))),
            Ok(Err(error)) if exhausted(&error) => break,
            Ok(Err(_)) => count_failure(cx),
            Err(_) => break,
        }
    }
}

/// The next connection in the queue; failures of single ones are counted and passed over.
fn next_queued(cx: &Context, listener: &TcpListener) -> Option<(TcpStream, ClientAddr)> {
    loop {
        match queued(listener) {
            Ok(next) => return next,
            Err(error) if exhausted(&error) => return None,
            Err(_) => count_failure(cx),
        }
    }
}

fn count_failure(cx: &Context) {
    cx.shared
        .counters
        .accept_failures
        .fetch_add(1, Ordering::Relaxed);
}

/// Takes a connection out of the queue, if there is one. Asks the kernel itself: the runtime only knows of those that it
/// has been told of.
fn queued(listener: &TcpListener) -> io::Result<Option<(TcpStream, ClientAddr)>> {
    match socket2::SockRef::from(listener).accept() {
        Ok((connection, client)) => {
            connection.set_nonblocking(true)?;
            let client = client.as_socket().ok_or(io::ErrorKind::InvalidData)?;
            let connection = TcpStream::from_std(connection.into())?;
            Ok(Some((connection, ClientAddr(canonical(client)))))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an accept failed for want of something, rather than because of its one connection (accept(2) passes pending
/// network errors of the new socket on).
fn exhausted(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

fn story<F: Future<Output = ()> + 'static>(
    cx: &Rc<Context>,
    served: &Arc<Served>,
    connection: TcpStream,
    client: ClientAddr,
    direction: Direction,
    serve: impl FnOnce(Rc<Context>, Accepted) -> F,
) {
    match served.connection() {
        Ok(share) => {
            let accepted = Accepted {
                connection,
                client,
                share,
            };
            tokio::task::spawn_local(serve(Rc::clone(cx), accepted));
        }
        Err(full) => {
            let record = cx.record(direction, &cx.shared.world.load());
            record.fill(|record| {
                record.client = Some(client);
                match direction {
                    Direction::Outbound => record.source = party(served),
                    Direction::Inbound => record.destination = party(served),
                }
            });
            reset::now(connection);
            record.close(Ended::before(Reason::Overloaded, full.to_string()));
        }
    }
}

fn tunnel(
    cx: &Rc<Context>,
    connection: TcpStream,
    peer: ClientAddr,
    own: &Arc<[SpiffeId]>,
    at: At,
) {
    let connection = ResetOnDrop::new(connection);
    let counted = match &at {
        At::Workload(served) => served.tunnel().map(Counted::Workload),
        At::Host => cx.shared.host_tunnels.tunnel().map(Counted::Host),
    };
    let counted = match counted {
        Ok(counted) => counted,
        Err(full) => return refused(cx, &at, peer, Reason::Overloaded, full.to_string()),
    };
    let identities = cx.identities();
    match cx.configs.server(&identities, own) {
        Ok(config) => {
            let inbound = Tunnel::new(cx, at.clone(), identities.generation);
            let tunnel = carry_tunnel(
                Rc::clone(cx),
                connection,
                peer,
                config,
                inbound,
                at,
                counted,
            );
            tokio::task::spawn_local(tunnel);
        }
        Err(error) => refused(cx, &at, peer, Reason::Fault, error.to_string()),
    }
}

/// The place that a tunnel takes, held for as long as it lives.
enum Counted {
    Workload(#[expect(dead_code, reason = "held, not read")] Share),
    Host(#[expect(dead_code, reason = "held, not read")] HostShare),
}

async fn carry_tunnel(
    cx: Rc<Context>,
    mut connection: ResetOnDrop,
    peer: ClientAddr,
    config: Arc<rustls::ServerConfig>,
    inbound: Rc<Tunnel>,
    at: At,
    _counted: Counted,
) {
    let Some(stream) = connection.take() else {
        return;
    };
    // A task of its own: what waits here for the workload to leave is not to be looked at for every record that arrives.
    let server = cx.server.clone();
    let mut serving =
        tokio::task::spawn_local(async move { server.serve(stream, config, inbound).await });
    let gone = async {
        match &at {
            At::Workload(served) => served.leaving.finished().await,
            At::Host => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        result = &mut serving => result.unwrap_or_else(|error| {
            tracing::error!(%error, %peer, "a tunnel's task ended");
            Ok(())
        }),
        // No connection is left in it, and its workload is no longer ours to speak for.
        () = gone => {
            serving.abort();
            Ok(())
        }
    };
    let Err(error) = result else { return };
    match error.reason() {
        // Whoever comes without the right certificate or protocol is worth a record: no stream tells of it.
        reason @ (Reason::PeerIdentity | Reason::PeerProtocol) => {
            refused(&cx, &at, peer, reason, error.to_string());
        }
        _ => tracing::debug!(%error, %peer, "a tunnel ended"),
    }
}

/// The record of a tunnel that was not taken, or broke the rules.
fn refused(cx: &Context, at: &At, peer: ClientAddr, reason: Reason, detail: String) {
    let record = cx.record(Direction::Inbound, &cx.shared.world.load());
    record.fill(|record| {
        record.client = Some(peer);
        if let At::Workload(served) = at {
            record.destination = party(served);
        }
    });
    record.close(Ended::before(reason, detail));
}

fn party(served: &Served) -> Party {
    Party {
        workload: Some(served.local.name.clone()),
        identity: Some(served.local.identity.clone()),
    }
}
