//! From an accepted socket to a gRPC connection of somebody known.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures_util::future::{BoxFuture, FutureExt};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::distribution::DistributionService;
use super::enrolment::EnrolmentService;
use super::limits::{Gate, Place};
use super::relay::RelayService;
use super::tally::count;
use super::{Identified, Identify, Limits, Peer, Tally};
use crate::gatekeeper::Gatekeeper;
use crate::hub::Hub;
use crate::proto::distribution_server::DistributionServer;
use crate::proto::enrolment_server::EnrolmentServer;
use crate::proto::relay_server::RelayServer;
use crate::{LARGEST_ENROLMENT, LARGEST_FROM_NODE, PING_EVERY, PING_PATIENCE};

/// What a server needs.
pub struct Serving<G> {
    /// Where nodes come.
    pub listener: TcpListener,
    /// The TLS configuration for the next connection. A client certificate is optional in it; one that is shown is verified.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// Who shows a certificate.
    pub identify: Identify,
    /// What is told.
    pub hub: Hub,
    /// Who decides on certificates and pods.
    pub gatekeeper: Arc<G>,
    /// How much callers may cost.
    pub limits: Limits,
    /// Counts what happens.
    pub tally: Arc<Tally>,
}

/// Serves nodes until `shutdown`. Then it accepts nobody, ends what nodes follow, so that they go to another replica, lets
/// calls end and returns.
pub async fn serve<G: Gatekeeper>(serving: Serving<G>, shutdown: impl Future<Output = ()>) {
    let Serving {
        listener,
        tls,
        identify,
        hub,
        gatekeeper,
        limits,
        tally,
    } = serving;
    let (stopping, stopped) = watch::channel(false);
    let shared = Arc::new(Shared {
        services: Services::new(&hub, &gatekeeper, &tally),
        identify,
        limits,
        tally,
        gate: Arc::default(),
        stopped,
    });
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, from)) => {
                let tls = TlsAcceptor::from(tls.borrow().clone());
                let shared = shared.clone();
                connections.spawn(async move { shared.connection(socket, from, tls).await });
            }
            Err(error) => {
                // Out of files, most likely; others have to go first.
                tracing::warn!(%error, "cannot accept a connection of a node");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    hub.end_sessions();
    stopping.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, all).await.is_err() {
        connections.shutdown().await;
    }
}

struct Shared<G> {
    services: Services<G>,
    identify: Identify,
    limits: Limits,
    tally: Arc<Tally>,
    gate: Arc<Gate>,
    stopped: watch::Receiver<bool>,
}

impl<G: Gatekeeper> Shared<G> {
    /// The story of one connection.
    async fn connection(&self, socket: TcpStream, from: SocketAddr, tls: TlsAcceptor) {
        count(&self.tally.connections);
        let Some(entered) = self.gate.enter(from.ip().to_canonical(), &self.limits) else {
            count(&self.tally.turned_away);
            return;
        };
        let Some((stream, caller)) = self.handshake(socket, from, tls).await else {
            count(&self.tally.handshakes_failed);
            return;
        };
        let Some((place, rest)) = self.admit(&caller, entered) else {
            tracing::warn!(peer = ?caller.peer, %from, "too many connections of one peer");
            count(&self.tally.turned_away);
            return;
        };
        self.serve(stream, caller.peer, rest).await;
        drop(place);
    }

    async fn handshake(
        &self,
        socket: TcpStream,
        from: SocketAddr,
        tls: TlsAcceptor,
    ) -> Option<(TlsStream<TcpStream>, Caller)> {
        // Deltas are written whole; waiting for more would only delay them.
        socket.set_nodelay(true).ok()?;
        let stream = match tokio::time::timeout(self.limits.handshake, tls.accept(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%from, %error, "a handshake failed");
                return None;
            }
            Err(_late) => {
                tracing::debug!(%from, "a handshake took too long");
                return None;
            }
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        if chain.is_empty() {
            let caller = Caller {
                peer: Peer::Anonymous,
                until: None,
            };
            return Some((stream, caller));
        }
        match (self.identify)(chain) {
            Ok(Identified { peer, until }) => {
                let until = Some(until);
                Some((stream, Caller { peer, until }))
            }
            Err(why) => {
                tracing::warn!(%from, why, "a certificate of nobody who may call");
                None
            }
        }
    }

    /// Exchanges the place of somebody unknown for one of somebody known, and tells how long it may be kept.
    fn admit(&self, caller: &Caller, entered: Place) -> Option<(Place, Duration)> {
        let Some(until) = caller.until else {
            return Some((entered, self.limits.anonymous));
        };
        let place = self.gate.welcome(&caller.peer, &self.limits)?;
        let rest = until.duration_since(SystemTime::now()).unwrap_or_default();
        Some((place, rest))
    }

