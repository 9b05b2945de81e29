//! RAW: a stream that moves much and is alone in its tunnel drops the frames.
//!
//! ```text
//!   dialling side                              accepting side
//!   alone, moves much:   RAW ────────────────► its last frame: from here plain bytes
//!   still frames         ◄──────────────────── frames that were under way
//!                        ◄──────────────── RAW answers, unless its application has finished already
//!   plain bytes          ◄───────────────────►
//! ```
//! Each direction changes at its own RAW, which is the last frame of its record. Only the dialling side begins, because
//! it alone knows that no OPEN is under way; the tunnel takes no further stream from then on.
//!
//! | a frame said | now it is |
//! |---|---|
//! | DATA | the record itself |
//! | CREDIT | TCP's own flow control: nothing is read from the tunnel before the application took what came before |
//! | FIN | close_notify, by which TLS closes one direction |
//! | RESET | an alert that says why; and, because it stands behind what nobody reads, soon a reset of the connection |
//!
//! This is what makes it worth while: with frames, everything must be read so that CREDIT and RESET are seen, and what the
//! application does not take at once is copied and kept. Without, bytes stay where they were decrypted, and then in the
//! kernel.

use std::io;

use super::error::TunnelError;
use super::receive::reset_reason;
use super::state::{End, Side, State};
use super::table::Streams;
use crate::tls::{Channel, TlsError};
use crate::wire::{Frame, HEADER, ResetCode};

/// Alerts (RFC 8446 §6) for the codes of RESET.
const ALERTS: [(ResetCode, u8); 6] = [
    (ResetCode::Application, 90),
    (ResetCode::PolicyRevoked, 49),
    (ResetCode::IdentityRevoked, 44),
    (ResetCode::Drained, 112),
    (ResetCode::Overloaded, 22),
    (ResetCode::Fault, 80),
];

const CLOSE_NOTIFY: u8 = 0;

/// Which directions of a tunnel are raw.
#[derive(Default)]
pub(super) struct Raw {
    sends: Sends,
    receives: Receives,
}

#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Sends {
    #[default]
    Frames,
    Bytes,
    /// An alert is to be sent, behind everything.
    Alert(u8),
    /// close_notify was sent.
    Closed,
    /// The stream was reset by us.
    Reset,
}

#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum Receives {
    #[default]
    Frames,
    Bytes(u32),
    Nothing,
}

impl Raw {
    /// Whether our direction is raw.
    pub(super) fn sends(&self) -> bool {
        self.sends != Sends::Frames
    }

    /// Whether the peer's direction is raw.
    pub(super) fn receives(&self) -> bool {
        self.receives != Receives::Frames
    }

    /// Whether either is.
    pub(super) fn is_used(&self) -> bool {
        self.sends() || self.receives()
    }

    /// Whether our direction was closed.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.sends, Sends::Closed | Sends::Reset)
    }

    /// Whether we reset the stream.
    pub(super) fn is_reset(&self) -> bool {
        self.sends == Sends::Reset
    }

    /// Whether the peer's direction was closed.
    pub(super) fn has_received_all(&self) -> bool {
        self.receives == Receives::Nothing
    }

    /// Says what a frame says, as far as there is a way to and anything is left to say.
    pub(super) fn say(&mut self, frame: &Frame<'_>) {
        let alert = match frame {
            Frame::Fin { .. } => CLOSE_NOTIFY,
            Frame::Reset { code, .. } => alert_of(*code),
            _ => return,
        };
        self.sends = match self.sends {
            Sends::Bytes | Sends::Alert(CLOSE_NOTIFY) => Sends::Alert(alert),
            // Nothing may follow close_notify.
            Sends::Closed if alert != CLOSE_NOTIFY => Sends::Reset,
            other => other,
        };
    }

    /// The alert that is to be sent now, once.
    pub(super) fn take_alert(&mut self) -> Option<u8> {
        match self.sends {
            Sends::Alert(CLOSE_NOTIFY) => {
                self.sends = Sends::Closed;
                Some(CLOSE_NOTIFY)
            }
            Sends::Alert(alert) => {
                self.sends = Sends::Reset;
                Some(alert)
            }
            _ => None,
        }
    }
}

impl Streams {
    /// Begins, if that is possible and worth while. Returns whether it did.
    pub(super) fn go_raw(&mut self, channel: &mut Channel) -> Result<bool, TunnelError> {
        if self.side != Side::Dialling
            || self.raw.is_used()
            || self.table.len() != 1
            || self.mailbox.load() != 1
            || !self.control.is_empty()
            || !self.mailbox.is_bulk()
            || channel.outbox.room() < HEADER
        {
            return Ok(false);
        }
        let Some((id, stream)) = self.table.iter().next() else {
            return Ok(false);
        };
        if stream.state != State::Open {
            return Ok(false);
        }
        self.mailbox.retire();
        self.send_raw(*id, channel)?;
        Ok(true)
    }

