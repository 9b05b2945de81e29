//! The state of one stream, as the events of both applications and of the peer change it. Pure.
//!
//! ```text
//!                     OPEN
//!                       │
//!                  ┌────▼────┐ dialling app finishes  ┌──────────────────┐
//!                  │ Opening ├───────────────────────►│ OpeningFinished  │
//!                  └─┬────┬──┘                        └──┬────────────┬──┘
//!            refused │    │ accepted                     │ accepted   │ refused
//!                    │    │                              │            │
//!                    │ ┌──▼───┐ our app finishes  ┌──────▼────────┐   │
//!                    │ │ Open ├──────────────────►│ LocalFinished │   │   (where we dialled; where the peer
//!                    │ └──┬───┘                   └──────┬────────┘   │    did, it leads to RemoteFinished)
//!                    │    │ FIN                          │ FIN        │
//!                    │ ┌──▼─────────────┐                │            │
//!                    │ │ RemoteFinished │                │            │
//!                    │ └──┬─────────────┘                │            │
//!                    │    │ our app finishes             │            │
//!                    │ ┌──▼──────────────────────────────▼─┐          │
//!                    └►│ Closed(end)                       │◄─────────┘
//!                      └───────────────────────────────────┘
//!                        ▲ from every state: reset by our application, RESET, cut, tunnel lost
//! ```
//! "Finished" means that nothing more will come from there. What has come may still be on its way to the other side.

use mesh_core::outcome::Reason;

/// Which end of a stream, and of its tunnel, we are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    /// Our application dialled.
    Dialling,
    /// Our application is dialled.
    Accepting,
}

/// The state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// The accepting application has not taken the connection yet.
    Opening,
    /// So, and the dialling application has finished already.
    OpeningFinished,
    /// Bytes go both ways.
    Open,
    /// Our application has finished.
    LocalFinished,
    /// The peer's application has finished.
    RemoteFinished,
    /// It is over.
    Closed(End),
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// Both applications finished.
    Finished,
    /// It was never accepted.
    Refused(Reason),
    /// Our application reset it.
    LocalReset,
    /// The peer reset it.
    RemoteReset,
    /// We cut it.
    Cut(Reason),
}

/// A frame that the peer may not send in this state.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{event} on a stream that is {state:?}")]
pub(super) struct Violation {
    event: &'static str,
    state: State,
}

impl State {
    /// The accepting application took the connection.
    pub(super) fn accepted(&mut self, side: Side) -> Result<(), Violation> {
        *self = match (*self, side) {
            (Self::Opening, _) => Self::Open,
            (Self::OpeningFinished, Side::Dialling) => Self::LocalFinished,
            (Self::OpeningFinished, Side::Accepting) => Self::RemoteFinished,
            (state, _) => return violation("OPEN_RESULT", state),
        };
        Ok(())
    }

    /// It did not.
    pub(super) fn refused(&mut self, reason: Reason) -> Result<(), Violation> {
        match *self {
            Self::Opening | Self::OpeningFinished => {
                *self = Self::Closed(End::Refused(reason));
                Ok(())
            }
            state => violation("OPEN_RESULT", state),
        }
    }

    /// Our application has finished.
    pub(super) fn local_finished(&mut self) {
        *self = match *self {
            Self::Opening => Self::OpeningFinished,
            Self::Open => Self::LocalFinished,
            Self::RemoteFinished => Self::Closed(End::Finished),
            state => state,
        };
    }

    /// FIN.
    pub(super) fn remote_finished(&mut self, side: Side) -> Result<(), Violation> {
        *self = match (*self, side) {
            (Self::Opening, Side::Accepting) => Self::OpeningFinished,
            (Self::Open, _) => Self::RemoteFinished,
            (Self::LocalFinished, _) => Self::Closed(End::Finished),
            (state, _) => return violation("FIN", state),
        };
        Ok(())
    }

    /// DATA: changes nothing, but is not always allowed.
    pub(super) fn remote_data(self, side: Side) -> Result<(), Violation> {
        match (self, side) {
            (Self::Opening, Side::Accepting) | (Self::Open | Self::LocalFinished, _) => Ok(()),
            (state, _) => violation("DATA", state),
        }
    }

    /// Our application reset its connection.
    pub(super) fn local_reset(&mut self) {
        self.end(End::LocalReset);
    }

    /// RESET.
    pub(super) fn remote_reset(&mut self) {
        self.end(End::RemoteReset);
    }

    /// We end it: policy, identity, a lost tunnel.
    pub(super) fn cut(&mut self, reason: Reason) {
        self.end(End::Cut(reason));
    }

    /// The first end is the one that is told.
    fn end(&mut self, end: End) {
        if !matches!(self, Self::Closed(_)) {
            *self = Self::Closed(end);
        }
    }

    /// Whether the accepting application has not answered yet.
    pub(super) fn is_opening(self) -> bool {
        matches!(self, Self::Opening | Self::OpeningFinished)
    }

    /// Whether bytes of our application may be read and sent.
    pub(super) fn may_send(self, side: Side) -> bool {
        match self {
            Self::Open | Self::RemoteFinished => true,
            Self::Opening => side == Side::Dialling,
            _ => false,
        }
    }

    /// Whether nothing more will come from the peer, so that our application may be told once it has everything.
    pub(super) fn is_remote_finished(self, side: Side) -> bool {
        match self {
            Self::RemoteFinished | Self::Closed(End::Finished) => true,
            Self::OpeningFinished => side == Side::Accepting,
            _ => false,
        }
    }

    /// How it ended, if it did.
    pub(super) fn ended(self) -> Option<End> {
        match self {
            Self::Closed(end) => Some(end),
            _ => None,
        }
    }
}

impl End {
    /// What the record says.
    pub(super) fn reason(self, side: Side) -> Reason {
        match (self, side) {
            (Self::Finished, _) => Reason::Finished,
            (Self::LocalReset, Side::Dialling) | (Self::RemoteReset, Side::Accepting) => {
                Reason::ClientReset
            }
            (Self::LocalReset, Side::Accepting) | (Self::RemoteReset, Side::Dialling) => {
                Reason::ServerReset
            }
            (Self::Refused(reason) | Self::Cut(reason), _) => reason,
        }
    }
}

fn violation<T>(event: &'static str, state: State) -> Result<T, Violation> {
    Err(Violation { event, state })
}