    async fn serve(&self, stream: TlsStream<TcpStream>, peer: Peer, rest: Duration) {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_PATIENCE)
            .max_concurrent_streams(streams(&peer))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * streams(&peer))
            .max_header_list_size(16 << 10)
            .max_send_buf_size(64 << 10);
        let service = Admitted {
            services: self.services.clone(),
            tally: self.tally.clone(),
            peer,
        };
        let service = TowerToHyperService::new(service);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let mut stopped = self.stopped.clone();
        let mut told = false;
        let mut over = pin!(tokio::time::sleep(rest));
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection broke");
                    }
                    return;
                }
                // Also when the sender is gone: the server is.
                _stopping = stopped.wait_for(|stopped| *stopped), if !told => {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut over => return,
            }
        }
    }
}

/// What a peer may send on one stream before it is read. All streams together can fill the connection's window, so that an
/// answer that nobody reads does not keep others waiting.
const STREAM_WINDOW: u32 = 64 << 10;

fn streams(peer: &Peer) -> u32 {
    match peer {
        Peer::Anonymous => 2,
        // Questions, and a few calls beside them.
        Peer::Node(_) | Peer::Controller => 64,
    }
}

struct Caller {
    peer: Peer,
    until: Option<SystemTime>,
}

struct Services<G> {
    enrolment: EnrolmentServer<EnrolmentService<G>>,
    distribution: DistributionServer<DistributionService<G>>,
    relay: RelayServer<RelayService>,
}

impl<G: Gatekeeper> Services<G> {
    fn new(hub: &Hub, gatekeeper: &Arc<G>, tally: &Arc<Tally>) -> Self {
        let enrolment = EnrolmentService::new(gatekeeper.clone(), tally.clone());
        let distribution = DistributionService::new(hub.clone(), gatekeeper.clone(), tally.clone());
        Self {
            enrolment: EnrolmentServer::new(enrolment).max_decoding_message_size(LARGEST_ENROLMENT),
            distribution: DistributionServer::new(distribution)
                .max_decoding_message_size(LARGEST_FROM_NODE)
                .max_encoding_message_size(crate::LARGEST_TO_NODE),
            relay: RelayServer::new(RelayService::new(hub.clone()))
                .max_decoding_message_size(LARGEST_FROM_NODE),
        }
    }
}

/// Services hold nothing but what is shared.
impl<G> Clone for Services<G> {
    fn clone(&self) -> Self {
        Self {
            enrolment: self.enrolment.clone(),
            distribution: self.distribution.clone(),
            relay: self.relay.clone(),
        }
    }
}

/// The services as one peer may use them.
struct Admitted<G> {
    services: Services<G>,
    tally: Arc<Tally>,
    peer: Peer,
}

impl<G> Clone for Admitted<G> {
    fn clone(&self) -> Self {
        Self {
            services: self.services.clone(),
            tally: self.tally.clone(),
            peer: self.peer.clone(),
        }
    }
}

impl<G: Gatekeeper> Service<http::Request<Incoming>> for Admitted<G> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// Decides before a byte of the request's body is read.
    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        let path = request.uri().path();
        let service = path.get(1..).and_then(|path| path.split_once('/'));
        let service = service.map_or("", |(service, _)| service);
        let (enrolment, distribution, relay) = (
            "warren.distribution.v1alpha1.Enrolment",
            "warren.distribution.v1alpha1.Distribution",
            "warren.distribution.v1alpha1.Relay",
        );
        match &self.peer {
            _ if service == enrolment => self.services.enrolment.call(request),
            Peer::Node(node) if service == distribution => {
                request.extensions_mut().insert(Node(node.as_str().into()));
                self.services.distribution.call(request)
            }
            Peer::Controller if service == relay => self.services.relay.call(request),
            peer => {
                count(&self.tally.calls_refused);
                let status = refused(peer, service);
                async { Ok(status.into_http()) }.boxed()
            }
        }
    }
}

fn refused(peer: &Peer, service: &str) -> Status {
    match peer {
        Peer::Anonymous => Status::unauthenticated(format!(
            "{service} needs the certificate of a node; without one, only enrolment is possible"
        )),
        Peer::Node(node) => Status::permission_denied(format!("{service} is not for node {node}")),
        Peer::Controller => {
            Status::permission_denied(format!("{service} is not for replicas of the controller"))
        }
    }
}

/// The node that calls, as its certificate says.
#[derive(Clone, Debug)]
pub(super) struct Node(pub(super) Arc<str>);
