//! A mesh on one stage: a world, an authority, workers, and applications that dial and answer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_common::origin::Origin;
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::outcome::Reason;
use mesh_core::policy::{Action, AuthorizationPolicy, MtlsMode, Rule, Source, Target};
use mesh_core::record::{Direction, Record};
use mesh_core::service::{Endpoint as ServiceEndpoint, Service, ServicePort};
use mesh_core::snapshot::World;
use mesh_core::workload::{Name, Workload, WorkloadId};
use mesh_identity::authority::Authority;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::link::{
    self, AgentEnd, Endpoint, Figures, Identities, Listener, ListenerKind, LocalWorkload, Purpose,
    ToAgent, ToWorker,
};
use crate::origin::OriginOf;

pub(super) const TUNNEL_PORT: u16 = 15008;
pub(super) const APP_PORT: u16 = 8080;
pub(super) const SOON: Duration = Duration::from_secs(5);

/// What the kernel would say of dials, by the dialler's address.
#[derive(Clone, Default)]
pub(super) struct Origins(Arc<Mutex<HashMap<SocketAddr, (WorkloadId, SocketAddr)>>>);

impl OriginOf for Origins {
    fn origin_of(&self, socket: BorrowedFd<'_>) -> io::Result<Origin> {
        let client = socket2::SockRef::from(&socket).peer_addr()?.as_socket();
        let origins = self.0.lock().unwrap();
        let (workload, destination) = client
            .and_then(|client| origins.get(&client))
            .ok_or(io::ErrorKind::NotFound)?;
        let (family, address) = match destination.ip() {
            IpAddr::V4(v4) => (2, mesh_common::address::v4_mapped(v4.octets())),
            IpAddr::V6(v6) => (10, v6.octets()),
        };
        Ok(Origin {
            version: mesh_common::LAYOUT_VERSION,
            family,
            port: destination.port().to_be(),
            listener_port: 0,
            address,
            workload: workload.0,
            pid: 42,
            uid: 1000,
            padding: 0,
            cgroup: 0,
            netns: 0,
            dialled_at: 0,
        })
    }
}

/// The facts of the stage: `client` on node a; `web-v1` and `web-v2` behind the service `web` on node b.
pub(super) struct Scene {
    pub(super) authority: Authority,
    pub(super) world: World,
    _directory: tempfile::TempDir,
}

pub(super) fn identity(name: &str) -> SpiffeId {
    format!("spiffe://demo.warren/ns/shop/sa/{name}")
        .parse()
        .unwrap()
}

pub(super) fn address(name: &str) -> IpAddr {
    let last = match name {
        "client" => 1,
        "web-v1" => 2,
        "web-v2" => 3,
        other => panic!("{other}"),
    };
    IpAddr::from([10, 77, 0, last])
}

pub(super) fn service_address() -> SocketAddr {
    "10.77.9.9:80".parse().unwrap()
}

