//! The streams of one tunnel, and everything that must be said about them to the peer.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt};
use futures_util::future::{AbortHandle, Abortable, Aborted, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;
use mesh_core::outcome::Reason;

use super::app::App;
use super::budget::Budget;
use super::credit::Spare;
use super::error::TunnelError;
use super::handle::Shared;
use super::mailbox::{Command, Mailbox, NewStream};
use super::raw::Raw;
use super::ready::ReadyQueue;
use super::state::{End, Side};
use super::stream::{Opening, Stream};
use super::{Accepted, Limits, OpenError};
use crate::socket;
use crate::wire::{self, Frame, Refusal, RefusalCode, ResetCode};

/// What must be said besides application bytes, while the peer does not read. A peer that lets more pile up only wants
/// to make us keep it.
const MAX_CONTROL: usize = 256 * 1024;

/// Streams for which a tunnel without any keeps room.
const IDLE_STREAMS: usize = 16;

/// Asks the inbound story.
pub(super) type Acceptor =
    Box<dyn Fn(wire::Open) -> LocalBoxFuture<'static, Result<Accepted, Refusal>>>;

type Answer = (u32, Result<Result<Accepted, Refusal>, Aborted>);

/// The streams of one tunnel.
pub(super) struct Streams {
    pub(super) side: Side,
    pub(super) limits: Limits,
    pub(super) mailbox: Rc<Mailbox>,
    pub(super) table: HashMap<u32, Stream>,
    pub(super) ready: ReadyQueue,
    /// Streams that have something to read, but there was no room for it.
    pub(super) waiting: Vec<u32>,
    /// Frames that are to be sent before any other. Whole ones.
    pub(super) control: Vec<u8>,
    pub(super) spare: Spare,
    /// Bytes of DATA for closed streams that may still be under way.
    pub(super) late: u64,
    /// Streams that the peer may still reset without waiting for an answer.
    pub(super) hasty: Budget,
    /// The highest stream number so far.
    pub(super) highest: u32,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) accepting: FuturesUnordered<LocalBoxFuture<'static, Answer>>,
    pub(super) raw: Raw,
}

impl Streams {
    pub(super) fn new(
        side: Side,
        limits: Limits,
        mailbox: Rc<Mailbox>,
        acceptor: Option<Acceptor>,
    ) -> Self {
        Self {
            side,
            limits,
            mailbox,
            table: HashMap::new(),
            ready: ReadyQueue::default(),
            waiting: Vec::new(),
            control: Vec::new(),
            spare: Spare::default(),
            late: 0,
            hasty: Budget::new(Instant::now()),
            highest: 0,
            acceptor,
            accepting: FuturesUnordered::new(),
            raw: Raw::default(),
        }
    }

    /// Says something to the peer.
    pub(super) fn say(&mut self, frame: &Frame<'_>) -> Result<(), TunnelError> {
        if self.raw.sends() {
            self.raw.say(frame);
            return Ok(());
        }
        if self.control.len() > MAX_CONTROL {
            return Err(TunnelError::Flood("it asks for more answers than it reads"));
        }
        frame.encode(&mut self.control);
        Ok(())
    }

    /// Carries a command out.
    pub(super) fn obey(&mut self, command: Command) -> Result<(), TunnelError> {
        match command {
            Command::Open(new) => {
                self.open(*new)?;
                self.mailbox.set_load(self.table.len());
                Ok(())
            }
            Command::GiveUp { stream } => self.give_up(stream),
            Command::Cut { stream, reason } => {
                if let Some(entry) = self.table.get_mut(&stream) {
                    entry.state.cut(reason);
                }
                self.settle(stream)
            }
            Command::CutAll(reason) => Err(TunnelError::Cut(reason)),
            Command::Retire => {
                // The side that dialled just opens no more.
                match self.side {
                    Side::Accepting => self.say(&Frame::Drain),
                    Side::Dialling => Ok(()),
                }
            }
        }
    }

