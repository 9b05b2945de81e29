//! The accepting side: takes tunnels, and asks the inbound story about each of their streams.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mesh_core::outcome::Reason;
use tokio::net::TcpStream;

use super::client::prepare;
use super::error::TunnelError;
use super::mailbox::{Command, Mailbox};
use super::state::Side;
use super::table::{Acceptor, Streams};
use super::task::Task;
use super::{Inbound, Limits, Peer, PeerChain, TunnelFigures};
use crate::tls::{Channel, TlsError};

/// The tunnels that one worker thread has accepted.
#[derive(Clone)]
pub struct Server(Rc<Inner>);

struct Inner {
    limits: Limits,
    tunnels: RefCell<HashMap<u64, Entry>>,
    /// Connections whose peer is not known yet.
    shaking: Cell<usize>,
    accepted: Cell<u64>,
    handshakes: Cell<u64>,
    handshake_failures: Cell<u64>,
    protocol_errors: Cell<u64>,
}

struct Entry {
    peer: Rc<Peer>,
    mailbox: Rc<Mailbox>,
}

/// Counts a handshake, however it ends.
struct Shaking(Rc<Inner>);

/// Takes a tunnel out of the list, however its task ends.
struct Listed {
    server: Rc<Inner>,
    number: u64,
}

impl Server {
    /// No tunnel yet.
    pub fn new(limits: Limits) -> Self {
        Self(Rc::new(Inner {
            limits,
            tunnels: RefCell::default(),
            shaking: Cell::new(0),
            accepted: Cell::new(0),
            handshakes: Cell::new(0),
            handshake_failures: Cell::new(0),
            protocol_errors: Cell::new(0),
        }))
    }

    /// Serves a connection to a tunnel listener until it ends: handshake, then streams. Must run on a
    /// [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// Says why the tunnel did not come about, or why it did not end in good order.
    pub async fn serve<I: Inbound>(
        &self,
        socket: TcpStream,
        config: Arc<rustls::ServerConfig>,
        inbound: Rc<I>,
    ) -> Result<(), TunnelError> {
        let (channel, peer) = match self.shake(socket, config).await {
            Ok(done) => done,
            Err(error) => {
                count(&self.0.handshake_failures);
                return Err(error);
            }
        };
        count(&self.0.handshakes);
        let peer = Rc::new(peer);
        let mailbox = Rc::new(Mailbox::default());
        let _listed = self.list(&peer, &mailbox);
        let acceptor: Acceptor = Box::new(move |open| {
            let (inbound, peer) = (Rc::clone(&inbound), Rc::clone(&peer));
            Box::pin(async move { inbound.open(&peer, open).await })
        });
        let streams = Streams::new(Side::Accepting, self.0.limits, mailbox, Some(acceptor));
        let result = Task::new(channel, streams).run().await;
        if let Err(error) = &result
            && error.is_protocol_error()
        {
            count(&self.0.protocol_errors);
        }
        result
    }

    /// Ends at once the tunnels of which `which` says so: applications see resets.
    pub fn cut(&self, which: impl FnMut(&Peer) -> bool, reason: Reason) {
        self.send(which, || Command::CutAll(reason));
    }

    /// Asks peers to open no further streams. Their tunnels end with the last stream.
    pub fn drain(&self, which: impl FnMut(&Peer) -> bool) {
        self.send(which, || Command::Retire);
    }

    /// Whether there is neither a tunnel nor what could become one.
    pub fn is_empty(&self) -> bool {
        self.0.shaking.get() == 0 && self.0.tunnels.borrow().is_empty()
    }

    /// Figures of these tunnels.
    pub fn figures(&self) -> TunnelFigures {
        let tunnels = self.0.tunnels.borrow();
        TunnelFigures {
            tunnels: tunnels.len() as u64,
            streams: tunnels
                .values()
                .map(|entry| entry.mailbox.load() as u64)
                .sum(),
            handshakes: self.0.handshakes.get(),
            handshake_failures: self.0.handshake_failures.get(),
            protocol_errors: self.0.protocol_errors.get(),
        }
    }

    async fn shake(
        &self,
        socket: TcpStream,
        config: Arc<rustls::ServerConfig>,
    ) -> Result<(Channel, Peer), TunnelError> {
        let address = socket.peer_addr().map_err(TlsError::Socket)?;
        prepare(&socket).map_err(TlsError::Socket)?;
        let limit = self.0.limits.handshake;
        let _shaking = Shaking::begin(&self.0);
        let (channel, session) = Channel::accept(socket, config, limit).await?;
        let peer = Peer {
            identity: mesh_identity::tls::peer_identity(&session.peer)?,
            address,
            server: mesh_identity::tls::peer_identity(&session.shown)?,
            chain: PeerChain::verified_now(session.peer),
            tls: session.name,
        };
        Ok((channel, peer))
    }

    fn list(&self, peer: &Rc<Peer>, mailbox: &Rc<Mailbox>) -> Listed {
        let number = count(&self.0.accepted);
        let entry = Entry {
            peer: Rc::clone(peer),
            mailbox: Rc::clone(mailbox),
        };
        self.0.tunnels.borrow_mut().insert(number, entry);
        Listed {
            server: Rc::clone(&self.0),
            number,
        }
    }

    fn send(&self, mut which: impl FnMut(&Peer) -> bool, command: impl Fn() -> Command) {
        for entry in self.0.tunnels.borrow().values() {
            if which(&entry.peer) {
                entry.mailbox.send(command());
            }
        }
    }
}

impl Shaking {
    fn begin(server: &Rc<Inner>) -> Self {
        server.shaking.set(server.shaking.get() + 1);
        Self(Rc::clone(server))
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.shaking.set(self.0.shaking.get() - 1);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.server.tunnels.borrow_mut().remove(&self.number);
    }
}

fn count(cell: &Cell<u64>) -> u64 {
    cell.set(cell.get() + 1);
    cell.get()
}