impl Scene {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("demo.warren").unwrap();
        let authority = Authority::open_or_create(directory.path(), &domain).unwrap();
        let workloads: Vec<Arc<Workload>> = [("client", "a"), ("web-v1", "b"), ("web-v2", "b")]
            .into_iter()
            .map(|(name, node)| {
                Arc::new(Workload {
                    name: Name::new("shop", name),
                    identity: identity(name),
                    node: node.to_owned(),
                    addresses: vec![address(name)],
                    labels: [("app".to_owned(), name.to_owned())].into(),
                    ports: Vec::new(),
                })
            })
            .collect();
        let endpoints = workloads[1..]
            .iter()
            .map(|workload| {
                Arc::new(ServiceEndpoint {
                    address: workload.addresses[0],
                    port: None,
                    weight: 1,
                    labels: workload.labels.clone(),
                    workload: Some(Arc::clone(workload)),
                })
            })
            .collect();
        let web = Service {
            name: Name::new("shop", "web"),
            addresses: vec![service_address().ip()],
            ports: vec![ServicePort {
                port: 80,
                target_port: APP_PORT,
            }],
            endpoints,
            subsets: Default::default(),
        };
        let world = World {
            generation: 1,
            trust_domain: domain,
            workloads,
            services: vec![Arc::new(web)],
            ..World::default()
        };
        Self {
            authority,
            world,
            _directory: directory,
        }
    }

    /// The world after a change.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut World)) {
        change(&mut self.world);
        self.world.generation += 1;
    }

    /// A policy for the workload `target` that denies the service account `denied` and allows the others.
    pub(super) fn deny(&mut self, target: &str, denied: &str) {
        let rule = |name: &str, action, from| Rule {
            name: name.to_owned(),
            action,
            from,
            ports: Vec::new(),
        };
        let policy = AuthorizationPolicy {
            name: Name::new("shop", "guard"),
            target: Target::Workload(target.to_owned()),
            dry_run: false,
            rules: vec![
                rule(
                    "not-them",
                    Action::Deny,
                    vec![Source::Identity(identity(denied))],
                ),
                rule("rest", Action::Allow, Vec::new()),
            ],
        };
        self.change(|world| world.policies = vec![Arc::new(policy)]);
    }

    pub(super) fn permissive(&mut self) {
        self.change(|world| world.default_mtls = MtlsMode::Permissive);
    }

    pub(super) fn identities(&self, names: &[&str], generation: u64) -> Identities {
        let certificates = names
            .iter()
            .map(|name| {
                let lifetime = Duration::from_secs(3600);
                let certificate = self.authority.issue(&identity(name), lifetime).unwrap();
                certificate.to_handover().to_vec()
            })
            .collect();
        Identities {
            trust_domain: self.authority.trust_domain().clone(),
            certificates,
            roots: self.authority.bundle().to_der(),
            generation,
        }
    }
}

/// The agent of one worker, played by the test.
pub(super) struct Agent {
    pub(super) end: Rc<AgentEnd>,
    heard: Rc<RefCell<Heard>>,
    listening: JoinHandle<()>,
}

#[derive(Default)]
struct Heard {
    records: Vec<Record>,
    figures: Figures,
    messages: Vec<ToAgent>,
}

impl Agent {
    /// Takes the agent's end of a link, and gives the worker whatever sockets it wants.
    pub(super) fn new(end: OwnedFd) -> Self {
        let end: Rc<AgentEnd> = Rc::new(Endpoint::new(end).unwrap());
        let heard = Rc::new(RefCell::new(Heard::default()));
        let listening = tokio::task::spawn_local(listen(Rc::clone(&end), Rc::clone(&heard)));
        Self {
            end,
            heard,
            listening,
        }
    }

    pub(super) async fn hello(&self) {
        let hello = ToWorker::Hello {
            version: link::VERSION,
            node: "test".to_owned(),
            generation: 1,
            threads: 2,
            tunnel_port: TUNNEL_PORT,
        };
        self.end.send(&hello, &[]).await.unwrap();
        self.expect(|message| matches!(message, ToAgent::Ready { .. }))
            .await;
    }

    /// Sends the world and the identities of the named workloads, and waits until they decide.
    pub(super) async fn tell(&self, scene: &Scene, names: &[&str]) {
        let identities = scene.identities(names, scene.world.generation);
        self.end.send_identities(&identities).await.unwrap();
        self.tell_world(scene).await;
    }

    pub(super) async fn tell_world(&self, scene: &Scene) {
        self.end.send_world(&scene.world).await.unwrap();
        let generation = scene.world.generation;
        self.expect(|message| *message == ToAgent::Applied { generation })
            .await;
    }

