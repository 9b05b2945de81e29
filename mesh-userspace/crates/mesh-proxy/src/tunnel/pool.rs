//! The tunnels that one worker thread has dialled, and how a stream finds one.
//!
//! The fullest tunnel of its key that is not crowded carries a new stream: streams that share a tunnel share its system
//! calls, and what a burst has opened becomes idle and closes. If none takes it (there is none, all are full, or each moves
//! much for one stream) a new one is dialled, once for everybody who waits for it. Where all are nearly full the next is
//! dialled before it is needed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mesh_core::identity::SpiffeId;
use mesh_core::outcome::Reason;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::client::{self, DialFailure, Dialled};
use super::handle::{Shared, StreamHandle};
use super::mailbox::{Command, Mailbox, NewStream};
use super::{Dialler, Limits, OpenError, OpenRequest, Opened, PeerChain, TunnelFigures, TunnelKey};
use crate::{socket, wire};

/// Tunnels that a stream tries, where each ends just before it answers.
const ATTEMPTS: usize = 3;

/// The tunnels of a worker thread. All methods must be called on its [`tokio::task::LocalSet`].
#[derive(Clone)]
pub struct Pool(Rc<Inner>);

struct Inner {
    dialler: Rc<dyn Dialler>,
    limits: Limits,
    places: RefCell<HashMap<TunnelKey, Place>>,
    draining: Cell<bool>,
    handshakes: Cell<u64>,
    handshake_failures: Cell<u64>,
    protocol_errors: Cell<u64>,
}

/// The tunnels of one key.
#[derive(Default)]
struct Place {
    tunnels: Vec<Rc<Tunnel>>,
    /// Those who wait for the tunnel that is being dialled.
    dialling: Option<Vec<oneshot::Sender<Result<(), DialFailure>>>>,
}

struct Tunnel {
    mailbox: Rc<Mailbox>,
    peer: SpiffeId,
    chain: Arc<PeerChain>,
    tls: String,
}

/// The application of a story that has not been answered: if the story goes away, it is reset.
struct Waiting {
    app: Option<TcpStream>,
    kept: Vec<u8>,
}

/// The same, while the tunnel has it.
struct Asked {
    mailbox: Rc<Mailbox>,
    stream: u32,
    answered: bool,
}

impl Pool {
    /// No tunnel yet.
    pub fn new(dialler: Rc<dyn Dialler>, limits: Limits) -> Self {
        Self(Rc::new(Inner {
            dialler,
            limits,
            places: RefCell::default(),
            draining: Cell::new(false),
            handshakes: Cell::new(0),
            handshake_failures: Cell::new(0),
            protocol_errors: Cell::new(0),
        }))
    }

