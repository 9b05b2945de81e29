//! Credit: how many bytes of a stream may be under way. Pure.
//!
//! The receiver gives it, and gives it back only for bytes that the application's socket has taken. So what a slow
//! application makes us hold is its window and no more, and the other streams of its tunnel go on.
//!
//! A window begins small and doubles while it is used up quickly; it halves when it is not. What all streams of a tunnel
//! may have beyond their beginnings is bounded together ([`Spare`]).

use std::time::{Duration, Instant};

use crate::wire::INITIAL_WINDOW;

/// The largest window: 4 MiB keep 10 Gbit/s busy over 3 ms, or 300 Mbit/s over 100 ms.
pub(super) const MAX_WINDOW: u32 = 4 * 1024 * 1024;

/// The most that a peer may let us send. More is no mistake of arithmetic, but an attempt at one.
const MAX_CREDIT: u32 = 1 << 30;

/// A window that is half used up in less time than this is too small.
const QUICK: Duration = Duration::from_millis(250);

/// One that takes longer than this is too large.
const SLOW: Duration = Duration::from_secs(2);

/// A stream moves much when it moves this many bytes in so short a time: 200 Mbit/s. Requests and answers, however many
/// they are, stay below; they are what is to be batched.
const MUCH: u32 = 256 * 1024;
const MUCH_TIME: Duration = Duration::from_millis(10);

/// What we may still send.
#[derive(Debug)]
pub(super) struct Credit(u32);

/// What the peer may still send, and what of that we hold.
#[derive(Debug)]
pub(super) struct Window {
    /// What `outstanding + held` is brought up to.
    size: u32,
    /// Granted and not yet received.
    outstanding: u32,
    /// Received and not yet taken by the application.
    held: u32,
    /// When credit was given back last.
    granted_at: Instant,
}

/// How fast a stream goes in one direction.
#[derive(Debug)]
pub(super) struct Pace(Instant);

/// What the windows of one tunnel may still grow by, together.
#[derive(Debug)]
pub(super) struct Spare(u32);

/// The peer sent more than it may, or lets us send more than makes sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum Exceeded {
    /// DATA beyond the window.
    #[error("more DATA than its credit")]
    Window,
    /// CREDIT beyond every bound.
    #[error("more CREDIT than can be")]
    Credit,
}

impl Default for Credit {
    fn default() -> Self {
        Self(INITIAL_WINDOW)
    }
}

impl Credit {
    /// How much there is.
    pub(super) fn left(&self) -> usize {
        self.0 as usize
    }

    /// So many bytes were sent; at most [`Self::left`].
    pub(super) fn used(&mut self, bytes: usize) {
        self.0 -= bytes as u32;
    }

    /// There is no limit any more.
    pub(super) fn lift(&mut self) {
        self.0 = MAX_CREDIT;
    }

    /// CREDIT. Returns whether there was none before.
    pub(super) fn granted(&mut self, bytes: u32) -> Result<bool, Exceeded> {
        let was_empty = self.0 == 0;
        self.0 = self
            .0
            .checked_add(bytes)
            .filter(|sum| *sum <= MAX_CREDIT)
            .ok_or(Exceeded::Credit)?;
        Ok(was_empty)
    }
}

impl Window {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            size: INITIAL_WINDOW,
            outstanding: INITIAL_WINDOW,
            held: 0,
            granted_at: now,
        }
    }

    /// DATA.
    pub(super) fn received(&mut self, bytes: usize) -> Result<(), Exceeded> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.outstanding = self
            .outstanding
            .checked_sub(bytes)
            .ok_or(Exceeded::Window)?;
        self.held += bytes;
        Ok(())
    }

    /// The application took bytes. Returns how much credit to give back now: nothing until half of the window is worth a
    /// frame.
    pub(super) fn delivered(
        &mut self,
        bytes: usize,
        now: impl FnOnce() -> Instant,
        spare: &mut Spare,
    ) -> Option<u32> {
        self.held = self.held.saturating_sub(bytes as u32);
        if self.size.saturating_sub(self.outstanding + self.held) < self.size / 2 {
            return None;
        }
        let now = now();
        let took = now.saturating_duration_since(self.granted_at);
        self.granted_at = now;
        if took < QUICK {
            self.size += spare.take(self.size.min(MAX_WINDOW - self.size));
        } else if took > SLOW && self.size > INITIAL_WINDOW {
            let smaller = (self.size / 2).max(INITIAL_WINDOW);
            spare.give(self.size - smaller);
            self.size = smaller;
        }
        let grant = self.size.saturating_sub(self.outstanding + self.held);
        self.outstanding += grant;
        (grant > 0).then_some(grant)
    }

    /// The stream is over. Returns what the peer may still have under way.
    pub(super) fn close(&mut self, spare: &mut Spare) -> u32 {
        spare.give(self.size - INITIAL_WINDOW);
        self.size = INITIAL_WINDOW;
        self.outstanding
    }

    /// What we hold.
    #[cfg(test)]
    pub(super) fn held(&self) -> u32 {
        self.held
    }
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self(now)
    }

    /// Credit passes, which says that so many bytes have moved since it last did. Returns the time if that is much.
    pub(super) fn moves_much(
        &mut self,
        bytes: u32,
        now: impl FnOnce() -> Instant,
    ) -> Option<Instant> {
        if bytes < MUCH {
            return None;
        }
        let now = now();
        let took = now.saturating_duration_since(std::mem::replace(&mut self.0, now));
        let much =
            took.as_secs_f64() * f64::from(MUCH) < MUCH_TIME.as_secs_f64() * f64::from(bytes);
        much.then_some(now)
    }
}

impl Default for Spare {
    /// Four streams at full speed, or many a little faster.
    fn default() -> Self {
        Self(4 * MAX_WINDOW)
    }
}

impl Spare {
    fn take(&mut self, wanted: u32) -> u32 {
        let taken = wanted.min(self.0);
        self.0 -= taken;
        taken
    }

    fn give(&mut self, bytes: u32) {
        self.0 += bytes;
    }
}
