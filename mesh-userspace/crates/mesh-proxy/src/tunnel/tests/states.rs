//! Random schedules against a model: two halves that each can be open or finished, which is what a TCP connection is.

use std::time::{Duration, Instant};

use mesh_core::outcome::Reason;
use proptest::prelude::*;

use crate::tunnel::credit::{Credit, MAX_WINDOW, Spare, Window};
use crate::tunnel::state::{End, Side, State};

#[derive(Clone, Copy, Debug)]
enum Event {
    Accepted,
    Refused,
    LocalFinished,
    RemoteFinished,
    RemoteData,
    LocalReset,
    RemoteReset,
    Cut,
}

/// What a connection is, told without names for the combinations.
#[derive(Debug)]
struct Model {
    accepted: bool,
    local_finished: bool,
    remote_finished: bool,
    end: Option<End>,
}

impl Model {
    /// Returns whether the event is allowed.
    fn apply(&mut self, event: Event, side: Side) -> bool {
        let peer_may_send = self.end.is_none()
            && !self.remote_finished
            && (self.accepted || side == Side::Accepting);
        match event {
            Event::Accepted | Event::Refused if self.accepted || self.end.is_some() => {
                return false;
            }
            Event::Accepted => self.accepted = true,
            Event::Refused => self.end = Some(End::Refused(Reason::ConnectionRefused)),
            Event::RemoteFinished | Event::RemoteData if !peer_may_send => return false,
            Event::RemoteFinished => self.remote_finished = true,
            Event::RemoteData => {}
            // Our application is not there yet.
            Event::LocalFinished if !self.accepted && side == Side::Accepting => {}
            Event::LocalFinished => self.local_finished |= self.end.is_none(),
            Event::LocalReset => self.end = self.end.or(Some(End::LocalReset)),
            Event::RemoteReset => self.end = self.end.or(Some(End::RemoteReset)),
            Event::Cut => self.end = self.end.or(Some(End::Cut(Reason::PolicyRevoked))),
        }
        if self.accepted && self.local_finished && self.remote_finished {
            self.end = self.end.or(Some(End::Finished));
        }
        true
    }
}

fn apply(state: &mut State, event: Event, side: Side) -> bool {
    match event {
        Event::Accepted => state.accepted(side).is_ok(),
        Event::Refused => state.refused(Reason::ConnectionRefused).is_ok(),
        Event::RemoteFinished => state.remote_finished(side).is_ok(),
        Event::RemoteData => state.remote_data(side).is_ok(),
        Event::LocalFinished => {
            // The task never reads from an application that is not there.
            if side == Side::Dialling || !state.is_opening() {
                state.local_finished();
            }
            true
        }
        Event::LocalReset => {
            state.local_reset();
            true
        }
        Event::RemoteReset => {
            state.remote_reset();
            true
        }
        Event::Cut => {
            state.cut(Reason::PolicyRevoked);
            true
        }
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::Accepted),
        1 => Just(Event::Refused),
        3 => Just(Event::LocalFinished),
        3 => Just(Event::RemoteFinished),
        4 => Just(Event::RemoteData),
        1 => Just(Event::LocalReset),
        1 => Just(Event::RemoteReset),
        1 => Just(Event::Cut),
    ];
    proptest::collection::vec(event, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_state_is_what_the_model_says(events in events(), dialling in any::<bool>()) {
        let side = if dialling { Side::Dialling } else { Side::Accepting };
        let mut state = State::Opening;
        let mut model = Model { accepted: false, local_finished: false, remote_finished: false, end: None };
        for event in events {
            let before = state;
            let allowed = model.apply(event, side);
            prop_assert_eq!(apply(&mut state, event, side), allowed, "{:?} in {:?}", event, before);
            if !allowed {
                prop_assert_eq!(state, before, "what is not allowed changes nothing");
            }
            prop_assert_eq!(state.ended(), model.end);
            prop_assert_eq!(state.is_opening(), model.end.is_none() && !model.accepted);
            let may_send = model.end.is_none()
                && !model.local_finished
                && (model.accepted || side == Side::Dialling);
            prop_assert_eq!(state.may_send(side), may_send);
        }
    }

    #[test]
    fn credit_is_neither_lost_nor_made(
        steps in proptest::collection::vec((1_usize..100_000, 1_usize..100_000, 0_u64..400), 1..200)
    ) {
        let mut now = Instant::now();
        let mut window = Window::new(now);
        let mut spare = Spare::default();
        let mut sender = Credit::default();
        let (mut sent, mut delivered) = (0_u64, 0_u64);
        for (send, deliver, pause) in steps {
            now += Duration::from_millis(pause);
            let send = send.min(sender.left());
            sender.used(send);
            window.received(send).unwrap();
            sent += send as u64;
            let deliver = deliver.min(window.held() as usize);
            delivered += deliver as u64;
            if let Some(grant) = window.delivered(deliver, || now, &mut spare) {
                sender.granted(grant).unwrap();
            }
            // What the sender may send is what the receiver is ready for, and that is bounded.
            prop_assert_eq!(u64::from(window.held()), sent - delivered);
            prop_assert!(sender.left() + window.held() as usize <= MAX_WINDOW as usize);
            // And it never stops: an application that has taken everything leaves credit.
            prop_assert!(window.held() > 0 || sender.left() > 0);
        }
        prop_assert_eq!(window.close(&mut spare) as usize, sender.left());
    }
}

#[test]
fn more_than_the_window_is_noticed() {
    let mut window = Window::new(Instant::now());
    assert!(window.received(64 * 1024).is_ok());
    assert!(window.received(1).is_err());
    let mut credit = Credit::default();
    assert!(credit.granted(u32::MAX).is_err());
    assert!(credit.granted(1 << 29).is_ok());
    assert!(credit.granted(1 << 29).is_err());
}
