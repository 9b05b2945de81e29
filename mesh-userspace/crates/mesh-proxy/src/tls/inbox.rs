//! What arrives: bytes from the socket, decrypted in place.
//!
//! ```text
//!  ┌───────────────┬──────────────────────────┬───────────────┬────────┐
//!  │ handed over   │ decrypted (`payloads`)   │ still sealed  │ free   │
//!  └───────────────┴──────────────────────────┴───────────────┴────────┘
//!                                             opened          filled
//! ```
//! A record that has not arrived whole is moved to a small allocation of its size when the turn ends, so that a peer that
//! stops in the middle of one holds no buffer.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::TlsError;
use super::buffer::Buffer;
use super::handshake::Keys;
use super::record::{self, Opener};
use crate::socket::{self, Taken};

/// Records that are decrypted before they are handed over: so few that they stay in the cache.
const BATCH: usize = 32;

/// Records in a row without application bytes that we put up with. rustls has the same limit for the same reason: each
/// costs us work and the peer next to nothing.
const EMPTY_LIMIT: u8 = 32;

/// What arrives.
#[derive(Default)]
pub(crate) struct Inbox {
    buffer: Option<Buffer>,
    /// 0 <= opened <= filled <= buffer length
    opened: usize,
    filled: usize,
    payloads: Vec<Range<usize>>,
    /// 0 <= consumed <= payloads.len()
    consumed: usize,
    /// The beginning of a record, while no buffer is held.
    partial: Vec<u8>,
    /// Plaintexts that came with the end of the handshake.
    early: VecDeque<Vec<u8>>,
    /// There are bytes that nobody has tried to decrypt: they may be whole records.
    fresh: bool,
    empty_in_a_row: u8,
    closed: bool,
    /// An error behind plaintexts that had to be handed over first.
    failure: Option<TlsError>,
}

/// What there was besides application bytes.
#[derive(Default)]
pub(super) struct Outcome {
    /// The peer closed its direction.
    pub(super) closed: bool,
    /// The peer wants our keys renewed.
    pub(super) update_requested: bool,
}

impl Inbox {
    /// Begins with what the handshake left over: plaintexts, and bytes that are still sealed.
    pub(super) fn new(early: VecDeque<Vec<u8>>, partial: Vec<u8>) -> Self {
        Self {
            early,
            fresh: !partial.is_empty(),
            partial,
            ..Self::default()
        }
    }

    /// Whether there may be plaintexts without reading first.
    pub(crate) fn has_early(&self) -> bool {
        self.fresh || !self.early.is_empty()
    }

