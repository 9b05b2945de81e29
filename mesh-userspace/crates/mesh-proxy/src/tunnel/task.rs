//! The task of a tunnel: it owns the TLS connection and the applications' sockets, and does everything that happens to
//! them, turn by turn.
//!
//! ```text
//!            ┌─────────┐  idle, or retired and empty   ┌─────────┐ close_notify written
//!   ────────►│ Serving ├──────────────────────────────►│ Closing ├────────────────────► end
//!            └────┬────┘                               └─────────┘
//!                 │ the one stream of a raw tunnel     ┌───────────┐ the alert had its time
//!                 │ was reset by us                    │ Resetting ├──────────────────────► end
//!                 ├───────────────────────────────────►└───────────┘
//!                 │ the peer closed, or is gone        ┌────────────┐ the applications have everything
//!                 └───────────────────────────────────►│ Delivering ├───────────────────────────────► end
//!                                                      └────────────┘
//! ```
//! A turn does a bounded amount of work and then lets the thread's other tunnels have theirs.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use mesh_core::outcome::Reason;
use tokio::time::Sleep;

use super::error::TunnelError;
use super::mailbox::Mailbox;
use super::send::Room;
use super::state::Side;
use super::table::Streams;
use crate::tls::{Channel, Received, TlsError};

/// Rounds of receiving and sending in one turn: at most this many buffers in each direction.
const ROUNDS: usize = 4;

/// Steps of receiving in one round, where one application receives everything: about two buffers.
const RAW_STEPS: usize = 8;

/// How long the peer may take to read our last bytes.
const CLOSING: Duration = Duration::from_secs(5);

/// How long the peer has to read the alert of a stream that has the tunnel to itself, before the reset of the connection
/// overtakes it.
const RESETTING: Duration = Duration::from_millis(200);

/// How long the accepting side, once it drains, leaves an empty tunnel to the dialling side to close. Only that side
/// knows that no OPEN is under way.
const DRAINED: Duration = Duration::from_secs(10);

/// A tunnel.
pub(super) struct Task {
    channel: Channel,
    streams: Streams,
    mailbox: Rc<Mailbox>,
    phase: Phase,
    /// While there is no stream.
    idle: Option<Pin<Box<Sleep>>>,
}

enum Phase {
    Serving,
    Closing(Pin<Box<Sleep>>),
    Resetting(Pin<Box<Sleep>>),
    Delivering(Option<TunnelError>),
}

impl Task {
    pub(super) fn new(channel: Channel, streams: Streams) -> Self {
        Self {
            channel,
            mailbox: Rc::clone(&streams.mailbox),
            streams,
            phase: Phase::Serving,
            idle: None,
        }
    }

