//! What the peer sends: each frame goes to its stream, straight from where it was decrypted.

use std::time::Instant;

use super::app::SLICES;
use super::error::TunnelError;
use super::state::End;
use super::stream::{Opening, Stream};
use super::table::{Streams, refusal_reason};
use crate::wire::{self, Frame, Refusal, ResetCode};
use mesh_core::outcome::Reason;

/// DATA of one stream, from frames that follow each other: written with one system call.
struct Run<'a> {
    stream: u32,
    slices: [&'a [u8]; SLICES],
    /// 0 <= count <= SLICES
    count: usize,
}

impl Streams {
    /// Handles the records of one batch. Returns how many of them: none behind RAW.
    pub(super) fn receive<'a>(
        &mut self,
        records: impl Iterator<Item = &'a [u8]>,
    ) -> Result<usize, TunnelError> {
        let mut handled = 0;
        let mut run = Run {
            stream: 0,
            slices: [&[]; SLICES],
            count: 0,
        };
        for record in records {
            handled += 1;
            for frame in wire::frames(record) {
                if self.raw.receives() {
                    return Err(TunnelError::Unexpected("frame behind RAW"));
                }
                match frame? {
                    Frame::Data { stream, bytes } => {
                        if run.stream != stream || run.count == SLICES {
                            self.deliver(&mut run)?;
                        }
                        run.stream = stream;
                        run.slices[run.count] = bytes;
                        run.count += 1;
                    }
                    frame => {
                        self.deliver(&mut run)?;
                        self.control_frame(frame)?;
                    }
                }
            }
            if self.raw.receives() {
                break;
            }
        }
        self.deliver(&mut run)?;
        Ok(handled)
    }

    fn control_frame(&mut self, frame: Frame<'_>) -> Result<(), TunnelError> {
        match frame {
            Frame::Open { stream, open } => {
                self.check_new(stream)?;
                self.offered(stream, *open)
            }
            Frame::OpenResult { stream, result } => self.open_result(stream, result),
            Frame::Fin { stream } => {
                let side = self.side;
                if let Some(known) = self.known(stream)? {
                    known.state.remote_finished(side)?;
                    known.tell_finished(side);
                }
                self.settle(stream)
            }
            Frame::Reset { stream, code } => self.reset(stream, code),
            Frame::Credit { stream, bytes } => self.credit(stream, bytes),
            Frame::Drain => {
                self.mailbox.retire();
                Ok(())
            }
            Frame::Raw { stream } => self.peer_goes_raw(stream),
            // Handled by the caller, which sees runs of them.
            Frame::Data { .. } => Ok(()),
        }
    }

    fn reset(&mut self, id: u32, code: ResetCode) -> Result<(), TunnelError> {
        if let Some(stream) = self.known(id)? {
            let unanswered = matches!(stream.opening, Opening::Awaited { .. });
            stream.reset_by_peer(reset_reason(code).map_or(End::RemoteReset, End::Cut));
            if unanswered && !self.hasty.spend(Instant::now()) {
                return Err(TunnelError::Flood(
                    "it resets streams faster than they can be answered",
                ));
            }
        }
        self.settle(id)
    }

    /// Hands a run of DATA to its application.
    fn deliver(&mut self, run: &mut Run<'_>) -> Result<(), TunnelError> {
        let slices = &run.slices[..std::mem::take(&mut run.count)];
        if slices.is_empty() {
            return Ok(());
        }
        let side = self.side;
        let total = slices.iter().map(|slice| slice.len()).sum();
        let Some(stream) = self.known(run.stream)? else {
            return self.late_data(total);
        };
        // A stream that has ended here, but whose end has not been told yet, takes nothing more.
        stream.state.remote_data(side)?;
        stream.window.received(total)?;
        match stream.hand_over(slices) {
            Ok(0) => Ok(()),
            Ok(taken) => self.took(run.stream, taken),
            Err(error) => {
                stream.broke(&error);
                self.settle(run.stream)
            }
        }
    }

    /// An application took bytes: their credit goes back to the peer.
    pub(super) fn took(&mut self, id: u32, bytes: usize) -> Result<(), TunnelError> {
        let side = self.side;
        let Some(stream) = self.table.get_mut(&id) else {
            return Ok(());
        };
        stream.count_remote(side, bytes);
        let grant = stream
            .window
            .delivered(bytes, Instant::now, &mut self.spare);
        match grant {
            // After FIN nothing more may come.
            Some(bytes) if !stream.state.is_remote_finished(side) => {
                if let Some(now) = stream.receiving.moves_much(bytes, Instant::now) {
                    self.mailbox.moved_much(now);
                }
                self.say(&Frame::Credit { stream: id, bytes })
            }
            _ => Ok(()),
        }
    }

    fn open_result(&mut self, id: u32, result: Result<(), Refusal>) -> Result<(), TunnelError> {
        if self.acceptor.is_some() {
            return Err(TunnelError::Unexpected("OPEN_RESULT"));
        }
        let side = self.side;
        let Some(stream) = self.known(id)? else {
            return Ok(());
        };
        match result {
            Ok(()) => {
                stream.state.accepted(side)?;
                stream.take_answer();
            }
            Err(refusal) => {
                stream.state.refused(refusal_reason(refusal.code))?;
                stream.detail = Some(refusal.detail);
            }
        }
        self.settle(id)
    }

    fn credit(&mut self, id: u32, bytes: u32) -> Result<(), TunnelError> {
        let raw = self.raw.sends();
        let Some(stream) = self.known(id)?.filter(|_| !raw) else {
            return Ok(());
        };
        if stream.credit.granted(bytes)? {
            stream.entry.push();
        }
        if let Some(now) = stream.sending.moves_much(bytes, Instant::now) {
            self.mailbox.moved_much(now);
        }
        Ok(())
    }

    /// A stream that is open, or `None` for one that was: its last frames may still have been under way. One that never
    /// was is a breach of the protocol.
    pub(super) fn known(&mut self, id: u32) -> Result<Option<&mut Stream>, TunnelError> {
        if id.is_multiple_of(2) || id > self.highest {
            return Err(TunnelError::Unexpected(
                "frame of a stream that was never opened",
            ));
        }
        Ok(self.table.get_mut(&id))
    }

    fn check_new(&mut self, id: u32) -> Result<(), TunnelError> {
        if self.acceptor.is_none() {
            return Err(TunnelError::Unexpected("OPEN"));
        }
        if id.is_multiple_of(2) || id <= self.highest {
            return Err(TunnelError::Unexpected(
                "stream number: they are odd and grow",
            ));
        }
        self.highest = id;
        Ok(())
    }

    /// DATA of a stream that has ended here: the peer did not know yet, within its credit.
    fn late_data(&mut self, bytes: usize) -> Result<(), TunnelError> {
        self.late = self
            .late
            .checked_sub(bytes as u64)
            .ok_or(TunnelError::Flood("it goes on sending on closed streams"))?;
        Ok(())
    }
}

impl Stream {
    /// The peer's application took the connection: nothing need be kept any more.
    fn take_answer(&mut self) {
        if let Opening::Offered { answer, .. } = std::mem::replace(&mut self.opening, Opening::Done)
            && answer.send(Ok(())).is_err()
        {
            // The story has gone: nobody would account for this connection.
            self.state.cut(Reason::ClientReset);
        }
    }

    /// RESET takes effect even where only the last bytes had still to be delivered.
    pub(super) fn reset_by_peer(&mut self, end: End) {
        match end {
            End::Cut(reason) => self.state.cut(reason),
            _ => self.state.remote_reset(),
        }
        self.told = true;
    }
}

/// `None` where it was the application itself.
pub(super) fn reset_reason(code: ResetCode) -> Option<Reason> {
    match code {
        ResetCode::Application => None,
        ResetCode::PolicyRevoked => Some(Reason::PolicyRevoked),
        ResetCode::IdentityRevoked => Some(Reason::IdentityRevoked),
        ResetCode::Drained => Some(Reason::Drained),
        ResetCode::Overloaded => Some(Reason::Overloaded),
        ResetCode::Fault => Some(Reason::Fault),
    }
}
