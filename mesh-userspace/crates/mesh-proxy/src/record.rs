//! The record of a connection: made at accept, filled on the way, closed exactly once. It tells; it decides nothing.
//!
//! A [`Recorder`] belongs to the story of its connection. Beside it, the thread's list of [`Live`] connections shares
//! the record, so that long connections are reported while they last and can be re-checked and cut.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mesh_core::outcome::Reason;
use mesh_core::record::{Direction, Party, Record, Transport};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::recheck::Standing;

/// A connection is reported open when it is this old,
const FIRST_REPORT: Duration = Duration::from_secs(1);
/// and again after each of these.
const NEXT_REPORT: Duration = Duration::from_secs(10);

/// Records that wait for the link. Beyond it they are lost, and counted: a slow agent must not slow connections.
const QUEUE: usize = 16_384;

/// Longest detail of a record, in bytes.
const MAX_DETAIL: usize = 512;

/// Where records go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sink {
    queue: Sender<Record>,
    lost: Arc<AtomicU64>,
    next: Arc<AtomicU64>,
}

impl Sink {
    /// Makes a sink, and the end from which the link takes records.
    pub(crate) fn new(generation: u32, lost: Arc<AtomicU64>) -> (Self, Receiver<Record>) {
        let (queue, records) = channel(QUEUE);
        let next = Arc::new(AtomicU64::new(u64::from(generation) << 40));
        (Self { queue, lost, next }, records)
    }

    /// A number that grows with every record.
    pub(crate) fn opened(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    fn give(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What carries a connection's bytes, seen from outside: it can be asked, and cut.
pub(crate) trait Carrier {
    /// Bytes of the application so far, from client to server and back.
    fn bytes(&self) -> (u64, u64);
    /// Ends the connection with a reset, now.
    fn cut(&self, reason: Reason);
}

/// How a connection ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ended {
    /// The reason.
    pub(crate) reason: Reason,
    /// More, for a person.
    pub(crate) detail: Option<String>,
    /// Application bytes from client to server.
    pub(crate) sent: u64,
    /// Application bytes from server to client.
    pub(crate) received: u64,
}

impl Ended {
    /// It ended before a byte was carried.
    pub(crate) fn before(reason: Reason, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self {
            reason,
            detail: (!detail.is_empty()).then_some(detail),
            sent: 0,
            received: 0,
        }
    }
}

/// A connection that lives on this thread.
pub(crate) struct Live {
    record: RefCell<Record>,
    started: Instant,
    reported: Cell<Option<Instant>>,
    carrier: RefCell<Option<Rc<dyn Carrier>>>,
    standing: RefCell<Standing>,
    /// Why it was cut, when it was: says more than what its carrier then reports.
    cut: Cell<Option<Reason>>,
}

impl Live {
    /// What it was allowed by.
    pub(crate) fn standing(&self) -> std::cell::Ref<'_, Standing> {
        self.standing.borrow()
    }

    /// Cuts it. `rule` is what no longer allows it, `detail` more about it. Without effect before it is carried: its
    /// story is on its way through the same checks, against the newest world.
    pub(crate) fn cut(&self, reason: Reason, rule: Option<String>, detail: Option<String>) {
        let Some(carrier) = self.carrier.borrow().clone() else {
            return;
        };
        if self.cut.get().is_none() {
            self.cut.set(Some(reason));
            let mut record = self.record.borrow_mut();
            record.rule = rule.or_else(|| record.rule.take());
            record.detail = detail;
        }
        carrier.cut(reason);
    }

    /// Ends it whatever it is doing: also when it is not carried yet, and its story is about to be dropped.
    pub(crate) fn abandon(&self, reason: Reason) {
        self.cut.set(self.cut.get().or(Some(reason)));
        self.cut(reason, None, None);
    }

    fn snapshot(&self, reason: Reason, bytes: Option<(u64, u64)>) -> Record {
        let mut record = self.record.borrow().clone();
        record.duration_us = micros(self.started.elapsed());
        if let Some((sent, received)) = bytes {
            record.bytes_sent = sent;
            record.bytes_received = received;
        }
        record.reason = reason;
        record
    }

    fn report(&self, now: Instant, sink: &Sink) {
        let due = match self.reported.get() {
            None => self.started + FIRST_REPORT,
            Some(reported) => reported + NEXT_REPORT,
        };
        let carrier = self.carrier.borrow();
        if let (true, Some(carrier)) = (due <= now, carrier.as_ref()) {
            self.reported.set(Some(now));
            sink.give(self.snapshot(Reason::Open, Some(carrier.bytes())));
        }
    }
}

/// The live connections of one thread, in the order of their records.
#[derive(Default)]
pub(crate) struct Connections {
    live: RefCell<BTreeMap<u64, Rc<Live>>>,
    opened: Cell<u64>,
}

impl Connections {
    /// Reports those that have been open for long enough.
    pub(crate) fn report(&self, sink: &Sink) {
        let now = Instant::now();
        for live in self.live.borrow().values() {
            live.report(now, sink);
        }
    }

