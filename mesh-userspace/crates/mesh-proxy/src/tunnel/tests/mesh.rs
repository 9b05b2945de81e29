//! Two workloads, a pool on one side, a server on the other, on one thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use mesh_core::addr::{AppAddr, ClientAddr, PeerAddr};
use mesh_core::identity::SpiffeId;
use mesh_core::workload::WorkloadId;
use mesh_identity::authority::Authority;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use crate::tunnel::{
    Accepted, Dialler, Inbound, Limits, OpenError, OpenRequest, Opened, Peer, Pool, Server,
    StreamHandle, TunnelKey,
};
use crate::wire::{Open, Refusal, RefusalCode};

/// Runs a story on a thread like a worker's.
pub(super) fn run<F: Future>(story: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(60), story)
            .await
            .expect("the story takes too long")
    })
}

/// Both sides.
pub(super) struct Mesh {
    pub(super) pool: Pool,
    pub(super) server: Server,
    pub(super) story: Rc<Story>,
    pub(super) dialler: Rc<CountingDialler>,
    pub(super) server_config: Arc<rustls::ServerConfig>,
    pub(super) key: TunnelKey,
    pub(super) client_config: Arc<rustls::ClientConfig>,
    applications: TcpListener,
    authority: Authority,
}

/// A connection through the tunnel: both applications' ends.
pub(super) struct Connection {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
    pub(super) opened: Opened,
    /// The accepting side's handle.
    pub(super) accepted: StreamHandle,
}

/// An inbound story that lets everybody in.
#[derive(Default)]
pub(super) struct Story {
    pub(super) peers: RefCell<Vec<Peer>>,
    pub(super) refuse: Cell<Option<RefusalCode>>,
    pub(super) delay: Cell<Duration>,
    pub(super) dropped: Rc<Cell<usize>>,
}

pub(super) struct CountingDialler {
    pub(super) dials: Cell<usize>,
    pub(super) refuse: Cell<bool>,
}

impl Dialler for CountingDialler {
    fn dial(
        &self,
        _source: WorkloadId,
        address: PeerAddr,
    ) -> LocalBoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(async move {
            self.dials.set(self.dials.get() + 1);
            if self.refuse.get() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            TcpStream::connect(address.0).await
        })
    }
}

/// Notices that the story was dropped before it had an answer.
struct Unfinished(Rc<Cell<usize>>, bool);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.1 {
            self.0.set(self.0.get() + 1);
        }
    }
}

impl Inbound for Story {
    async fn open(&self, peer: &Rc<Peer>, open: Open) -> Result<Accepted, Refusal> {
        let mut unfinished = Unfinished(Rc::clone(&self.dropped), false);
        self.peers.borrow_mut().push((**peer).clone());
        tokio::time::sleep(self.delay.get()).await;
        unfinished.1 = true;
        if let Some(code) = self.refuse.get() {
            return Err(Refusal {
                code,
                detail: "as the test wants".to_owned(),
            });
        }
        let app = TcpStream::connect(open.destination.0)
            .await
            .map_err(|error| Refusal {
                code: RefusalCode::ConnectionRefused,
                detail: error.to_string(),
            })?;
        let (tell, handle) = tokio::sync::oneshot::channel();
        HANDLES.with_borrow_mut(|handles| handles.push(handle));
        Ok(Accepted {
            app,
            on_open: Box::new(move |handle| tell.send(handle).unwrap()),
        })
    }
}

thread_local! {
    static HANDLES: RefCell<Vec<tokio::sync::oneshot::Receiver<StreamHandle>>> = const { RefCell::new(Vec::new()) };
}

pub(super) fn identity(account: &str) -> SpiffeId {
    format!("spiffe://test.warren/ns/shop/sa/{account}")
        .parse()
        .unwrap()
}

impl Mesh {
    pub(super) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(super) async fn with(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (client, server) = (identity("client"), identity("web"));
        let authority = Authority::open_or_create(directory.path(), client.trust_domain()).unwrap();
        let hour = Duration::from_secs(3600);
        let bundle = authority.bundle();
        let client_config = mesh_identity::tls::client_config(
            &authority.issue(&client, hour).unwrap(),
            &bundle,
            std::slice::from_ref(&server),
        )
        .unwrap();
        let server_config =
            mesh_identity::tls::server_config(&[authority.issue(&server, hour).unwrap()], &bundle)
                .unwrap();
        let tunnels = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let key = TunnelKey {
            source: WorkloadId(1),
            own: client,
            peers: [server].into(),
            address: PeerAddr(tunnels.local_addr().unwrap()),
        };
        let story = Rc::new(Story::default());
        let accepting = Server::new(limits);
        let (serving, config, inbound) = (
            accepting.clone(),
            Arc::clone(&server_config),
            Rc::clone(&story),
        );
        tokio::task::spawn_local(async move {
            while let Ok((socket, _)) = tunnels.accept().await {
                let (serving, config, inbound) =
                    (serving.clone(), Arc::clone(&config), Rc::clone(&inbound));
                tokio::task::spawn_local(async move {
                    let _outcome = serving.serve(socket, config, inbound).await;
                });
            }
        });
        let dialler = Rc::new(CountingDialler {
            dials: Cell::new(0),
            refuse: Cell::new(false),
        });
        Self {
            pool: Pool::new(Rc::clone(&dialler) as Rc<dyn Dialler>, limits),
            server: accepting,
            story,
            dialler,
            server_config,
            key,
            client_config,
            applications: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            authority,
        }
    }

    /// From now on somebody else is expected at the other end.
    pub(super) fn expect(&mut self, peer: &SpiffeId) {
        let own = self
            .authority
            .issue(&self.key.own, Duration::from_secs(3600))
            .unwrap();
        self.key.peers = [peer.clone()].into();
        self.client_config = mesh_identity::tls::client_config(
            &own,
            &self.authority.bundle(),
            std::slice::from_ref(peer),
        )
        .unwrap();
    }

    pub(super) fn request(&self, app: TcpStream, destination: SocketAddr) -> OpenRequest {
        OpenRequest {
            key: self.key.clone(),
            config: Arc::clone(&self.client_config),
            server_name: mesh_identity::tls::server_name(&self.key.peers[0]),
            open: Open {
                destination: AppAddr(destination),
                client: ClientAddr(app.peer_addr().unwrap()),
                service: None,
                trace: None,
            },
            app,
            kept: Vec::new(),
        }
    }

    /// Offers an application's connection to the peer.
    pub(super) async fn open(&self, app: TcpStream) -> Result<Opened, OpenError> {
        let request = self.request(app, self.applications.local_addr().unwrap());
        self.pool.open(request).await
    }

    pub(super) fn applications_address(&self) -> SocketAddr {
        self.applications.local_addr().unwrap()
    }

    /// The application at the other end accepts.
    pub(super) async fn accept(&self) -> TcpStream {
        let (socket, _) = self.applications.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        socket
    }

    /// A connection between two applications.
    pub(super) async fn connect(&self) -> Connection {
        let (client, app) = pair().await;
        HANDLES.with_borrow_mut(Vec::clear);
        let (opened, server) = tokio::join!(self.open(app), self.accept());
        let handle = HANDLES.with_borrow_mut(Vec::pop).unwrap();
        Connection {
            client,
            server,
            opened: opened.unwrap(),
            accepted: handle.await.unwrap(),
        }
    }
}

/// The two ends of a loopback connection.
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let (near, (far, _)) = (near.unwrap(), far.unwrap());
    near.set_nodelay(true).unwrap();
    (near, far)
}

/// Waits until something holds.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}
