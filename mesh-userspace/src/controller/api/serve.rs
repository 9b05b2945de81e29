//! The server side of the cluster's API: HTTP/1.1 over TLS, for the Kubernetes API server alone. Who is let in is decided in
//! the handshake (`mesh_identity::tls::api_server`), by rules that may change while it runs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// For a handshake: whoever connects and says nothing holds a connection no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// For the beginning of a request, on a connection that is open.
const HEADERS: Duration = Duration::from_secs(30);

/// Connections at the same time: an API server holds one for each question that goes on.
const CONNECTIONS: usize = 1_024;

/// After a failed accept (no file descriptors are left, mostly).
const BREATH: Duration = Duration::from_millis(100);

/// Serves until `stopping` says so; then questions that go on are ended, as those who ask know from any API server that
/// restarts.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection of the API server could not be accepted");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(config) = tls.borrow().clone() else {
            // Without a certificate, or without knowing whom to believe, nobody can be answered.
            continue;
        };
        let (router, mut stopping) = (router.clone(), stopping.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = connection(stream, config, router) => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
            drop(place);
        });
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, config: Arc<ServerConfig>, router: Router) {
    let peer = stream.peer_addr().ok();
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(?peer, %error, "somebody who is not the API server was turned away");
            return;
        }
        Err(_late) => return,
    };
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        tracing::debug!(?peer, %error, "a connection of the API server broke");
    }
}
