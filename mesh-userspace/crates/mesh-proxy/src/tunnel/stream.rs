//! One stream: its state, its credit, its application, and what is kept until it is accepted.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use futures_util::future::AbortHandle;
use tokio::sync::oneshot;

use super::OpenError;
use super::app::App;
use super::credit::{Credit, Pace, Window};
use super::handle::Shared;
use super::ready::Entry;
use super::state::{End, Side, State};
use crate::socket;

/// One stream.
pub(super) struct Stream {
    pub(super) state: State,
    pub(super) credit: Credit,
    pub(super) window: Window,
    pub(super) shared: Rc<Shared>,
    pub(super) entry: Entry,
    /// The application. `None` while the inbound story connects to it.
    pub(super) app: Option<App>,
    pub(super) opening: Opening,
    /// How fast it goes, each way.
    pub(super) receiving: Pace,
    pub(super) sending: Pace,
    /// The last read filled its room: the next may be larger.
    pub(super) eager: bool,
    /// It is in the list of those that wait for room.
    pub(super) waits: bool,
    /// Our application was told that nothing more will come.
    pub(super) told: bool,
    pub(super) detail: Option<String>,
}

/// What is needed until a stream is accepted.
pub(super) enum Opening {
    /// We dialled, and wait for the answer. What was sent is kept, to be able to send it elsewhere.
    Offered {
        kept: Vec<u8>,
        answer: oneshot::Sender<Result<(), OpenError>>,
    },
    /// We accept, and the inbound story is at work. What arrives meanwhile waits.
    Awaited {
        story: AbortHandle,
        pending: VecDeque<u8>,
    },
    /// It was accepted.
    Done,
}

impl Stream {
    pub(super) fn new(
        shared: Rc<Shared>,
        entry: Entry,
        app: Option<App>,
        opening: Opening,
    ) -> Self {
        let now = Instant::now();
        Self {
            state: State::Opening,
            credit: Credit::default(),
            window: Window::new(now),
            shared,
            entry,
            app,
            opening,
            receiving: Pace::new(now),
            sending: Pace::new(now),
            eager: false,
            waits: false,
            told: false,
            detail: None,
        }
    }

    fn has_pending(&self) -> bool {
        match &self.opening {
            Opening::Awaited { pending, .. } => !pending.is_empty(),
            _ => self.app.as_ref().is_some_and(App::has_pending),
        }
    }

    /// Takes bytes for the application. Returns how many of them it has taken at once.
    pub(super) fn hand_over(&mut self, slices: &[&[u8]]) -> io::Result<usize> {
        match (&mut self.opening, &mut self.app) {
            (Opening::Awaited { pending, .. }, _) => {
                for slice in slices {
                    pending.extend(*slice);
                }
                Ok(0)
            }
            (_, Some(app)) => app.write(slices, &self.entry),
            (_, None) => Ok(0),
        }
    }

    /// The application broke its connection.
    pub(super) fn broke(&mut self, error: &io::Error) {
        self.state.local_reset();
        if error.kind() != io::ErrorKind::ConnectionReset {
            self.detail
                .get_or_insert_with(|| format!("the application's connection broke: {error}"));
        }
    }

    /// Bytes that our application sent.
    pub(super) fn count_local(&self, side: Side, bytes: usize) {
        match side {
            Side::Dialling => self.shared.add_sent(bytes),
            Side::Accepting => self.shared.add_received(bytes),
        }
    }

    /// Bytes that our application took.
    pub(super) fn count_remote(&self, side: Side, bytes: usize) {
        match side {
            Side::Dialling => self.shared.add_received(bytes),
            Side::Accepting => self.shared.add_sent(bytes),
        }
    }

    /// Tells our application, once it has everything, that nothing more will come.
    pub(super) fn tell_finished(&mut self, side: Side) {
        if self.told || !self.state.is_remote_finished(side) || self.has_pending() {
            return;
        }
        if let Some(app) = &mut self.app {
            self.told = true;
            if let Err(error) = app.finish() {
                self.broke(&error);
            }
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn is_done(&self) -> bool {
        match self.state.ended() {
            None => false,
            Some(End::Finished) => self.told,
            Some(_) => true,
        }
    }

    /// Ends the application's connection, and says how it ended to whoever waits for it. `untouched`: the peer has
    /// certainly not handed anything over.
    pub(super) fn close(self, end: End, side: Side, untouched: bool) {
        let Self {
            app,
            opening,
            shared,
            detail,
            ..
        } = self;
        let reason = end.reason(side);
        match (opening, app) {
            (Opening::Done, Some(app)) if end != End::Finished => app.reset(),
            (Opening::Awaited { story, .. }, _) => story.abort(),
            (Opening::Offered { kept, answer }, Some(app)) => {
                let unseen = untouched || matches!(end, End::Refused(_)) || kept.is_empty();
                let returned = if unseen && end != End::LocalReset {
                    app.into_socket().map(|socket| (socket, kept))
                } else {
                    app.reset();
                    None
                };
                let answered = answer.send(Err(OpenError {
                    returned,
                    reason,
                    detail: detail.clone().unwrap_or_default(),
                }));
                if let Err(Err(OpenError {
                    returned: Some((socket, _)),
                    ..
                })) = answered
                {
                    // The story has gone, so there is nobody to try another endpoint.
                    socket::reset(&socket);
                }
            }
            (Opening::Done | Opening::Offered { .. }, _) => {}
        }
        shared.close(reason, detail);
    }
}
