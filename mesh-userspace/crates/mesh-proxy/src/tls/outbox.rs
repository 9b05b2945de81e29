//! What leaves: payloads are written where they will be encrypted, records are encrypted in place, and many of them leave
//! in one write.
//!
//! ```text
//!  ┌──────────────┬────────────────────┬─────────────────────────────┬────────┐
//!  │ written      │ encrypted          │ record being filled (open)  │ free   │
//!  └──────────────┴────────────────────┴─────────────────────────────┴────────┘
//!                 sent                 sealed
//! ```

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::TlsError;
use super::buffer::{Buffer, CAPACITY, RECORDS};
use super::handshake::Keys;
use super::record::{self, Sealer};
use crate::socket;

/// Room that is kept for what must always fit behind the payloads: an alert, a renewal of keys.
const RESERVE: usize = 2 * (record::HEAD + record::TAIL + 8);

/// A renewal of our keys that asks for none in return (RFC 8446 §4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// What leaves.
#[derive(Default)]
pub(crate) struct Outbox {
    buffer: Option<Buffer>,
    /// 0 <= sent <= sealed <= buffer length
    sent: usize,
    sealed: usize,
    /// Payload bytes in the record that begins at `sealed`.
    open: usize,
}

impl Outbox {
    /// Begins with the bytes that the handshake has left to say.
    pub(super) fn new(flight: &[u8]) -> Self {
        let mut outbox = Self::default();
        if !flight.is_empty() {
            outbox.buffer()[..flight.len()].copy_from_slice(flight);
            outbox.sealed = flight.len();
        }
        outbox
    }

    /// Payload bytes that the record being filled still takes.
    pub(crate) fn room(&self) -> usize {
        let taken = self.sealed + record::HEAD + self.open + record::TAIL + RESERVE;
        CAPACITY
            .saturating_sub(taken)
            .min(record::MAX_PAYLOAD - self.open)
    }

    /// The free part of the record being filled; [`Self::room`] bytes of it.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let begin = self.sealed + record::HEAD + self.open;
        let room = self.room();
        &mut self.buffer()[begin..begin + room]
    }

    /// So many bytes of [`Self::space`] were filled.
    pub(crate) fn filled(&mut self, count: usize) {
        self.open += count;
    }

    /// Appends bytes that [`Self::room`] has room for.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        self.space()[..bytes.len()].copy_from_slice(bytes);
        self.filled(bytes.len());
    }

    /// Encrypts the record being filled, so that the next begins. Renews worn keys first.
    pub(super) fn seal(&mut self, sealer: &mut Sealer, keys: &mut Keys) -> Result<(), TlsError> {
        if self.open > 0 {
            let open = std::mem::take(&mut self.open);
            let begin = self.sealed;
            let record = &mut self.buffer()[begin..];
            self.sealed += sealer.seal(record::APPLICATION, record, open)?;
        }
        if sealer.is_worn() {
            self.update_keys(sealer, keys)?;
        }
        Ok(())
    }

    /// Whether there is room for whole records from here: how many, if the record being filled is empty.
    pub(crate) fn whole_records(&self) -> usize {
        (CAPACITY - RESERVE).saturating_sub(self.sealed) / record::MAX_SIZE
    }

    /// The payload areas of the next `count` records, each without its first `skip` bytes, to be filled by one system
    /// call. Nothing may be in the record being filled.
    pub(crate) fn areas(
        &mut self,
        count: usize,
        skip: usize,
    ) -> ([IoSliceMut<'_>; RECORDS], usize) {
        let begin = self.sealed;
        let mut areas: [IoSliceMut<'_>; RECORDS] =
            std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut used = 0;
        for (area, record) in areas
            .iter_mut()
            .zip(self.buffer()[begin..].chunks_exact_mut(record::MAX_SIZE))
            .take(count)
        {
            *area = IoSliceMut::new(
                &mut record[record::HEAD + skip..record::HEAD + record::MAX_PAYLOAD],
            );
            used += 1;
        }
        (areas, used)
    }

    /// `count` bytes were read into [`Self::areas`]: encrypts record after record, with what `head` says of each payload's
    /// length in front of it.
    pub(super) fn seal_areas<const SKIP: usize>(
        &mut self,
        sealer: &mut Sealer,
        mut count: usize,
        head: impl Fn(usize) -> [u8; SKIP],
    ) -> Result<(), TlsError> {
        while count > 0 {
            let length = count.min(record::MAX_PAYLOAD - SKIP);
            let begin = self.sealed;
            let record = &mut self.buffer()[begin..];
            record[record::HEAD..record::HEAD + SKIP].copy_from_slice(&head(length));
            self.sealed += sealer.seal(record::APPLICATION, record, SKIP + length)?;
            count -= length;
        }
        Ok(())
    }

    /// Announces our next keys, and takes them.
    pub(super) fn update_keys(
        &mut self,
        sealer: &mut Sealer,
        keys: &mut Keys,
    ) -> Result<(), TlsError> {
        self.control(sealer, record::HANDSHAKE, &KEY_UPDATE)?;
        *sealer = keys.renew()?;
        Ok(())
    }

    /// Appends an alert behind everything else.
    pub(super) fn alert(
        &mut self,
        sealer: &mut Sealer,
        keys: &mut Keys,
        alert: u8,
    ) -> Result<(), TlsError> {
        const WARNING: u8 = 1;
        self.seal(sealer, keys)?;
        self.control(sealer, record::ALERT, &[WARNING, alert])
    }

    /// Appends a record of TLS's own.
    fn control(
        &mut self,
        sealer: &mut Sealer,
        content: u8,
        message: &[u8],
    ) -> Result<(), TlsError> {
        if self.open > 0 {
            let open = std::mem::take(&mut self.open);
            let begin = self.sealed;
            self.sealed += sealer.seal(record::APPLICATION, &mut self.buffer()[begin..], open)?;
        }
        let begin = self.sealed;
        let size = record::HEAD + message.len() + record::TAIL;
        if begin + size > CAPACITY {
            return Err(TlsError::Record("the peer asks more often than it reads"));
        }
        let record = &mut self.buffer()[begin..];
        record[record::HEAD..record::HEAD + message.len()].copy_from_slice(message);
        self.sealed += sealer.seal(content, record, message.len())?;
        Ok(())
    }

    /// Writes what is encrypted. Ready when nothing is left; the buffer has been given back then.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        socket: &TcpStream,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.sealed {
            let Some(buffer) = &self.buffer else { break };
            let bytes = &buffer[self.sent..self.sealed];
            match socket::written(socket.try_write(bytes))? {
                0 => ready!(socket.poll_write_ready(cx))?,
                count => self.sent += count,
            }
        }
        if self.open == 0 {
            (self.sent, self.sealed) = (0, 0);
            self.buffer = None;
        }
        Poll::Ready(Ok(()))
    }

    fn buffer(&mut self) -> &mut Buffer {
        self.buffer.get_or_insert_with(Buffer::take)
    }
}
