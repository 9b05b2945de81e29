//! When a thread returns memory to the machine. Allocators keep what was freed, page by page, for whatever comes next; a
//! worker from which thousands of connections have gone, or that has nothing to do, should not hold what they needed.
//!
//! It must not know the allocator: the binary that chose it passes a way in.

/// How the process returns memory.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Returns what the calling thread's heap holds and does not use.
    pub give_back: fn(),
    /// Unmaps the program's code, so that only what is run from now on is mapped again.
    pub unmap_code: fn(),
}

impl Default for Memory {
    /// Returns nothing.
    fn default() -> Self {
        Self {
            give_back: || {},
            unmap_code: || {},
        }
    }
}

/// Ticks without a connection that began or ended, after which a thread is taken for quiet.
const QUIET: u32 = 5;

/// The same, after which the whole process is idle: that the next connection has to map code again, which takes some 100 µs,
/// no longer matters.
const IDLE: u32 = 20;

/// Fewer connections than this are not worth a look through the heap.
const LEAST: usize = 64;

/// Decides, tick by tick, when to give back: once when it becomes quiet, and at once when half of the connections have
/// gone. A look through the heap costs up to a millisecond, so it is not done while connections come and go.
#[derive(Debug, Default)]
pub(crate) struct Thrift {
    /// Most connections since the last time.
    most: usize,
    /// Open and begun at the last tick.
    before: (usize, u64),
    quiet_for: u32,
    /// Something was done since the last time.
    owes: bool,
}

impl Thrift {
    /// A second has passed; `open` connections are open, `begun` ones ever began. Whether to give back now.
    pub(crate) fn tick(&mut self, open: usize, begun: u64) -> bool {
        if (open, begun) == self.before {
            self.quiet_for = self.quiet_for.saturating_add(1);
        } else {
            self.before = (open, begun);
            self.quiet_for = 0;
            self.owes = true;
        }
        self.most = self.most.max(open);
        let fell = self.most >= LEAST && open <= self.most / 2;
        if fell || self.owes && self.quiet_for >= QUIET {
            self.most = open;
            self.owes = self.quiet_for < QUIET;
            return true;
        }
        false
    }

    /// Whether it has just become idle. Ask once after each tick.
    pub(crate) fn became_idle(&self) -> bool {
        self.quiet_for == IDLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given_back(ticks: impl IntoIterator<Item = (usize, u64)>) -> Vec<bool> {
        let mut thrift = Thrift::default();
        ticks
            .into_iter()
            .map(|(open, begun)| thrift.tick(open, begun))
            .collect()
    }

    #[test]
    fn a_thread_that_becomes_quiet_gives_back_once() {
        let mut ticks = vec![(1, 1)];
        ticks.extend([(0, 1); 10]);
        let given = given_back(ticks);
        assert_eq!(given.iter().filter(|given| **given).count(), 1, "{given:?}");
        assert!(given[1 + QUIET as usize]);
    }

    #[test]
    fn a_busy_thread_gives_back_only_when_half_of_the_connections_have_gone() {
        let steady = given_back((0..100).map(|second| (200, 200 + second)));
        assert!(!steady.contains(&true));
        let falling = given_back([(200, 200), (101, 300), (100, 400), (51, 500), (50, 600)]);
        assert_eq!(falling, [false, false, true, false, true]);
        let few = given_back([(60, 60), (0, 61)]);
        assert!(!few.contains(&true));
    }

    #[test]
    fn idleness_is_noticed_once() {
        let mut thrift = Thrift::default();
        let idle = (0..100).filter(|_| {
            thrift.tick(3, 3);
            thrift.became_idle()
        });
        assert_eq!(idle.count(), 1);
    }

    #[test]
    fn idle_connections_count_as_quiet() {
        let given = given_back([(2_000, 2_000); 20]);
        assert_eq!(given.iter().filter(|given| **given).count(), 1);
    }
}
