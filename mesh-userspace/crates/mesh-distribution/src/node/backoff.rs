//! When to try again. It draws no randomness.

use std::time::Duration;

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);

/// Waits of 1 s, 2 s, 4 s … 30 s, each shortened by chance down to its half, so that a thousand nodes that lost their
/// controller at one moment do not come back at one moment.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after a failure. `chance` is in 0..1.
    pub(super) fn after_failure(&mut self, chance: f64) -> Duration {
        let whole = SHORTEST
            .saturating_mul(1 << self.failures.min(5))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        whole.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0)
    }

    /// How long to wait after a connection that was good: its controller may just be replaced by another, which is there
    /// already.
    pub(super) fn after_success(&mut self, chance: f64) -> Duration {
        self.failures = 0;
        SHORTEST.mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_limit_and_begin_again() {
        let mut backoff = Backoff::default();
        let seconds = |wait: Duration| wait.as_secs_f64();
        let waits: Vec<f64> = (0..7)
            .map(|_| seconds(backoff.after_failure(0.0)))
            .collect();
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
        assert_eq!(seconds(backoff.after_failure(1.0)), 15.0);
        assert_eq!(seconds(backoff.after_success(0.5)), 0.5);
        assert_eq!(seconds(backoff.after_failure(0.5)), 0.75);
    }
}