    /// Opens a stream for an application of ours.
    fn open(&mut self, new: NewStream) -> Result<(), TunnelError> {
        let NewStream {
            id,
            open,
            app,
            kept,
            shared,
            answer,
        } = new;
        let app = match App::new(app, VecDeque::new()) {
            Ok(app) => app,
            Err(error) => {
                shared.close(Reason::ClientReset, None);
                let _gone = answer.send(Err(OpenError {
                    returned: None,
                    reason: Reason::ClientReset,
                    detail: error.to_string(),
                }));
                return Ok(());
            }
        };
        self.highest = id;
        self.say(&Frame::Open {
            stream: id,
            open: Box::new(open),
        })?;
        for bytes in kept.chunks(wire::MAX_PAYLOAD) {
            self.say(&Frame::Data { stream: id, bytes })?;
        }
        let entry = self.ready.entry(id);
        let sent = kept.len();
        let opening = Opening::Offered { kept, answer };
        let mut stream = Stream::new(shared, entry, Some(app), opening);
        stream.credit.used(sent);
        stream.count_local(self.side, sent);
        self.table.insert(id, stream);
        Ok(())
    }

    /// The story waits no longer for an answer.
    fn give_up(&mut self, id: u32) -> Result<(), TunnelError> {
        if let Some(stream) = self.table.get_mut(&id)
            && stream.state.is_opening()
        {
            stream.state.cut(Reason::Unreachable);
            stream.detail = Some("the peer did not answer in time".to_owned());
        }
        self.settle(id)
    }

    /// The peer opens a stream for an application of ours.
    pub(super) fn offered(&mut self, id: u32, open: wire::Open) -> Result<(), TunnelError> {
        // Streams of which only the last bytes have still to be delivered are closed for the peer: it counts fewer.
        if self.table.len() >= 2 * self.limits.streams {
            // What the peer may have sent already, not knowing.
            self.late += u64::from(wire::INITIAL_WINDOW);
            let refusal = Refusal {
                code: RefusalCode::Overloaded,
                detail: "too many streams in one tunnel".to_owned(),
            };
            return self.refuse(id, refusal);
        }
        let Some(acceptor) = &self.acceptor else {
            return Err(TunnelError::Unexpected("OPEN from the side that accepts"));
        };
        let (story, registration) = AbortHandle::new_pair();
        let answer = Abortable::new(acceptor(open), registration);
        self.accepting
            .push(Box::pin(async move { (id, answer.await) }));
        let stream = Stream::new(
            Shared::new(id, Rc::clone(&self.mailbox)),
            self.ready.entry(id),
            None,
            Opening::Awaited {
                story,
                pending: VecDeque::new(),
            },
        );
        self.table.insert(id, stream);
        self.mailbox.set_load(self.table.len());
        Ok(())
    }

    fn refuse(&mut self, id: u32, refusal: Refusal) -> Result<(), TunnelError> {
        self.say(&Frame::OpenResult {
            stream: id,
            result: Err(refusal),
        })
    }

    /// The inbound story has answered.
    pub(super) fn answered(&mut self, (id, answer): Answer) -> Result<(), TunnelError> {
        let Ok(answer) = answer else { return Ok(()) };
        let Some(stream) = self.table.get_mut(&id) else {
            if let Ok(accepted) = answer {
                socket::reset(&accepted.app);
            }
            return Ok(());
        };
        let accepted = match answer {
            Ok(accepted) => accepted,
            Err(refusal) => {
                stream.state.refused(refusal_reason(refusal.code))?;
                self.remove(id);
                return self.refuse(id, refusal);
            }
        };
        let pending = match std::mem::replace(&mut stream.opening, Opening::Done) {
            Opening::Awaited { pending, .. } => pending,
            _ => VecDeque::new(),
        };
        let app = match App::new(accepted.app, pending) {
            Ok(app) => app,
            Err(error) => {
                stream.state.refused(Reason::ConnectionRefused)?;
                self.remove(id);
                let refusal = Refusal {
                    code: RefusalCode::ConnectionRefused,
                    detail: error.to_string(),
                };
                return self.refuse(id, refusal);
            }
        };
        stream.app = Some(app);
        stream.state.accepted(self.side)?;
        stream.entry.push();
        (accepted.on_open)(super::StreamHandle::new(Rc::clone(&stream.shared)));
        self.say(&Frame::OpenResult {
            stream: id,
            result: Ok(()),
        })
    }