    /// Says RAW, as the last frame of its record and of our direction.
    fn send_raw(&mut self, id: u32, channel: &mut Channel) -> Result<(), TunnelError> {
        let mut frame = Vec::with_capacity(HEADER);
        Frame::Raw { stream: id }.encode(&mut frame);
        channel.outbox.append(&frame);
        channel.seal()?;
        self.raw.sends = Sends::Bytes;
        if let Some(stream) = self.table.get(&id) {
            // It may have waited for credit.
            stream.entry.push();
        }
        Ok(())
    }

    /// RAW from the peer.
    pub(super) fn peer_goes_raw(&mut self, id: u32) -> Result<(), TunnelError> {
        let side = self.side;
        if side == Side::Dialling && !self.raw.sends() {
            return Err(TunnelError::Unexpected("RAW"));
        }
        let others = self
            .table
            .iter()
            .any(|(other, stream)| *other != id && stream.state.ended() != Some(End::Finished));
        if others
            || self
                .known(id)?
                .is_some_and(|stream| stream.state.is_opening())
        {
            return Err(TunnelError::Unexpected("RAW among other streams"));
        }
        if let Some(stream) = self.known(id)? {
            stream.state.remote_data(side)?;
        }
        self.mailbox.retire();
        self.raw.receives = Receives::Bytes(id);
        Ok(())
    }

    /// Answers RAW with RAW, before anything else is sent.
    pub(super) fn answer_raw(&mut self, channel: &mut Channel) -> Result<(), TunnelError> {
        let Receives::Bytes(id) = self.raw.receives else {
            return Ok(());
        };
        let may_send = |stream: &super::stream::Stream| stream.state.may_send(self.side);
        if self.raw.sends()
            || !self.control.is_empty()
            || !self.table.get(&id).is_some_and(may_send)
            || channel.outbox.room() < HEADER
        {
            return Ok(());
        }
        self.send_raw(id, channel)
    }

    /// Hands plain bytes over. `None` when the application takes nothing now.
    pub(super) fn hand_over_raw<'a>(
        &mut self,
        payloads: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Result<Option<usize>, TunnelError> {
        let Receives::Bytes(id) = self.raw.receives else {
            return Ok(Some(payloads.map(<[u8]>::len).sum()));
        };
        let side = self.side;
        let Some(stream) = self.table.get_mut(&id) else {
            // It ended here while these were under way, and the peer has been told.
            return Ok(Some(payloads.map(<[u8]>::len).sum()));
        };
        stream.state.remote_data(side)?;
        let Some(app) = &mut stream.app else {
            return Ok(None);
        };
        match app.write_some(payloads, &stream.entry) {
            Ok(Some(taken)) => {
                stream.count_remote(side, taken);
                Ok(Some(taken))
            }
            Ok(None) => Ok(None),
            Err(error) => {
                stream.broke(&error);
                self.settle(id)?;
                Ok(Some(0))
            }
        }
    }

    /// close_notify: the peer's application has finished.
    pub(super) fn raw_finished(&mut self) -> Result<(), TunnelError> {
        let Receives::Bytes(id) = self.raw.receives else {
            return Ok(());
        };
        self.raw.receives = Receives::Nothing;
        let side = self.side;
        if let Some(stream) = self.table.get_mut(&id) {
            stream.state.remote_finished(side)?;
            stream.tell_finished(side);
        }
        self.settle(id)
    }

    /// An alert, or a reset of the connection. Returns whether it says what RESET would have said.
    pub(super) fn raw_reset(&mut self, error: &TlsError) -> Result<bool, TunnelError> {
        let code = match error {
            TlsError::Alert(alert) => ALERTS
                .iter()
                .find(|(_, known)| known == alert)
                .map(|(code, _)| *code),
            TlsError::Socket(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Some(ResetCode::Application)
            }
            _ => None,
        };
        let Some(code) = code else { return Ok(false) };
        self.raw.receives = Receives::Nothing;
        // The tunnel has no other.
        for id in self.table.keys().copied().collect::<Vec<_>>() {
            if let Some(stream) = self.table.get_mut(&id) {
                stream.reset_by_peer(reset_reason(code).map_or(End::RemoteReset, End::Cut));
            }
            self.settle(id)?;
        }
        Ok(true)
    }
}

fn alert_of(code: ResetCode) -> u8 {
    ALERTS
        .iter()
        .find(|(known, _)| *known == code)
        .map_or(CLOSE_NOTIFY, |(_, alert)| *alert)
}
