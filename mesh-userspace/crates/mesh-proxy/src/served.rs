//! A workload of this node, as it is being served: its sockets, its limits, its end. Shared by all threads.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::UnboundedSender;

use crate::drain::Leaving;
use crate::figures::Counters;
use crate::link::{LocalWorkload, Purpose, SocketKind, ToAgent};
use crate::reservoir::Reservoir;

/// Most application connections of one workload at a time, outbound and inbound together: one workload must not use up
/// the worker's descriptors.
pub(crate) const MAX_CONNECTIONS: usize = 10_000;

/// Most tunnels that peers hold open to one workload. Each carries many connections; more is not honest.
pub(crate) const MAX_TUNNELS: usize = 4_096;

/// Most tunnels that peers hold open to all host services of the node together: those that have not said yet whom they
/// mean, or who they are, count as well.
pub(crate) const MAX_HOST_TUNNELS: usize = 4 * MAX_TUNNELS;

/// One workload.
#[derive(Debug)]
pub(crate) struct Served {
    /// What the agent said of it.
    pub(crate) local: LocalWorkload,
    /// Sockets in its network namespace.
    pub(crate) reservoir: Reservoir,
    /// Its end.
    pub(crate) leaving: Leaving,
    /// Where the proxy itself listens in its network namespace.
    listeners: Vec<SocketAddr>,
    connections: AtomicUsize,
    tunnels: AtomicUsize,
}

/// A limit was reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} {1} are open, which is the limit")]
pub(crate) struct Full(usize, &'static str);

impl Served {
    /// Takes over a workload.
    pub(crate) fn new(
        local: LocalWorkload,
        listeners: Vec<SocketAddr>,
        agent: UnboundedSender<ToAgent>,
        counters: &Counters,
    ) -> Arc<Self> {
        let workload = local.id;
        let reservoir = Reservoir::new(
            workload,
            agent.clone(),
            Arc::clone(&counters.reservoir_waits),
        );
        let leaving = Leaving::new(move || {
            // Without an agent there is nobody to tell.
            drop(agent.send(ToAgent::Unenrolled { workload }));
        });
        Arc::new(Self {
            local,
            reservoir,
            leaving,
            listeners,
            connections: AtomicUsize::new(0),
            tunnels: AtomicUsize::new(0),
        })
    }

    /// Asks for the first sockets: one for a tunnel, one for a delivery, in each family that the workload has. The first
    /// connection may come when there is no agent to ask.
    pub(crate) fn prime(&self) {
        for ipv6 in [false, true] {
            if !self.local.addresses.iter().any(|ip| ip.is_ipv6() == ipv6) {
                continue;
            }
            for purpose in [Purpose::Dial, Purpose::Deliver] {
                self.reservoir.prime(SocketKind { purpose, ipv6 });
            }
        }
    }

    /// Whether an address is the workload's.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.local.addresses.contains(&address.to_canonical())
    }

    /// Whether an address is one of the proxy's own listeners. A delivery there would come back here, without end.
    pub(crate) fn is_own_listener(&self, address: SocketAddr) -> bool {
        self.listeners.iter().any(|listener| {
            listener.port() == address.port()
                && (listener.ip().is_unspecified() || listener.ip() == address.ip().to_canonical())
        })
    }

    /// Counts one more application connection.
    pub(crate) fn connection(self: &Arc<Self>) -> Result<Share, Full> {
        self.share(
            Counted::Connection,
            MAX_CONNECTIONS,
            "connections of the workload",
        )
    }

    /// Counts one more tunnel from a peer. Tunnels do not keep a workload from leaving: their streams do.
    pub(crate) fn tunnel(self: &Arc<Self>) -> Result<Share, Full> {
        self.share(Counted::Tunnel, MAX_TUNNELS, "tunnels to the workload")
    }

    /// A share for something that must end before the workload has left, and that no limit counts.
    pub(crate) fn member(self: &Arc<Self>) -> Share {
        self.leaving.enter();
        Share {
            served: Arc::clone(self),
            counted: Counted::Member,
        }
    }

    fn share(
        self: &Arc<Self>,
        counted: Counted,
        most: usize,
        what: &'static str,
    ) -> Result<Share, Full> {
        let place = match counted {
            Counted::Connection => &self.connections,
            Counted::Tunnel | Counted::Member => &self.tunnels,
        };
        if place.fetch_add(1, Ordering::AcqRel) >= most {
            place.fetch_sub(1, Ordering::AcqRel);
            return Err(Full(most, what));
        }
        if counted == Counted::Connection {
            self.leaving.enter();
        }
        Ok(Share {
            served: Arc::clone(self),
            counted,
        })
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Counted {
    Connection,
    Tunnel,
    Member,
}

/// A share of a workload, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    served: Arc<Served>,
    counted: Counted,
}

impl Share {
    /// Whose.
    pub(crate) fn served(&self) -> &Arc<Served> {
        &self.served
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        match self.counted {
            Counted::Connection => {
                self.served.connections.fetch_sub(1, Ordering::AcqRel);
                self.served.leaving.exit();
            }
            Counted::Tunnel => {
                self.served.tunnels.fetch_sub(1, Ordering::AcqRel);
            }
            Counted::Member => self.served.leaving.exit(),
        }
    }
}

/// The tunnels to host services, counted.
#[derive(Debug, Default)]
pub(crate) struct HostTunnels(AtomicUsize);

impl HostTunnels {
    /// Counts one more.
    pub(crate) fn tunnel(self: &Arc<Self>) -> Result<HostShare, Full> {
        if self.0.fetch_add(1, Ordering::AcqRel) >= MAX_HOST_TUNNELS {
            self.0.fetch_sub(1, Ordering::AcqRel);
            return Err(Full(MAX_HOST_TUNNELS, "tunnels to host services"));
        }
        Ok(HostShare(Arc::clone(self)))
    }
}

/// A share of them, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct HostShare(Arc<HostTunnels>);

impl Drop for HostShare {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}
