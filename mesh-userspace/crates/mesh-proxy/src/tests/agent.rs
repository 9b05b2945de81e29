//! The agent of a worker, played by the test: it speaks the link, and makes sockets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use mesh_core::outcome::Reason;
use mesh_core::record::Record;
use mesh_core::workload::{Name, WorkloadId};
use socket2::{Domain, Socket, Type};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::scene::*;
use crate::link::{
    self, AgentEnd, Endpoint, Figures, Listener, ListenerKind, LocalWorkload, Purpose, SocketKind,
    ToAgent, ToWorker,
};
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
    /// Sockets given by kind.
    given: HashMap<SocketKind, usize>,
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

    /// Enrols a workload with a network namespace of its own, as it were.
    pub(super) async fn enrol(&self, name: &str) -> Listening {
        self.enrol_at(name, address(name), false).await
    }

    /// Enrols a host service. Its tunnels arrive at [`Agent::host`]'s listener.
    pub(super) async fn enrol_host(&self, name: &str, host: IpAddr) -> Listening {
        self.enrol_at(name, host, true).await
    }

    /// Gives the worker the tunnel listener of the host.
    pub(super) async fn host(&self, host: IpAddr) {
        let tunnel = std::net::TcpListener::bind((host, TUNNEL_PORT)).unwrap();
        let listeners = vec![Listener {
            kind: ListenerKind::Tunnel,
            ipv6: false,
        }];
        let message = ToWorker::Host { listeners };
        self.end.send(&message, &[tunnel.as_fd()]).await.unwrap();
    }

    async fn enrol_at(&self, name: &str, at: IpAddr, host: bool) -> Listening {
        let mut listeners = Vec::new();
        let mut listen = |kind, port| {
            let listener = std::net::TcpListener::bind((at, port)).unwrap();
            let address = listener.local_addr().unwrap();
            listeners.push((Listener { kind, ipv6: false }, OwnedFd::from(listener)));
            address
        };
        let listening = Listening {
            outbound: listen(ListenerKind::Outbound, 0),
            plaintext: listen(ListenerKind::Plaintext, 0),
        };
        if !host {
            listen(ListenerKind::Tunnel, TUNNEL_PORT);
        }
        let id = id(name);
        let message = ToWorker::Enrol {
            workload: LocalWorkload {
                id,
                name: Name::new("shop", name),
                identity: identity(name),
                addresses: vec![at],
                host,
            },
            listeners: listeners.iter().map(|(listener, _)| *listener).collect(),
        };
        let descriptors: Vec<BorrowedFd<'_>> = listeners.iter().map(|(_, fd)| fd.as_fd()).collect();
        self.end.send(&message, &descriptors).await.unwrap();
        self.expect(|message| *message == ToAgent::Enrolled { workload: id })
            .await;
        listening
    }

    /// Waits for a message.
    pub(super) async fn expect(&self, wanted: impl Fn(&ToAgent) -> bool) {
        self.find(|heard| heard.messages.iter().any(&wanted).then_some(()))
            .await
            .unwrap_or_else(|| panic!("not heard; but {:?}", self.heard.borrow().messages));
    }

    /// Waits for the closing record of a connection that fits.
    pub(super) async fn record(&self, wanted: impl Fn(&Record) -> bool) -> Record {
        self.find(|heard| heard.records.iter().find(|r| wanted(r)).cloned())
            .await
            .unwrap_or_else(|| panic!("no such record; but {:#?}", self.heard.borrow().records))
    }

    /// Waits until so many sockets of a kind were given to the worker.
    pub(super) async fn gave(&self, kind: SocketKind, count: usize) {
        let given = |heard: &Heard| heard.given.get(&kind).copied().unwrap_or(0);
        self.find(|heard| (given(heard) >= count).then_some(()))
            .await
            .unwrap_or_else(|| {
                panic!(
                    "only {} of {kind:?} were wanted",
                    given(&self.heard.borrow())
                )
            });
    }

    /// Looks again and again until something was heard; none when it is not heard soon.
    async fn find<T>(&self, look: impl Fn(&Heard) -> Option<T>) -> Option<T> {
        let found = async {
            loop {
                if let Some(found) = look(&self.heard.borrow()) {
                    return found;
                }
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, found).await.ok()
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
                *heard.borrow_mut().given.entry(kind).or_default() += usize::from(count);
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
    if kind.purpose == Purpose::Deliver {
        socket.set_reuse_address(true).unwrap();
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
            .block_on(crate::worker::serve(
                worker,
                origins,
                crate::memory::Memory::default(),
                || Ok(()),
            ))
            .unwrap();
    });
    Agent::new(agent)
}