    /// Runs the tunnel to its end.
    pub(super) async fn run(mut self) -> Result<(), TunnelError> {
        // The runtime's own budget counts operations of sockets and would interrupt a batch; turns are bounded here.
        let result = tokio::task::coop::unconstrained(poll_fn(|cx| self.poll(cx))).await;
        let (reason, detail) = match &result {
            Ok(()) => (Reason::TunnelLost, "the tunnel was closed".to_owned()),
            Err(error) => (error.reason(), error.to_string()),
        };
        self.streams.end(reason, &detail);
        result
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        self.mailbox.register(cx.waker());
        self.streams.ready.register(cx.waker());
        for _ in 0..ROUNDS {
            let progressed = match &mut self.phase {
                Phase::Serving => self.round(cx)?,
                Phase::Closing(limit) => {
                    let late = limit.as_mut().poll(cx).is_ready();
                    // Whether the peer has read our last words no longer matters.
                    if late || self.channel.poll_flush(cx).is_ready() {
                        return Poll::Ready(Ok(()));
                    }
                    false
                }
                Phase::Resetting(limit) => {
                    // An error of the connection is what we are about to make anyway.
                    let _flushed = self.channel.poll_flush(cx).is_ready();
                    if limit.as_mut().poll(cx).is_ready() {
                        self.channel.reset();
                        return Poll::Ready(Ok(()));
                    }
                    false
                }
                Phase::Delivering(error) => {
                    if self.streams.table.is_empty() {
                        return Poll::Ready(error.take().map_or(Ok(()), Err));
                    }
                    self.streams.visit_ready(&mut self.channel, Room::Full)?
                }
            };
            if !progressed && !self.rest(cx)? {
                self.channel.inbox.release();
                return Poll::Pending;
            }
        }
        self.channel.inbox.release();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Does what there is to do, once. Returns whether there was anything.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        let mut progressed = false;
        while let Some(command) = self.mailbox.take() {
            self.streams.obey(command)?;
            progressed = true;
        }
        progressed |= self.receive(cx)?;
        while let Poll::Ready(Some(answer)) = self.streams.accepting.poll_next_unpin(cx) {
            self.streams.answered(answer)?;
            progressed = true;
        }
        progressed |= self.send(cx)?;
        Ok(progressed)
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        if self.streams.raw.receives() {
            return self.receive_raw(cx);
        }
        if !self.channel.inbox.has_early() {
            match self.channel.poll_fill(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return self.peer_gone(TlsError::Truncated.into()),
                Poll::Ready(Err(error)) => return self.peer_gone(error.into()),
            }
        }
        loop {
            let received = match self.channel.open_records() {
                Ok(received) => received,
                Err(error @ TlsError::Alert(_)) => return self.peer_gone(error.into()),
                Err(error) => return Err(error.into()),
            };
            let payloads = self.channel.inbox.payloads();
            let count = payloads.len();
            let handled = self.streams.receive(payloads)?;
            self.channel.inbox.handed_over(handled);
            if self.streams.raw.receives() {
                return self.receive_raw(cx).map(|_progressed| true);
            }
            match received {
                Received::Last => return self.peer_gone(TunnelError::Closed),
                Received::Records if count == 0 => return Ok(true),
                Received::Records => {}
            }
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        let room = match self.flush(cx)? {
            Poll::Ready(()) => {
                self.streams.room_again();
                Room::Free
            }
            Poll::Pending => Room::Full,
        };
        let mut something = self.streams.visit_ready(&mut self.channel, room)?;
        something |= self.streams.go_raw(&mut self.channel)?;
        self.channel.seal()?;
        self.say_raw()?;
        let _later = self.flush(cx)?;
        Ok(something)
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, TunnelError> {
        match self.channel.poll_flush(cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(error)) => {
                // What the peer said before it went is still to be read: it may be the reason.
                self.receive(cx)?;
                match self.phase {
                    Phase::Serving => self.peer_gone(error.into()).map(|_| Poll::Pending),
                    _ => Ok(Poll::Pending),
                }
            }
        }
    }

    /// Like [`Self::receive`], once the peer's direction carries the bytes of one stream and nothing else: they are handed
    /// over from where they were decrypted, and no more is read before the application has taken them.
    fn receive_raw(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        let mut progressed = false;
        for _ in 0..RAW_STEPS {
            if self.channel.inbox.payloads().len() > 0 {
                let Some(taken) = self.streams.hand_over_raw(self.channel.inbox.payloads())? else {
                    return Ok(self.watch_raw(cx)? || progressed);
                };
                self.channel.inbox.consume(taken);
                progressed = true;
                continue;
            }
            if self.streams.raw.has_received_all() {
                return Ok(self.watch_raw(cx)? || progressed);
            }
            match self.channel.open_records() {
                Ok(received) if self.channel.inbox.payloads().len() == 0 => match received {
                    Received::Last => {
                        self.streams.raw_finished()?;
                        return Ok(true);
                    }
                    Received::Records => match self.channel.poll_fill(cx) {
                        Poll::Pending => return Ok(progressed),
                        Poll::Ready(Ok(true)) => {}
                        Poll::Ready(Ok(false)) => {
                            return self.peer_gone(TlsError::Truncated.into());
                        }
                        Poll::Ready(Err(error)) => {
                            if self.streams.raw_reset(&error)? {
                                return Ok(true);
                            }
                            return self.peer_gone(error.into());
                        }
                    },
                },
                Ok(_) => {}
                Err(error) if self.streams.raw_reset(&error)? => return Ok(true),
                Err(error) => return self.peer_gone(error.into()),
            }
        }
        Ok(progressed)
    }

    /// Nothing is read for now: a reset has to be noticed all the same. Returns whether there was one.
    fn watch_raw(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        if self.streams.table.is_empty() {
            return Ok(false);
        }
        match self.channel.poll_broken(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(error) if self.streams.raw_reset(&error)? => Ok(true),
            Poll::Ready(error) => self.peer_gone(error.into()),
        }
    }

    /// Says by an alert what a frame would have said.
    fn say_raw(&mut self) -> Result<(), TunnelError> {
        if let Some(alert) = self.streams.raw.take_alert() {
            self.channel.seal_alert(alert)?;
        }
        Ok(())
    }

    /// Nothing more will come from the peer.
    fn peer_gone(&mut self, error: TunnelError) -> Result<bool, TunnelError> {
        // Our certificate was refused: then the peer has not looked at a single frame.
        let untouched = error.reason() == Reason::PeerIdentity;
        let (reason, detail) = (error.reason(), error.to_string());
        let lost = self.streams.orphan(reason, &detail, untouched);
        self.streams.dismiss(reason, &detail);
        let quiet = !lost && !untouched;
        self.phase = Phase::Delivering((!quiet).then_some(error));
        Ok(true)
    }

    /// Nothing is to be done. Returns whether something is, after all.
    fn rest(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        let empty = self.streams.table.is_empty() && self.mailbox.load() == 0;
        if !matches!(self.phase, Phase::Serving) || !empty {
            self.idle = None;
            return Ok(false);
        }
        if self.streams.raw.is_reset() {
            self.mailbox.retire();
            self.phase = Phase::Resetting(Box::pin(tokio::time::sleep(RESETTING)));
            return Ok(true);
        }
        if self.streams.raw.is_used() {
            return self.close();
        }
        let retired = self.mailbox.is_retired();
        let limit = match (self.streams.side, retired) {
            (Side::Dialling, true) => return self.close(),
            (Side::Dialling, false) => self.streams.limits.idle,
            (Side::Accepting, true) => DRAINED,
            // The dialling side is to be the one that closes.
            (Side::Accepting, false) => 2 * self.streams.limits.idle,
        };
        let deadline = tokio::time::Instant::now() + limit;
        let idle = self
            .idle
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if retired && idle.deadline() > deadline {
            idle.as_mut().reset(deadline);
        }
        if idle.as_mut().poll(cx).is_ready() {
            return self.close();
        }
        Ok(false)
    }

    fn close(&mut self) -> Result<bool, TunnelError> {
        self.mailbox.retire();
        if !self.streams.raw.is_closed() {
            self.channel.seal_close()?;
        }
        self.phase = Phase::Closing(Box::pin(tokio::time::sleep(CLOSING)));
        Ok(true)
    }
}
