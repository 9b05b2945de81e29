//! What our applications send: every socket that is ready is read straight into the record being filled, and whole
//! records are encrypted and written together.

use std::io;

use super::error::TunnelError;
use super::stream::{Opening, Stream};
use super::table::Streams;
use crate::socket::Taken;
use crate::tls::Channel;
use crate::wire::{self, Frame, HEADER, MAX_PAYLOAD};

/// Less room than this in a record is not worth a read: the next record begins.
const WORTHWHILE: usize = 4096;

/// Records that one stream may fill in a visit while others wait.
const SHARE: usize = 4;

/// Records that a stream may fill in a visit while no other waits.
const ALONE: usize = 16;

/// Whether there is room for what applications send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Room {
    /// There is.
    Free,
    /// The peer has to read first.
    Full,
}

impl Streams {
    /// There is room again for the streams that waited for it.
    pub(super) fn room_again(&mut self) {
        for id in self.waiting.drain(..) {
            if let Some(stream) = self.table.get_mut(&id) {
                stream.waits = false;
                stream.entry.push();
            }
        }
    }

    fn wait_for_room(&mut self, id: u32) {
        let Some(stream) = self.table.get_mut(&id) else {
            return;
        };
        if !std::mem::replace(&mut stream.waits, true) {
            self.waiting.push(id);
        }
        stream.watch();
    }

    /// Visits each stream that is ready, once. Returns whether there was any, or anything to say.
    pub(super) fn visit_ready(
        &mut self,
        channel: &mut Channel,
        mut room: Room,
    ) -> Result<bool, TunnelError> {
        let mut something = false;
        if room == Room::Free {
            something |= !self.control.is_empty();
            room = self.send_control(channel)?;
            self.answer_raw(channel)?;
        }
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop() else { break };
            let Some(stream) = self.table.get_mut(&id) else {
                continue;
            };
            something = true;
            stream.entry.popped();
            self.hand_over_pending(id)?;
            if room == Room::Free {
                room = self.take_from(id, channel)?;
            } else {
                self.wait_for_room(id);
            }
            self.settle(id)?;
            // FIN and RESET follow their stream's DATA at once, and CREDIT should not wait for the next turn.
            if room == Room::Free && !self.control.is_empty() {
                room = self.send_control(channel)?;
            }
        }
        Ok(something)
    }

    /// Moves control frames into records, whole ones only.
    pub(super) fn send_control(&mut self, channel: &mut Channel) -> Result<Room, TunnelError> {
        let mut sent = 0;
        while sent < self.control.len() {
            let fits = whole_frames(&self.control[sent..], channel.outbox.room());
            if fits > 0 {
                channel.outbox.append(&self.control[sent..sent + fits]);
                sent += fits;
            } else {
                channel.seal()?;
                if channel.outbox.room() < wire::MAX_RECORD {
                    self.control.drain(..sent);
                    return Ok(Room::Full);
                }
            }
        }
        self.control.clear();
        if self.control.capacity() > wire::MAX_RECORD {
            self.control = Vec::new();
        }
        Ok(Room::Free)
    }

    /// Hands over what the application did not take at once.
    fn hand_over_pending(&mut self, id: u32) -> Result<(), TunnelError> {
        let side = self.side;
        let Some(stream) = self.table.get_mut(&id) else {
            return Ok(());
        };
        let Some(app) = &mut stream.app else {
            return Ok(());
        };
        if app.has_pending() {
            match app.flush(&stream.entry) {
                Ok(0) => {}
                Ok(taken) => self.took(id, taken)?,
                Err(error) => stream.broke(&error),
            }
        }
        if let Some(stream) = self.table.get_mut(&id) {
            stream.tell_finished(side);
        }
        Ok(())
    }

    /// Reads what the application has to send, as far as credit and room go.
    fn take_from(&mut self, id: u32, channel: &mut Channel) -> Result<Room, TunnelError> {
        let others_wait = self.ready.len() > 0;
        let side = self.side;
        let Some(stream) = self.table.get_mut(&id) else {
            return Ok(Room::Free);
        };
        let raw = self.raw.sends();
        if raw {
            // There are no frames that could give credit any more; TCP itself says when to stop.
            stream.credit.lift();
        }
        if !stream.state.may_send(side) || stream.credit.left() == 0 {
            stream.watch();
            return Ok(Room::Free);
        }
        if channel.outbox.room() < HEADER + WORTHWHILE {
            channel.seal()?;
            if channel.outbox.room() < HEADER + WORTHWHILE {
                self.wait_for_room(id);
                return Ok(Room::Full);
            }
        }
        let whole = (stream.credit.left() / MAX_PAYLOAD)
            .min(channel.outbox.whole_records())
            .min(if others_wait { SHARE } else { ALONE });
        let taken = if stream.eager && whole > 1 && !stream.state.is_opening() {
            if raw {
                stream.take_records(channel, whole, |_| [])?
            } else {
                stream.take_records(channel, whole, |length| {
                    wire::header(wire::code::DATA, length, id)
                })?
            }
        } else if raw {
            stream.take_one(channel, |_| [])
        } else {
            stream.take_one(channel, |length| wire::header(wire::code::DATA, length, id))
        };
        if stream.took_locally(taken, side) {
            self.say(&Frame::Fin { stream: id })?;
        }
        Ok(Room::Free)
    }
}

