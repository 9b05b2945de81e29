//! How long an endpoint takes to answer, of late.
//!
//! A connect time is the distance plus whatever came in between: a busy processor, a queue, a cold cache. Noise only ever
//! adds, and it hits connections that are made at the same time together. So the estimate is the *fastest* of the last
//! answers, and there is none before there were enough of them: an endpoint counts as slow when it is always slow.

use std::time::Duration;

use super::Now;

/// Answers that are remembered, and needed before there is an estimate. Where one in three is late by chance, all of five
/// are once in 250 times.
const ANSWERS: usize = 5;

/// Time in which an unused estimate loses two thirds of its worth, so that a slow endpoint is tried again.
const DECAY: Duration = Duration::from_secs(10);

/// Connect times below this are noise of the scheduler, not distance.
const FLOOR: Duration = Duration::from_millis(5);

/// The last answers of an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Latency {
    /// A ring, in seconds; those that were not given yet are 0.
    answers: [f32; ANSWERS],
    /// Where the next one goes.
    next: usize,
    /// When the last one was given.
    at: Now,
}

impl Latency {
    /// One more answer.
    pub(super) fn answered(&mut self, after: Duration, now: Now) {
        if let Some(oldest) = self.answers.get_mut(self.next) {
            *oldest = after.max(FLOOR).as_secs_f32();
        }
        self.next = (self.next + 1) % ANSWERS;
        self.at = now;
    }

    /// In seconds; `None`: too little is known.
    pub(super) fn estimate(&self, now: Now) -> Option<f64> {
        let fastest = self.answers.into_iter().fold(f32::INFINITY, f32::min);
        if fastest == 0.0 {
            return None;
        }
        let unused = now.saturating_sub(self.at).as_secs_f64();
        let worth = (-unused / DECAY.as_secs_f64()).exp();
        Some((f64::from(fastest) * worth).max(FLOOR.as_secs_f64()))
    }
}