    /// Enrols a workload, and gives the address of its outbound and plaintext listeners.
    pub(super) async fn enrol(&self, name: &str) -> Listening {
        let host = address(name);
        let listener = |port| std::net::TcpListener::bind((host, port)).unwrap();
        let (outbound, tunnel, plaintext) = (listener(0), listener(TUNNEL_PORT), listener(0));
        let listening = Listening {
            outbound: outbound.local_addr().unwrap(),
            plaintext: plaintext.local_addr().unwrap(),
        };
        let id = id(name);
        let message = ToWorker::Enrol {
            workload: LocalWorkload {
                id,
                name: Name::new("shop", name),
                identity: identity(name),
                addresses: vec![host],
                host: false,
            },
            listeners: [
                ListenerKind::Outbound,
                ListenerKind::Tunnel,
                ListenerKind::Plaintext,
            ]
            .map(|kind| Listener { kind, ipv6: false })
            .to_vec(),
        };
        let descriptors = [outbound.as_fd(), tunnel.as_fd(), plaintext.as_fd()];
        self.end.send(&message, &descriptors).await.unwrap();
        self.expect(|message| *message == ToAgent::Enrolled { workload: id })
            .await;
        listening
    }

    /// Waits for a message.
    pub(super) async fn expect(&self, wanted: impl Fn(&ToAgent) -> bool) {
        let found = async {
            while !self.heard.borrow().messages.iter().any(&wanted) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, found)
            .await
            .unwrap_or_else(|_| panic!("not heard; but {:?}", self.heard.borrow().messages));
    }

    /// Waits for the closing record of a connection that fits.
    pub(super) async fn record(&self, wanted: impl Fn(&Record) -> bool) -> Record {
        let found = async {
            loop {
                let found = self
                    .heard
                    .borrow()
                    .records
                    .iter()
                    .find(|r| wanted(r))
                    .cloned();
                if let Some(record) = found {
                    return record;
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, found)
            .await
            .unwrap_or_else(|_| panic!("no such record; but {:#?}", self.heard.borrow().records))
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.heard.borrow().records.clone()
    }

    pub(super) fn figures(&self) -> Figures {
        self.heard.borrow().figures.clone()
    }

    /// The agent dies: its end of the link closes.
    pub(super) async fn die(self) {
        self.listening.abort();
        drop(self.listening.await);
        drop(self.end);
    }
}

async fn listen(end: Rc<AgentEnd>, heard: Rc<RefCell<Heard>>) {
    while let Ok(Some(received)) = end.recv().await {
        match received.message {
            ToAgent::NeedSockets {
                workload,
                kind,
                count,
            } => {
                let sockets: Vec<OwnedFd> = (0..count).map(|_| socket(workload, kind)).collect();
                drop(end.send_sockets(workload, kind, &sockets).await);
            }
            ToAgent::Records(records) => {
                let closed = records.into_iter().filter(|r| r.reason != Reason::Open);
                heard.borrow_mut().records.extend(closed);
            }
            ToAgent::Figures(figures) => heard.borrow_mut().figures = figures,
            other => heard.borrow_mut().messages.push(other),
        }
    }
}

fn id(name: &str) -> WorkloadId {
    let IpAddr::V4(v4) = address(name) else {
        unreachable!()
    };
    WorkloadId(u32::from(v4.octets()[3]))
}

fn socket(workload: WorkloadId, kind: link::SocketKind) -> OwnedFd {
    let domain = if kind.ipv6 {
        Domain::IPV6
    } else {
        Domain::IPV4
    };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    socket.set_nonblocking(true).unwrap();
    // In a namespace of its own a workload has one address. Here it has to be chosen.
    if kind.purpose == Purpose::Dial && !kind.ipv6 {
        let own = IpAddr::from([10, 77, 0, workload.0 as u8]);
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::IpBindAddressNoPort,
            &true,
        )
        .unwrap();
        socket.bind(&SocketAddr::new(own, 0).into()).unwrap();
    }
    socket.into()
}

/// Where a workload's listeners are.
#[derive(Clone, Copy)]
pub(super) struct Listening {
    pub(super) outbound: SocketAddr,
    pub(super) plaintext: SocketAddr,
}

/// A worker in a thread of this process, unconfined, with made-up origins.
pub(super) fn worker_in_thread(origins: &Origins) -> Agent {
    let (agent, worker) = link::pair().unwrap();
    let origins = Box::new(origins.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(crate::worker::serve(worker, origins, || Ok(())))
            .unwrap();
    });
    Agent::new(agent)
}

