//! What a story needs beside its connection: what the whole worker shares, and what one thread owns.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use mesh_core::addr::PeerAddr;
use mesh_core::balance::{Balancer, Now};
use mesh_core::identity::SpiffeId;
use mesh_core::record::Direction;
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Name, WorkloadId};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::configs::{Configs, IdentitySet};
use crate::deliver::{DialError, dial};
use crate::drain::Drain;
use crate::figures::{Counters, ThreadTunnels};
use crate::link::ToAgent;
use crate::memory::Memory;
use crate::origin::OriginOf;
use crate::record::{Connections, Recorder, Sink};
use crate::served::{HostTunnels, Served};
use crate::tunnel;

/// How long a dial may take, tries at other endpoints included.
pub(crate) const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long one dial of a tunnel may take: long enough for a lost SYN to be repeated, short enough that another endpoint
/// can be tried within [`CONNECT_TIME`].
const TUNNEL_TIME: Duration = Duration::from_secs(3);

/// What all threads share. Readers never wait: everything that changes is one pointer, replaced whole.
pub(crate) struct Shared {
    /// What the agent said in its first message.
    pub(crate) settings: Settings,
    /// The world.
    pub(crate) world: ArcSwap<Snapshot>,
    /// Certificates and roots.
    pub(crate) identities: ArcSwap<IdentitySet>,
    /// The workloads of this node.
    pub(crate) served: ArcSwap<ServedWorkloads>,
    /// Tunnels to those of them that are host services.
    pub(crate) host_tunnels: Arc<HostTunnels>,
    /// Where records go.
    pub(crate) sink: Sink,
    /// What is counted.
    pub(crate) counters: Counters,
    /// What is said to the agent, beside records.
    pub(crate) agent: UnboundedSender<ToAgent>,
    /// Where a connection was dialled to.
    pub(crate) kernel: Box<dyn OriginOf>,
    /// How memory is given back.
    pub(crate) memory: Memory,
    /// Whether the worker stops.
    pub(crate) drain: Drain,
    /// When the worker began: the balancer's time counts from here.
    pub(crate) started: Instant,
}

/// The settings of a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// High bits of record ids.
    pub(crate) generation: u32,
    /// Port of peers' tunnel listeners.
    pub(crate) tunnel_port: u16,
}

/// The workloads of this node, by number and by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServedWorkloads {
    pub(crate) by_id: HashMap<WorkloadId, Arc<Served>>,
    pub(crate) by_name: HashMap<Name, Arc<Served>>,
}

impl ServedWorkloads {
    /// The identities of host services, which share tunnel listeners.
    pub(crate) fn host_identities(&self) -> Arc<[SpiffeId]> {
        crate::configs::sorted(
            self.by_id
                .values()
                .filter(|served| served.local.host && !served.leaving.has_begun())
                .map(|served| served.local.identity.clone()),
        )
    }
}

/// What one thread owns, and its stories use. Never crosses a thread.
pub(crate) struct Context {
    /// What all threads share.
    pub(crate) shared: Arc<Shared>,
    /// This thread's figures, for others to read.
    pub(crate) figures: Arc<ThreadTunnels>,
    /// The connections that live here.
    pub(crate) connections: Rc<Connections>,
    /// The tunnels that this thread dialled.
    pub(crate) pool: tunnel::Pool,
    /// Accepts tunnels.
    pub(crate) server: tunnel::Server,
    /// The state of choices.
    pub(crate) balancer: RefCell<Balancer>,
    /// TLS configurations.
    pub(crate) configs: Configs,
    /// The identities for which tunnels were last looked through.
    pub(crate) tunnels_made_with: RefCell<Arc<IdentitySet>>,
}

impl Context {
    /// The context of a thread. To be made on it, within its runtime.
    pub(crate) fn new(shared: Arc<Shared>, figures: Arc<ThreadTunnels>) -> Rc<Self> {
        let limits = tunnel::Limits {
            // A dialling story gives up after CONNECT_TIME; an answer that comes later is of no use to it.
            handshake: CONNECT_TIME,
            open: CONNECT_TIME + Duration::from_secs(1),
            ..tunnel::Limits::default()
        };
        let dialler = Rc::new(TunnelDialler(Arc::clone(&shared)));
        Rc::new(Self {
            shared,
            figures,
            connections: Rc::default(),
            pool: tunnel::Pool::new(dialler, limits),
            server: tunnel::Server::new(limits),
            balancer: RefCell::default(),
            configs: Configs::default(),
            tunnels_made_with: RefCell::default(),
        })
    }

    /// The world as it is now. A story loads it once.
    pub(crate) fn world(&self) -> Arc<Snapshot> {
        self.shared.world.load_full()
    }

    /// The identities as they are now.
    pub(crate) fn identities(&self) -> Arc<IdentitySet> {
        self.shared.identities.load_full()
    }

    /// The balancer's time.
    pub(crate) fn now(&self) -> Now {
        self.shared.started.elapsed()
    }

    /// Opens the record of a connection.
    pub(crate) fn record(&self, direction: Direction, world: &Snapshot) -> Recorder {
        let generation = world.world.generation;
        Recorder::open(&self.connections, &self.shared.sink, direction, generation)
    }

    /// Counts a connection as open for as long as the result lives.
    pub(crate) fn open(&self, direction: Direction) -> Open {
        let open = Open {
            shared: Arc::clone(&self.shared),
            direction,
        };
        open.gauge().fetch_add(1, Ordering::Relaxed);
        open
    }
}

/// One open connection, counted.
pub(crate) struct Open {
    shared: Arc<Shared>,
    direction: Direction,
}

impl Open {
    fn gauge(&self) -> &AtomicU64 {
        match self.direction {
            Direction::Outbound => &self.shared.counters.open_outbound,
            Direction::Inbound => &self.shared.counters.open_inbound,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Dials tunnels from the source workload's own network namespace.
struct TunnelDialler(Arc<Shared>);

impl tunnel::Dialler for TunnelDialler {
    fn dial(
        &self,
        source: WorkloadId,
        address: PeerAddr,
    ) -> LocalBoxFuture<'_, io::Result<TcpStream>> {
        async move {
            let served = self.0.served.load().by_id.get(&source).cloned();
            let served = served.ok_or_else(|| io::Error::other("the workload has left"))?;
            dial(&served, address.0, Instant::now() + TUNNEL_TIME)
                .await
                .map_err(|error| match error {
                    // The caller says whom; the kind tells whether another endpoint may help.
                    DialError::Connect { source, .. } => source,
                    DialError::Timeout(_) => io::ErrorKind::TimedOut.into(),
                    DialError::Exhausted(_) | DialError::OwnListener(_) => io::Error::other(error),
                })
        }
        .boxed_local()
    }
}