    /// Opens a stream, and returns once the peer's application has taken it. Dropping the future resets the application's
    /// connection.
    ///
    /// # Errors
    /// Says why there is no stream, and gives the application back where it may be offered to another endpoint.
    pub async fn open(&self, request: OpenRequest) -> Result<Opened, OpenError> {
        let OpenRequest {
            key,
            config,
            server_name,
            open,
            app,
            kept,
        } = request;
        let mut waiting = Waiting {
            app: Some(app),
            kept,
        };
        if waiting.kept.len() > wire::INITIAL_WINDOW as usize {
            return Err(waiting.give_back(
                Reason::Fault,
                "more bytes were read ahead than may be kept".to_owned(),
            ));
        }
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let tunnel = match self.tunnel(&key, &config, &server_name).await {
                Ok(tunnel) => tunnel,
                Err(failure) => return Err(waiting.give_back(failure.reason, failure.detail)),
            };
            let asked = Instant::now();
            match self.ask(&tunnel, &open, &mut waiting).await {
                Ok(stream) => {
                    return Ok(Opened {
                        peer: tunnel.peer.clone(),
                        chain: Arc::clone(&tunnel.chain),
                        tls: tunnel.tls.clone(),
                        answered_in: asked.elapsed(),
                        stream,
                    });
                }
                // The tunnel ended just then, or its other end is about to. The next one is another.
                Err(OpenError {
                    returned: Some((app, kept)),
                    reason: reason @ (Reason::TunnelLost | Reason::Drained),
                    detail,
                }) => {
                    waiting = Waiting {
                        app: Some(app),
                        kept,
                    };
                    last = Some((reason, detail));
                }
                Err(error) => return Err(error),
            }
        }
        let (reason, detail) = last.unwrap_or((Reason::TunnelLost, String::new()));
        Err(waiting.give_back(reason, detail))
    }

    /// Ends at once the tunnels of which `which` says so: applications see resets.
    pub fn cut(&self, mut which: impl FnMut(&TunnelKey, &Arc<PeerChain>) -> bool, reason: Reason) {
        for (key, place) in &*self.0.places.borrow() {
            for tunnel in &place.tunnels {
                if which(key, &tunnel.chain) {
                    tunnel.mailbox.send(Command::CutAll(reason));
                }
            }
        }
    }

    /// Opens no further streams in the tunnels of which `which` says so; they end with their last stream. For renewed
    /// certificates, and for workloads that leave.
    pub fn retire(&self, which: impl Fn(&TunnelKey) -> bool) {
        for (key, place) in &*self.0.places.borrow() {
            if which(key) {
                for tunnel in &place.tunnels {
                    tunnel.mailbox.send(Command::Retire);
                }
            }
        }
    }

    /// Closes tunnels that carry nothing, but for one of each key: demand has fallen, and what each holds is scattered
    /// among the memory of the streams that have gone.
    pub fn trim(&self) {
        for place in self.0.places.borrow().values() {
            let idle = |tunnel: &&Rc<Tunnel>| tunnel.mailbox.load() == 0;
            let one_is_busy = place.tunnels.iter().any(|tunnel| !idle(&tunnel));
            let spared = usize::from(!one_is_busy);
            for tunnel in place.tunnels.iter().filter(idle).skip(spared) {
                tunnel.mailbox.send(Command::Retire);
            }
        }
    }

    /// Opens no further streams at all.
    pub fn drain(&self) {
        self.0.draining.set(true);
        self.retire(|_| true);
    }

    /// Figures of these tunnels.
    pub fn figures(&self) -> TunnelFigures {
        let places = self.0.places.borrow();
        let tunnels = || places.values().flat_map(|place| &place.tunnels);
        TunnelFigures {
            tunnels: tunnels().count() as u64,
            streams: tunnels().map(|tunnel| tunnel.mailbox.load() as u64).sum(),
            handshakes: self.0.handshakes.get(),
            handshake_failures: self.0.handshake_failures.get(),
            protocol_errors: self.0.protocol_errors.get(),
        }
    }

    /// Asks a tunnel to open a stream.
    async fn ask(
        &self,
        tunnel: &Tunnel,
        open: &wire::Open,
        waiting: &mut Waiting,
    ) -> Result<StreamHandle, OpenError> {
        let mailbox = &tunnel.mailbox;
        let Some(app) = waiting.app.take() else {
            return Err(OpenError::gone());
        };
        let kept = std::mem::take(&mut waiting.kept);
        let Some(id) = mailbox.next_stream().filter(|_| !mailbox.has_ended()) else {
            return Err(OpenError {
                returned: Some((app, kept)),
                reason: Reason::TunnelLost,
                detail: "the tunnel was closed".to_owned(),
            });
        };
        let shared = Shared::new(id, Rc::clone(mailbox));
        let (answer, answered) = oneshot::channel();
        mailbox.send(Command::Open(Box::new(NewStream {
            id,
            open: open.clone(),
            app,
            kept,
            shared: Rc::clone(&shared),
            answer,
        })));
        let mut asked = Asked {
            mailbox: Rc::clone(mailbox),
            stream: id,
            answered: false,
        };
        let mut answered = answered;
        let answer = match tokio::time::timeout(self.0.limits.open, &mut answered).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                mailbox.send(Command::GiveUp { stream: id });
                answered.await
            }
        };
        asked.answered = true;
        match answer {
            Ok(Ok(())) => Ok(StreamHandle::new(shared)),
            Ok(Err(error)) => Err(error),
            Err(_task_gone) => Err(OpenError::gone()),
        }
    }

    /// The tunnel that is to carry a new stream.
    async fn tunnel(
        &self,
        key: &TunnelKey,
        config: &Arc<rustls::ClientConfig>,
        name: &ServerName<'static>,
    ) -> Result<Rc<Tunnel>, DialFailure> {
        loop {
            if self.0.draining.get() {
                return Err(DialFailure {
                    reason: Reason::Drained,
                    detail: "the node is about to stop".to_owned(),
                    handshake: false,
                });
            }
            let (chosen, dialling) = self.choose(key);
            if let Some(tunnel) = chosen {
                if !dialling && self.is_crowded(key) {
                    self.dial(key, config, name, None);
                }
                return Ok(tunnel);
            }
            let (done, outcome) = oneshot::channel();
            if dialling {
                let mut places = self.0.places.borrow_mut();
                if let Some(waiting) = places
                    .get_mut(key)
                    .and_then(|place| place.dialling.as_mut())
                {
                    waiting.push(done);
                }
            } else {
                self.dial(key, config, name, Some(done));
            }
            outcome.await.unwrap_or_else(|_gone| {
                Err(DialFailure {
                    reason: Reason::Fault,
                    detail: "the dial was given up".to_owned(),
                    handshake: false,
                })
            })?;
        }
    }

    /// The tunnel that a new stream joins, and whether one is being dialled.
    fn choose(&self, key: &TunnelKey) -> (Option<Rc<Tunnel>>, bool) {
        let places = self.0.places.borrow();
        let Some(place) = places.get(key) else {
            return (None, false);
        };
        let with_room = |limit| {
            let tunnels = place.tunnels.iter();
            tunnels.filter(move |tunnel| tunnel.mailbox.takes_streams(limit))
        };
        let chosen = with_room(self.nearly_full())
            .max_by_key(|tunnel| tunnel.mailbox.load())
            .or_else(|| {
                // All are crowded: evenly, until the next one is there.
                with_room(self.0.limits.streams).min_by_key(|tunnel| tunnel.mailbox.load())
            });
        (chosen.cloned(), place.dialling.is_some())
    }

    /// Streams from which on a tunnel is crowded.
    fn nearly_full(&self) -> usize {
        self.0.limits.streams - self.0.limits.streams / 4
    }

    /// Whether every tunnel of the key is so full that the next should be dialled before it is needed.
    fn is_crowded(&self, key: &TunnelKey) -> bool {
        let nearly_full = self.nearly_full();
        let places = self.0.places.borrow();
        places.get(key).is_some_and(|place| {
            place
                .tunnels
                .iter()
                .all(|tunnel| !tunnel.mailbox.takes_streams(nearly_full))
        })
    }

    /// Dials a tunnel in the background.
    fn dial(
        &self,
        key: &TunnelKey,
        config: &Arc<rustls::ClientConfig>,
        name: &ServerName<'static>,
        first: Option<oneshot::Sender<Result<(), DialFailure>>>,
    ) {
        let waiting = first.into_iter().collect();
        let mut places = self.0.places.borrow_mut();
        places.entry(key.clone()).or_default().dialling = Some(waiting);
        drop(places);
        let (pool, key, config, name) =
            (self.clone(), key.clone(), Arc::clone(config), name.clone());
        tokio::task::spawn_local(async move {
            let inner = &pool.0;
            let dialled = client::dial(&*inner.dialler, &key, config, name, inner.limits).await;
            match dialled {
                Ok(dialled) => {
                    inner.handshakes.set(inner.handshakes.get() + 1);
                    let (task, tunnel) = pool.join(&key, dialled);
                    let result = task.run().await;
                    pool.leave(&key, &tunnel, result);
                }
                Err(failure) => pool.failed(&key, &failure),
            }
        });
    }

    /// A tunnel was dialled: who waited may choose it.
    fn join(&self, key: &TunnelKey, dialled: Dialled) -> (super::task::Task, Rc<Tunnel>) {
        let Dialled {
            task,
            mailbox,
            peer,
            chain,
            tls,
        } = dialled;
        if self.0.draining.get() {
            mailbox.send(Command::Retire);
        }
        let tunnel = Rc::new(Tunnel {
            mailbox,
            peer,
            chain,
            tls,
        });
        let mut places = self.0.places.borrow_mut();
        let place = places.entry(key.clone()).or_default();
        place.tunnels.push(Rc::clone(&tunnel));
        for waiting in place.dialling.take().into_iter().flatten() {
            let _gone = waiting.send(Ok(()));
        }
        (task, tunnel)
    }

    fn leave(&self, key: &TunnelKey, tunnel: &Rc<Tunnel>, result: Result<(), super::TunnelError>) {
        if let Err(error) = result {
            tracing::debug!(peer = %tunnel.peer, address = %key.address, %error, "a tunnel ended");
            if error.is_protocol_error() {
                self.0.protocol_errors.set(self.0.protocol_errors.get() + 1);
            }
        }
        let mut places = self.0.places.borrow_mut();
        if let Some(place) = places.get_mut(key) {
            place.tunnels.retain(|other| !Rc::ptr_eq(other, tunnel));
            if place.tunnels.is_empty() && place.dialling.is_none() {
                places.remove(key);
            }
        }
    }

    fn failed(&self, key: &TunnelKey, failure: &DialFailure) {
        if failure.handshake {
            self.0
                .handshake_failures
                .set(self.0.handshake_failures.get() + 1);
        }
        let mut places = self.0.places.borrow_mut();
        let Some(place) = places.get_mut(key) else {
            return;
        };
        for waiting in place.dialling.take().into_iter().flatten() {
            let _gone = waiting.send(Err(failure.clone()));
        }
        if place.tunnels.is_empty() {
            places.remove(key);
        }
    }
}

impl OpenError {
    /// The tunnel's task ended without an answer.
    fn gone() -> Self {
        Self {
            returned: None,
            reason: Reason::Fault,
            detail: "the tunnel's task is gone".to_owned(),
        }
    }
}

impl Waiting {
    fn give_back(mut self, reason: Reason, detail: String) -> OpenError {
        let kept = std::mem::take(&mut self.kept);
        OpenError {
            returned: self.app.take().map(|app| (app, kept)),
            reason,
            detail,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(app) = &self.app {
            socket::reset(app);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if !self.answered {
            self.mailbox.send(Command::Cut {
                stream: self.stream,
                reason: Reason::ClientReset,
            });
        }
    }
}
