//! Sockets that the agent made in a workload's network namespace, kept ready so that a dial does not wait for the agent.
//!
//! One reservoir per workload, one shelf per kind of socket. A shelf holds what the recent demand uses up in [`COVER`], and
//! asks for more when a quarter of that is gone; a workload that is idle holds two. It must not know what the sockets are
//! used for.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh_core::workload::WorkloadId;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout_at};

use crate::link::{MAX_DESCRIPTORS, Purpose, SocketKind, ToAgent};

/// How much demand the stock covers. A round trip to the agent takes a millisecond or two; but an agent may die, and the
/// next one takes a few seconds until its own worker serves.
const COVER: Duration = Duration::from_secs(6);

/// What an idle shelf holds.
const IDLE: usize = 2;

/// Most sockets of one shelf. Each costs the kernel some 3 KiB.
const MOST: usize = 1_024;

/// An answer that takes longer was lost (the agent may have restarted, or have no descriptors): ask again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The reservoir of one workload.
#[derive(Debug)]
pub(crate) struct Reservoir {
    workload: WorkloadId,
    shelves: [Shelf; 4],
    agent: UnboundedSender<ToAgent>,
    /// Dials that had to wait, of the whole worker.
    waits: Arc<AtomicU64>,
}

/// No socket came in time: the agent is gone, slow, or out of descriptors.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error(
    "no socket of the workload's network namespace is left, and the agent did not give one in time"
)]
pub(crate) struct Exhausted;

#[derive(Debug, Default)]
struct Shelf {
    stock: Mutex<Stock>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Stock {
    sockets: VecDeque<OwnedFd>,
    /// Dials that wait now.
    waiting: usize,
    /// Asked for, and not yet arrived.
    asked: usize,
    asked_at: Option<Instant>,
    /// Taken since the last tick.
    taken: usize,
    /// Taken per second: rises at once, falls by a tenth a second.
    rate: f64,
    /// Whether it was ever used: a workload without IPv6 needs no IPv6 sockets.
    used: bool,
}

impl Reservoir {
    pub(crate) fn new(
        workload: WorkloadId,
        agent: UnboundedSender<ToAgent>,
        waits: Arc<AtomicU64>,
    ) -> Self {
        Self {
            workload,
            shelves: Default::default(),
            agent,
            waits,
        }
    }

    /// Asks for the first sockets of a kind, before anybody needs one.
    pub(crate) fn prime(&self, kind: SocketKind) {
        let mut stock = self.shelf(kind).lock();
        if stock.sockets.is_empty() && stock.asked == 0 {
            self.ask(kind, &mut stock, 1);
        }
    }

    /// Takes a socket; waits for the agent until `deadline` when there is none.
    pub(crate) async fn take(
        &self,
        kind: SocketKind,
        deadline: Instant,
    ) -> Result<OwnedFd, Exhausted> {
        if let Some(socket) = self.take_now(kind) {
            return Ok(socket);
        }
        self.waits.fetch_add(1, Ordering::Relaxed);
        let shelf = self.shelf(kind);
        let _waiting = Waiting::new(shelf);
        loop {
            // Registered before looking, so that an arrival in between is not missed.
            let mut arrived = std::pin::pin!(shelf.arrived.notified());
            arrived.as_mut().enable();
            if let Some(socket) = self.take_now(kind) {
                return Ok(socket);
            }
            let again = deadline.min(Instant::now() + PATIENCE);
            // Its result does not matter: whoever is woken or out of patience looks again, and asks again.
            if timeout_at(again, arrived).await.is_err() && Instant::now() >= deadline {
                return self.take_now(kind).ok_or(Exhausted);
            }
        }
    }

    /// Puts sockets from the agent on their shelf.
    pub(crate) fn put(&self, kind: SocketKind, sockets: Vec<OwnedFd>) {
        let shelf = self.shelf(kind);
        let mut stock = shelf.lock();
        stock.asked = stock.asked.saturating_sub(sockets.len());
        let waiting = stock.waiting;
        let arrived = sockets.len();
        stock.sockets.extend(sockets);
        drop(stock);
        for _ in 0..arrived.min(waiting) {
            shelf.arrived.notify_one();
        }
    }

    /// Once a second: measures the demand, and gives back what a quieter time does not need.
    pub(crate) fn tick(&self) {
        for shelf in &self.shelves {
            let mut stock = shelf.lock();
            stock.rate = (stock.rate * 0.9).max(stock.taken as f64);
            stock.taken = 0;
            let surplus = stock.sockets.len().saturating_sub(2 * stock.wanted());
            // By a tenth a second: demand that comes and goes does not make sockets come and go.
            let close = surplus.div_ceil(10);
            drop(stock.sockets.drain(..close).collect::<Vec<_>>());
        }
    }

    fn take_now(&self, kind: SocketKind) -> Option<OwnedFd> {
        let mut stock = self.shelf(kind).lock();
        let socket = stock.sockets.pop_front();
        if socket.is_some() {
            stock.taken += 1;
            stock.used = true;
        }
        let (wanted, waiting) = (stock.wanted(), stock.waiting);
        if stock
            .asked_at
            .is_some_and(|asked_at| asked_at.elapsed() > PATIENCE)
        {
            stock.asked = 0;
        }
        let held = stock.sockets.len() + stock.asked;
        // By the quarter, so that a batch is worth its message.
        if held < wanted - wanted / 4 + waiting || (socket.is_none() && stock.asked == 0) {
            let count = (wanted + waiting).saturating_sub(held).max(1);
            self.ask(kind, &mut stock, count);
        }
        socket
    }

    fn ask(&self, kind: SocketKind, stock: &mut Stock, count: usize) {
        stock.asked += count;
        stock.asked_at = Some(Instant::now());
        let mut left = count;
        while left > 0 {
            // What one answer can carry.
            let part = left.min(MAX_DESCRIPTORS);
            left -= part;
            let need = ToAgent::NeedSockets {
                workload: self.workload,
                kind,
                count: u16::try_from(part).unwrap_or(u16::MAX),
            };
            // Without an agent nothing arrives; whoever waits is told at the deadline.
            drop(self.agent.send(need));
        }
    }

    fn shelf(&self, kind: SocketKind) -> &Shelf {
        let purpose = match kind.purpose {
            Purpose::Dial => 0,
            Purpose::Deliver => 2,
        };
        &self.shelves[purpose + usize::from(kind.ipv6)]
    }
}

impl Stock {
    /// What it should hold.
    fn wanted(&self) -> usize {
        if !self.used {
            return 1;
        }
        let rate = self.rate.max(self.taken as f64);
        ((rate * COVER.as_secs_f64()).ceil() as usize).clamp(IDLE, MOST)
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a waiter for as long as it waits, also when it is cancelled.
struct Waiting<'a>(&'a Shelf);

impl<'a> Waiting<'a> {
    fn new(shelf: &'a Shelf) -> Self {
        shelf.lock().waiting += 1;
        Self(shelf)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut stock = self.0.lock();
        stock.waiting -= 1;
        // A cancelled waiter may have swallowed the wake-up that another one needs.
        if stock.waiting > 0 && !stock.sockets.is_empty() {
            self.0.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
