//! What the rest of the thread says to a tunnel's task, and what it may know about the tunnel. One thread: no lock.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use mesh_core::outcome::Reason;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::OpenError;
use super::handle::Shared;
use crate::wire;

/// How long a tunnel takes no new stream after one of its streams moved much.
const BULK: Duration = Duration::from_secs(1);

/// What a tunnel's task is told.
pub(super) enum Command {
    /// Open a stream. Its number follows on the one before.
    Open(Box<NewStream>),
    /// The story does not want to wait any longer: give the application back, if that is still possible.
    GiveUp {
        /// Stream number.
        stream: u32,
    },
    /// End a stream.
    Cut {
        /// Stream number.
        stream: u32,
        /// Why.
        reason: Reason,
    },
    /// End everything.
    CutAll(Reason),
    /// No further streams; end with the last one.
    Retire,
}

/// A stream to open.
pub(super) struct NewStream {
    pub(super) id: u32,
    pub(super) open: wire::Open,
    pub(super) app: TcpStream,
    pub(super) kept: Vec<u8>,
    pub(super) shared: Rc<Shared>,
    pub(super) answer: oneshot::Sender<Result<(), OpenError>>,
}

/// The mailbox of one tunnel.
#[derive(Default)]
pub(super) struct Mailbox {
    commands: RefCell<VecDeque<Command>>,
    task: RefCell<Option<Waker>>,
    /// Streams that are open, and those asked for.
    load: Cell<usize>,
    /// Streams opened so far.
    opened: Cell<u32>,
    bulk_until: Cell<Option<Instant>>,
    retired: Cell<bool>,
    ended: Cell<bool>,
}

impl Mailbox {
    /// Puts a command in, and wakes the task.
    pub(super) fn send(&self, command: Command) {
        match command {
            Command::Open(_) => self.load.set(self.load.get() + 1),
            Command::Retire | Command::CutAll(_) => self.retired.set(true),
            Command::GiveUp { .. } | Command::Cut { .. } => {}
        }
        if self.ended.get() {
            // Nobody reads it any more. What it carries is dropped, and so answered.
            return;
        }
        self.commands.borrow_mut().push_back(command);
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }

    /// The number for the next stream, if there is one left.
    pub(super) fn next_stream(&self) -> Option<u32> {
        let opened = self.opened.get();
        let id = opened.checked_mul(2)?.checked_add(1)?;
        self.opened.set(opened + 1);
        Some(id)
    }

    /// Whether a new stream may join, where a tunnel carries at most `limit`.
    pub(super) fn takes_streams(&self, limit: usize) -> bool {
        !self.is_retired() && self.load.get() < limit && !self.is_bulk()
    }

    /// Streams that are open, and those asked for.
    pub(super) fn load(&self) -> usize {
        self.load.get()
    }

    /// Whether a stream of the tunnel moves much.
    pub(super) fn is_bulk(&self) -> bool {
        self.bulk_until
            .get()
            .is_some_and(|until| Instant::now() < until)
    }

    /// Whether it takes no stream, and never will again.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.get() || self.ended.get() || self.opened.get() >= u32::MAX / 2
    }

    /// Whether the task has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.get()
    }

    pub(super) fn register(&self, task: &Waker) {
        let mut known = self.task.borrow_mut();
        match known.as_mut() {
            Some(known) => known.clone_from(task),
            None => *known = Some(task.clone()),
        }
    }

    pub(super) fn take(&self) -> Option<Command> {
        self.commands.borrow_mut().pop_front()
    }

    pub(super) fn set_load(&self, streams: usize) {
        let asked_for = self
            .commands
            .borrow()
            .iter()
            .filter(|command| matches!(command, Command::Open(_)))
            .count();
        self.load.set(streams + asked_for);
    }

    pub(super) fn moved_much(&self, now: Instant) {
        self.bulk_until.set(Some(now + BULK));
    }

    pub(super) fn retire(&self) {
        self.retired.set(true);
    }

    /// The task has ended: what is left is given back.
    pub(super) fn end(&self) -> VecDeque<Command> {
        self.ended.set(true);
        self.load.set(0);
        self.commands.take()
    }
}