impl Stream {
    /// Reads into the record being filled, behind what `head` says of the length.
    fn take_one<const SKIP: usize>(
        &mut self,
        channel: &mut Channel,
        head: impl Fn(usize) -> [u8; SKIP],
    ) -> io::Result<Taken> {
        let Some(app) = &mut self.app else {
            return Ok(Taken::Nothing);
        };
        let room = channel.outbox.room() - SKIP;
        let limit = room.min(self.credit.left());
        let space = channel.outbox.space();
        let taken = app.read(&mut space[SKIP..SKIP + limit])?;
        if let Taken::More(count) | Taken::Last(count) = taken {
            if let Opening::Offered { kept, .. } = &mut self.opening {
                kept.extend_from_slice(&space[SKIP..SKIP + count]);
            }
            space[..SKIP].copy_from_slice(&head(count));
            channel.outbox.filled(SKIP + count);
        }
        self.eager = matches!(taken, Taken::More(count) if count >= WORTHWHILE);
        Ok(taken)
    }

    /// Reads into the next records with one system call. `Err` inside is the application's error.
    fn take_records<const SKIP: usize>(
        &mut self,
        channel: &mut Channel,
        records: usize,
        head: impl Fn(usize) -> [u8; SKIP],
    ) -> Result<io::Result<Taken>, TunnelError> {
        channel.seal()?;
        let Some(app) = &mut self.app else {
            return Ok(Ok(Taken::Nothing));
        };
        let (mut areas, used) = channel.outbox.areas(records, SKIP);
        let taken = app.read_areas(&mut areas[..used]);
        if let Ok(Taken::More(count) | Taken::Last(count)) = taken {
            channel.seal_areas(count, head)?;
        }
        self.eager = matches!(taken, Ok(Taken::More(_)));
        Ok(taken)
    }

    /// Draws the conclusions from a read. Returns whether FIN is to be said.
    fn took_locally(&mut self, taken: io::Result<Taken>, side: super::state::Side) -> bool {
        let Some(app) = &mut self.app else {
            return false;
        };
        match taken {
            Ok(Taken::More(count)) => {
                self.entry.push();
                self.credit.used(count);
                self.count_local(side, count);
            }
            Ok(Taken::Last(count)) => {
                app.wait_readable(&self.entry);
                self.credit.used(count);
                self.count_local(side, count);
            }
            Ok(Taken::Nothing) => app.wait_readable(&self.entry),
            Ok(Taken::Finished) => {
                self.state.local_finished();
                self.watch();
                return true;
            }
            Err(error) => self.broke(&error),
        }
        false
    }

    /// Nothing is read from the application for now: a reset has to be noticed all the same.
    fn watch(&mut self) {
        if self.state.ended().is_some() {
            return;
        }
        let Some(app) = &mut self.app else { return };
        if let Err(error) = app.wait_reset(&self.entry) {
            self.broke(&error);
        }
    }
}

/// How many bytes of `control` are whole frames that fit in `room`. They were encoded here, so their lengths are right.
fn whole_frames(control: &[u8], room: usize) -> usize {
    let mut end = 0;
    while let Some(&[_, a, b, c]) = control.get(end..end + 4) {
        let next = end + HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
        if next > room {
            break;
        }
        end = next;
    }
    end
}
