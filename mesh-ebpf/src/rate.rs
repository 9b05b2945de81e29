//! How many events one workload may put on the ring buffer for one reason: a flood of dropped packets must neither
//! fill the ring nor hide the drops of others. Counters are not limited; they stay exact.

/// Length of a window, ns.
pub const WINDOW: u64 = 1_000_000_000;
/// Events per window. The key is (CPU, workload, reason), so that one reason's flood does not hide another's first.
pub const EVENTS_PER_WINDOW: u64 = 32;

/// What is left of the current window.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rate {
    /// When the window ends, ns of `CLOCK_MONOTONIC`.
    pub ends_at: u64,
    /// Events that may still be sent in it.
    pub left: u64,
}

impl Rate {
    /// A window that starts now, with one event taken out of it.
    #[inline(always)]
    pub const fn starting(now: u64) -> Self {
        Self {
            ends_at: now + WINDOW,
            left: EVENTS_PER_WINDOW - 1,
        }
    }

    /// Whether one more event may be sent now.
    #[inline(always)]
    pub const fn admit(&mut self, now: u64) -> bool {
        if now >= self.ends_at {
            *self = Self::starting(now);
            return true;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_one_share_per_window() {
        let mut rate = Rate::starting(0);
        let admitted = (1..WINDOW)
            .step_by(1_000_000)
            .filter(|now| rate.admit(*now))
            .count() as u64;
        assert_eq!(admitted + 1, EVENTS_PER_WINDOW);
        assert!(rate.admit(WINDOW), "a new window has a new share");
    }

    #[test]
    fn an_empty_entry_admits() {
        assert!(Rate::default().admit(5));
    }
}