    /// Reads what has arrived. Ready with `false` at the end of the connection.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        socket: &TcpStream,
    ) -> Poll<io::Result<bool>> {
        loop {
            // Asked first, so that a wake-up for nothing costs neither a system call nor a buffer.
            ready!(socket.poll_read_ready(cx))?;
            self.make_room();
            let Some(buffer) = self.buffer.as_mut() else {
                return Poll::Ready(Ok(true));
            };
            match socket::read(socket, &mut buffer[self.filled..])? {
                Taken::More(count) | Taken::Last(count) => {
                    self.filled += count;
                    self.fresh = true;
                    return Poll::Ready(Ok(true));
                }
                Taken::Finished => return Poll::Ready(Ok(false)),
                Taken::Nothing => {}
            }
        }
    }

    /// Everything that is decrypted was handed over; what is not moves to the front.
    fn make_room(&mut self) {
        let partial = std::mem::take(&mut self.partial);
        let buffer = self.buffer.get_or_insert_with(Buffer::take);
        if partial.is_empty() {
            buffer.copy_within(self.opened..self.filled, 0);
            self.filled -= self.opened;
        } else {
            buffer[..partial.len()].copy_from_slice(&partial);
            self.filled = partial.len();
        }
        self.opened = 0;
    }

    /// Decrypts the next batch. The one before must have been handed over.
    pub(super) fn open_records(
        &mut self,
        opener: &mut Opener,
        keys: &mut Keys,
    ) -> Result<Outcome, TlsError> {
        let mut outcome = Outcome::default();
        self.payloads.clear();
        self.consumed = 0;
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.early.is_empty() {
            if std::mem::take(&mut self.fresh) && self.buffer.is_none() {
                self.make_room();
            }
            while self.payloads.len() < BATCH && !self.closed {
                match self.open_record(opener, keys, &mut outcome) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) if self.payloads.is_empty() => return Err(error),
                    Err(error) => {
                        self.failure = Some(error);
                        break;
                    }
                }
            }
            // What follows a full batch may be whole records: nothing more need arrive for them.
            self.fresh = self.payloads.len() == BATCH && !self.closed;
        }
        outcome.closed = self.closed;
        Ok(outcome)
    }

    /// Decrypts one record. Returns whether there was one.
    fn open_record(
        &mut self,
        opener: &mut Opener,
        keys: &mut Keys,
        outcome: &mut Outcome,
    ) -> Result<bool, TlsError> {
        let Some(buffer) = self.buffer.as_mut() else {
            return Ok(false);
        };
        let Some(opened) = opener.open(&mut buffer[..self.filled], self.opened)? else {
            return Ok(false);
        };
        self.opened = opened.end;
        let payload = &buffer[opened.payload.clone()];
        match opened.content {
            record::APPLICATION if !payload.is_empty() => {
                self.empty_in_a_row = 0;
                self.payloads.push(opened.payload);
                return Ok(true);
            }
            record::APPLICATION => {}
            record::ALERT => match payload {
                [_, record::CLOSE_NOTIFY] => self.closed = true,
                &[_, alert] => return Err(TlsError::Alert(alert)),
                _ => return Err(TlsError::Record("its alert is malformed")),
            },
            record::HANDSHAKE => outcome.update_requested |= keys.received(payload, opener)?,
            _ => return Err(TlsError::Record("its content type is not allowed")),
        }
        self.empty_in_a_row += 1;
        if self.empty_in_a_row > EMPTY_LIMIT {
            return Err(TlsError::Record("too many carry no application bytes"));
        }
        Ok(true)
    }

    /// The plaintexts of the batch, record by record.
    pub(crate) fn payloads(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        let buffer: &[u8] = self.buffer.as_deref().unwrap_or_default();
        Payloads {
            early: self.early.front().map(Vec::as_slice),
            buffer,
            ranges: self.payloads[self.consumed..].iter(),
        }
    }

    /// So many plaintexts were handed over, each whole.
    pub(crate) fn handed_over(&mut self, records: usize) {
        if records > 0 && self.early.pop_front().is_none() {
            self.consumed += records;
        }
    }

    /// So many bytes of the plaintexts were handed over.
    pub(crate) fn consume(&mut self, mut bytes: usize) {
        if let Some(early) = self.early.front_mut() {
            early.drain(..bytes);
            if early.is_empty() {
                self.early.pop_front();
            }
            return;
        }
        for range in &mut self.payloads[self.consumed..] {
            let taken = bytes.min(range.len());
            range.start += taken;
            bytes -= taken;
            if range.start < range.end {
                break;
            }
            self.consumed += 1;
        }
    }

    /// Bytes that are held beyond this turn.
    #[cfg(feature = "fuzzing")]
    pub(super) fn held(&self) -> usize {
        self.partial.len() + self.early.iter().map(Vec::len).sum::<usize>()
    }

    /// Ends a turn: gives the buffer back, unless it holds plaintexts that nobody has taken, or whole records.
    pub(crate) fn release(&mut self) {
        if self.fresh || self.consumed < self.payloads.len() {
            return;
        }
        if let Some(buffer) = self.buffer.take() {
            self.partial = buffer[self.opened..self.filled].to_vec();
            (self.opened, self.filled) = (0, 0);
        }
    }
}

/// Either the one plaintext that came early, or those in the buffer.
#[derive(Clone)]
struct Payloads<'a> {
    early: Option<&'a [u8]>,
    buffer: &'a [u8],
    ranges: std::slice::Iter<'a, Range<usize>>,
}

impl<'a> Iterator for Payloads<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.early.take().or_else(|| {
            let range = self.ranges.next()?;
            Some(&self.buffer[range.clone()])
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.ranges.len() + usize::from(self.early.is_some());
        (count, Some(count))
    }
}

impl ExactSizeIterator for Payloads<'_> {}
