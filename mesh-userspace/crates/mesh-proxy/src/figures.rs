//! What the worker counts. Threads add; once a second the link tells the agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::link::Figures;
use crate::tunnel::TunnelFigures;

/// The counts of the whole worker.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) open_outbound: AtomicU64,
    pub(crate) open_inbound: AtomicU64,
    pub(crate) accept_failures: AtomicU64,
    /// Shared with the sinks of records.
    pub(crate) records_lost: Arc<AtomicU64>,
    /// Shared with the reservoirs.
    pub(crate) reservoir_waits: Arc<AtomicU64>,
}

/// The tunnels of one thread, published by it once a second.
#[derive(Debug, Default)]
pub(crate) struct ThreadTunnels {
    outbound: AtomicU64,
    inbound: AtomicU64,
    handshakes: AtomicU64,
    handshake_failures: AtomicU64,
}

impl ThreadTunnels {
    /// Replaces the figures with the thread's newest ones.
    pub(crate) fn publish(&self, outbound: TunnelFigures, inbound: TunnelFigures) {
        let set = |place: &AtomicU64, value| place.store(value, Ordering::Relaxed);
        set(&self.outbound, outbound.tunnels);
        set(&self.inbound, inbound.tunnels);
        set(&self.handshakes, outbound.handshakes + inbound.handshakes);
        set(
            &self.handshake_failures,
            outbound.handshake_failures + inbound.handshake_failures,
        );
    }
}

impl Counters {
    /// The figures now.
    pub(crate) fn read(&self, threads: &[Arc<ThreadTunnels>]) -> Figures {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let sum = |of: fn(&ThreadTunnels) -> &AtomicU64| {
            threads.iter().map(|thread| value(of(thread))).sum()
        };
        Figures {
            open_outbound: value(&self.open_outbound),
            open_inbound: value(&self.open_inbound),
            tunnels_outbound: sum(|thread| &thread.outbound),
            tunnels_inbound: sum(|thread| &thread.inbound),
            handshakes: sum(|thread| &thread.handshakes),
            handshake_failures: sum(|thread| &thread.handshake_failures),
            accept_failures: value(&self.accept_failures),
            records_lost: value(&self.records_lost),
            reservoir_waits: value(&self.reservoir_waits),
        }
    }
}
