//! What a peer may waste: streams that it opens and resets before anybody could answer. Pure.
//!
//! Each costs us the inbound story, a record and perhaps a connection to the application, and the peer next to nothing; and
//! no limit of open streams counts it, because it is gone when the next one comes. Honest applications give up as well, so
//! many at once are put up with, but not for long.

use std::time::{Duration, Instant};

/// So many at once: four times the streams that a tunnel carries.
pub(super) const AT_ONCE: u32 = 1_000;

/// In the long run, one each: a hundred in a second.
const EVERY: Duration = Duration::from_millis(10);

/// Counts them.
#[derive(Debug)]
pub(super) struct Budget {
    /// 0 <= left <= AT_ONCE
    left: u32,
    /// When `left` was last increased.
    since: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: AT_ONCE,
            since: now,
        }
    }

    /// One more. Returns whether it is still within the budget.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.since).as_nanos() / EVERY.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX).min(AT_ONCE);
        if earned > 0 {
            self.left = (self.left + earned).min(AT_ONCE);
            self.since = now;
        }
        let within = self.left > 0;
        self.left = self.left.saturating_sub(1);
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_are_put_up_with_but_not_for_long() {
        let begin = Instant::now();
        let mut budget = Budget::new(begin);
        assert!((0..AT_ONCE).all(|_| budget.spend(begin)));
        assert!(!budget.spend(begin));
        // A second later a hundred more.
        let later = begin + Duration::from_secs(1);
        assert_eq!((0..1_000).filter(|_| budget.spend(later)).count(), 100);
    }

    #[test]
    fn a_slow_stream_of_them_is_never_too_much_and_nothing_is_saved_up() {
        let begin = Instant::now();
        let mut budget = Budget::new(begin);
        assert!((1..100_000).all(|n| budget.spend(begin + n * EVERY)));
        let much_later = begin + Duration::from_secs(100_000);
        let spent = (0..5_000).filter(|_| budget.spend(much_later)).count();
        assert_eq!(spent, AT_ONCE as usize);
    }
}
