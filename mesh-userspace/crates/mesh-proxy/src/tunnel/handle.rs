//! What a story keeps of its stream: to watch it, to cut it, and to learn how it ended.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use mesh_core::outcome::Reason;

use super::mailbox::{Command, Mailbox};

/// A stream that is carried by its tunnel's task. Dropping the handle leaves the stream alone.
#[derive(Clone)]
pub struct StreamHandle(Rc<Shared>);

/// How a stream ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamReport {
    /// Application bytes from client to server.
    pub sent: u64,
    /// Application bytes from server to client.
    pub received: u64,
    /// Why it ended.
    pub reason: Reason,
    /// More, for a person.
    pub detail: Option<String>,
}

/// What the task and the handles of a stream share.
pub(super) struct Shared {
    stream: u32,
    mailbox: Rc<Mailbox>,
    sent: Cell<u64>,
    received: Cell<u64>,
    report: RefCell<Option<StreamReport>>,
    waiting: RefCell<Vec<Waker>>,
}

impl StreamHandle {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        Self(shared)
    }

    /// Application bytes so far: from client to server, and from server to client.
    pub fn bytes(&self) -> (u64, u64) {
        (self.0.sent.get(), self.0.received.get())
    }

    /// Ends the stream at once: both applications see a reset, and the reason is told to the peer.
    pub fn cut(&self, reason: Reason) {
        self.0.mailbox.send(Command::Cut {
            stream: self.0.stream,
            reason,
        });
    }

    /// How it ended, if it has.
    pub fn report(&self) -> Option<StreamReport> {
        self.0.report.borrow().clone()
    }

    /// Waits until it has ended.
    pub async fn closed(&self) -> StreamReport {
        poll_fn(|cx| match self.report() {
            Some(report) => Poll::Ready(report),
            None => {
                let mut waiting = self.0.waiting.borrow_mut();
                if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }
}

impl fmt::Debug for StreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamHandle")
            .field("stream", &self.0.stream)
            .field("bytes", &self.bytes())
            .field("report", &self.report())
            .finish()
    }
}

impl Shared {
    pub(super) fn new(stream: u32, mailbox: Rc<Mailbox>) -> Rc<Self> {
        Rc::new(Self {
            stream,
            mailbox,
            sent: Cell::new(0),
            received: Cell::new(0),
            report: RefCell::new(None),
            waiting: RefCell::new(Vec::new()),
        })
    }

    /// Counts bytes from client to server.
    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// Counts bytes from server to client.
    pub(super) fn add_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    /// The end. Only the first counts.
    pub(super) fn close(&self, reason: Reason, detail: Option<String>) {
        if self.report.borrow().is_some() {
            return;
        }
        *self.report.borrow_mut() = Some(StreamReport {
            sent: self.sent.get(),
            received: self.received.get(),
            reason,
            detail,
        });
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}