    /// All of them, as they are now: what is done to them may end them.
    pub(crate) fn all(&self) -> Vec<Rc<Live>> {
        self.live.borrow().values().cloned().collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.live.borrow().len()
    }

    /// How many there have been.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.get()
    }
}

/// The record of one connection, held by its story.
pub(crate) struct Recorder {
    live: Rc<Live>,
    connections: Rc<Connections>,
    sink: Sink,
    /// What it means when the story ends without closing the record.
    unclosed: Cell<Reason>,
    closed: bool,
}

impl Recorder {
    /// Opens the record of a connection that was just accepted.
    pub(crate) fn open(
        connections: &Rc<Connections>,
        sink: &Sink,
        direction: Direction,
        generation: u64,
    ) -> Self {
        let id = sink.next.fetch_add(1, Ordering::Relaxed);
        let live = Rc::new(Live {
            record: RefCell::new(Record {
                id,
                direction,
                started_at: SystemTime::now(),
                duration_us: 0,
                connect_us: None,
                source: Party::default(),
                destination: Party::default(),
                client: None,
                original_destination: None,
                service: None,
                route: None,
                backend: None,
                endpoint: None,
                process: None,
                transport: Transport::None,
                tls: None,
                rule: None,
                reason: Reason::Open,
                detail: None,
                bytes_sent: 0,
                bytes_received: 0,
                generation,
            }),
            started: Instant::now(),
            reported: Cell::new(None),
            carrier: RefCell::new(None),
            standing: RefCell::new(Standing::Undecided),
            cut: Cell::new(None),
        });
        connections.live.borrow_mut().insert(id, Rc::clone(&live));
        connections.opened.set(connections.opened.get() + 1);
        Self {
            live,
            connections: Rc::clone(connections),
            sink: sink.clone(),
            unclosed: Cell::new(Reason::Fault),
            closed: false,
        }
    }

    /// Writes what is known now.
    pub(crate) fn fill(&self, fill: impl FnOnce(&mut Record)) {
        fill(&mut self.live.record.borrow_mut());
    }

    /// How long ago the connection was accepted.
    pub(crate) fn age(&self) -> Duration {
        self.live.started.elapsed()
    }

    /// The connection is carried from now on, for as long as what it stands on holds.
    pub(crate) fn carried(&self, carrier: Rc<dyn Carrier>, standing: Standing) {
        *self.live.standing.borrow_mut() = standing;
        *self.live.carrier.borrow_mut() = Some(carrier);
    }

    /// The connection as the thread's list has it.
    pub(crate) fn live(&self) -> &Rc<Live> {
        &self.live
    }

    /// What it means from now on when the story is dropped before it closes the record.
    pub(crate) fn unless_closed(&self, reason: Reason) {
        self.unclosed.set(reason);
    }

    /// Closes the record.
    pub(crate) fn close(mut self, ended: Ended) {
        self.finish(ended);
    }

    fn finish(&mut self, ended: Ended) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let reason = self.live.cut.get().unwrap_or(ended.reason);
        let mut record = self
            .live
            .snapshot(reason, Some((ended.sent, ended.received)));
        record.detail = record.detail.or(ended.detail).map(presentable);
        self.connections.live.borrow_mut().remove(&record.id);
        self.sink.give(record);
    }
}

impl Drop for Recorder {
    /// A story that ends without closing its record was cancelled or panicked.
    fn drop(&mut self) {
        let carrier = self.live.carrier.borrow_mut().take();
        let (sent, received) = carrier.map_or((0, 0), |carrier| carrier.bytes());
        self.finish(Ended {
            reason: self.unclosed.get(),
            detail: None,
            sent,
            received,
        });
    }
}

/// Details may quote what a peer sent: nothing that a terminal would act on, and not more than a line.
fn presentable(detail: String) -> String {
    let mut text: String = detail
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.len() > MAX_DETAIL {
        text.truncate(text.floor_char_boundary(MAX_DETAIL));
    }
    text
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