    /// Ends a stream if its state says that it is over: tells the peer, the application and the story what each has to
    /// know.
    pub(super) fn settle(&mut self, id: u32) -> Result<(), TunnelError> {
        if !self.table.get(&id).is_some_and(Stream::is_done) {
            return Ok(());
        }
        let Some(end) = self.remove(id) else {
            return Ok(());
        };
        let code = match end {
            End::LocalReset => ResetCode::Application,
            End::Cut(reason) => reset_code(reason),
            End::Finished | End::Refused(_) | End::RemoteReset => return Ok(()),
        };
        self.say(&Frame::Reset { stream: id, code })
    }

    /// Takes a stream out of the table and ends everything that hangs on it.
    fn remove(&mut self, id: u32) -> Option<End> {
        let mut stream = self.table.remove(&id)?;
        if self.table.is_empty() && self.table.capacity() > IDLE_STREAMS {
            // A tunnel that is kept for the next stream does not keep the room of hundreds.
            self.table = HashMap::new();
            self.waiting = Vec::new();
            self.control.shrink_to(0);
        }
        self.late += u64::from(stream.window.close(&mut self.spare));
        self.mailbox.set_load(self.table.len());
        let end = stream.state.ended().unwrap_or(End::Cut(Reason::Fault));
        stream.close(end, self.side, false);
        Some(end)
    }

    /// The peer has gone. Streams that have received everything go on until their applications have it; the others are
    /// lost. Returns whether any was.
    pub(super) fn orphan(&mut self, reason: Reason, detail: &str, untouched: bool) -> bool {
        let lost: Vec<u32> = self
            .table
            .iter()
            .filter(|(_, stream)| stream.state.ended() != Some(End::Finished))
            .map(|(id, _)| *id)
            .collect();
        for id in &lost {
            let Some(mut stream) = self.table.remove(id) else {
                continue;
            };
            stream.state.cut(reason);
            stream.detail.get_or_insert_with(|| detail.to_owned());
            stream.close(End::Cut(reason), self.side, untouched);
        }
        self.control.clear();
        !lost.is_empty()
    }

    /// Whatever is still there is lost.
    pub(super) fn end(&mut self, reason: Reason, detail: &str) {
        for (_, mut stream) in self.table.drain() {
            stream.detail.get_or_insert_with(|| detail.to_owned());
            stream.close(End::Cut(reason), self.side, false);
        }
        self.dismiss(reason, detail);
    }

    /// The tunnel opens no stream any more: who waits for one gets its application back.
    pub(super) fn dismiss(&mut self, reason: Reason, detail: &str) {
        for command in self.mailbox.end() {
            if let Command::Open(new) = command {
                new.shared.close(reason, Some(detail.to_owned()));
                let _gone = new.answer.send(Err(OpenError {
                    returned: Some((new.app, new.kept)),
                    reason,
                    detail: detail.to_owned(),
                }));
            }
        }
    }
}

/// What a refusal says to the record.
pub(super) fn refusal_reason(code: RefusalCode) -> Reason {
    match code {
        RefusalCode::ConnectionRefused => Reason::ConnectionRefused,
        RefusalCode::Unreachable => Reason::Unreachable,
        RefusalCode::PolicyDenied => Reason::PolicyDenied,
        RefusalCode::NoRuleAllows => Reason::NoRuleAllows,
        RefusalCode::WrongDestination => Reason::WrongDestination,
        RefusalCode::Overloaded => Reason::Overloaded,
        RefusalCode::Draining => Reason::Drained,
        RefusalCode::Fault => Reason::Fault,
    }
}

/// What the peer is told when we end a stream.
fn reset_code(reason: Reason) -> ResetCode {
    match reason {
        Reason::PolicyDenied | Reason::NoRuleAllows | Reason::PolicyRevoked => {
            ResetCode::PolicyRevoked
        }
        Reason::PeerIdentity | Reason::IdentityRevoked => ResetCode::IdentityRevoked,
        Reason::Drained => ResetCode::Drained,
        Reason::Overloaded => ResetCode::Overloaded,
        Reason::Unreachable | Reason::ClientReset | Reason::ServerReset => ResetCode::Application,
        _ => ResetCode::Fault,
    }
}