/// Dials as an application of `client` would: to `destination`, as far as it knows.
pub(super) async fn dial(
    origins: &Origins,
    listening: Listening,
    destination: SocketAddr,
) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(address("client"), 0)).unwrap();
    let own = socket.local_addr().unwrap();
    origins
        .0
        .lock()
        .unwrap()
        .insert(own, (id("client"), destination));
    // A refusal may come before connect() has looked: the caller finds it at its first read then.
    let address = socket2::SockAddr::from(listening.outbound);
    let socket = socket2::SockRef::from(&socket).try_clone().unwrap();
    match socket.connect(&address) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => panic!("{error}"),
    }
    TcpStream::from_std(socket.into()).unwrap()
}

/// An application that says its name to everybody, then echoes; it writes down from where it was called.
pub(super) struct App {
    pub(super) callers: Rc<RefCell<Vec<SocketAddr>>>,
    accepting: JoinHandle<()>,
}

impl App {
    pub(super) async fn start(name: &'static str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket
            .bind(SocketAddr::new(address(name), APP_PORT))
            .unwrap();
        let listener: TcpListener = socket.listen(128).unwrap();
        let callers = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&callers);
        let accepting = tokio::task::spawn_local(async move {
            while let Ok((mut connection, caller)) = listener.accept().await {
                seen.borrow_mut().push(caller);
                tokio::task::spawn_local(async move {
                    let greeting = format!("{name}\n");
                    if connection.write_all(greeting.as_bytes()).await.is_err() {
                        return;
                    }
                    let (mut read, mut write) = connection.split();
                    drop(tokio::io::copy(&mut read, &mut write).await);
                    drop(write.shutdown().await);
                });
            }
        });
        Self { callers, accepting }
    }

    pub(super) async fn stop(self) {
        self.accepting.abort();
        drop(self.accepting.await);
    }
}

/// Reads the greeting of an [`App`].
pub(super) async fn greeting(connection: &mut TcpStream) -> io::Result<String> {
    let mut text = Vec::new();
    loop {
        let mut byte = [0];
        timeout(SOON, connection.read_exact(&mut byte))
            .await
            .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
        if byte == *b"\n" {
            return Ok(String::from_utf8(text).unwrap());
        }
        text.push(byte[0]);
    }
}

/// Says something, hears it back, and ends both ways.
pub(super) async fn converse(mut connection: TcpStream) {
    connection.write_all(b"hello").await.unwrap();
    connection.shutdown().await.unwrap();
    let mut echo = Vec::new();
    timeout(SOON, connection.read_to_end(&mut echo))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(echo, b"hello");
}

/// Dials, and is reset: before `connect` has returned or afterwards, as it happens.
pub(super) async fn expect_refusal(address: SocketAddr) {
    match TcpStream::connect(address).await {
        Ok(mut connection) => expect_reset(&mut connection).await,
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Waits until a connection is reset; anything else is a failure.
pub(super) async fn expect_reset(connection: &mut TcpStream) {
    let mut rest = Vec::new();
    let end = timeout(SOON, connection.read_to_end(&mut rest))
        .await
        .unwrap();
    let error = end.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

pub(super) fn outbound(record: &Record) -> bool {
    record.direction == Direction::Outbound
}

pub(super) fn inbound(record: &Record) -> bool {
    record.direction == Direction::Inbound
}

/// Runs a test on a runtime of its own.
pub(super) fn stage(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(60), test).await.unwrap();
    });
}
