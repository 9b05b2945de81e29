//! How many sockets a worker has been asking for, so that it can be given enough for the time without an agent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mesh_core::workload::WorkloadId;
use mesh_proxy::link::SocketKind;

/// Over which time demand is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// Demand that is older than this says nothing about the next minute.
const STALE: Duration = Duration::from_secs(30);

/// For how long a worker shall do without an agent at its present rate, and the most sockets of one kind that one workload
/// is given for that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    seconds: f64,
    /// Also where there is no demand: it may begin as soon as the agent is gone.
    least: usize,
    most: usize,
}

/// A restart takes about a second.
pub(super) const RESTART: Absence = Absence {
    seconds: 3.0,
    least: 64,
    most: 4_096,
};

/// A cluster that replaces an agent's pod, and cannot start the new one beside it, takes ten seconds, and more than a minute
/// where kubelet is old.
pub(super) const REPLACEMENT: Absence = Absence {
    seconds: 90.0,
    least: 1_024,
    most: 16_384,
};

/// Most sockets for all workloads together, the busiest first: each costs the kernel some 3 KiB.
const MOST_IN_ALL: usize = 32_768;

/// Of all, half is for demand that has not begun. Where workloads are many each has less, but never under this.
const FEWEST: usize = 16;

/// Demand of less time than this says little about a second.
const SHORTEST: Duration = Duration::from_millis(250);

/// Demand, by workload and kind of socket.
#[derive(Debug, Default)]
pub(super) struct Demand(HashMap<(WorkloadId, SocketKind), Rate>);

#[derive(Debug)]
struct Rate {
    since: Instant,
    asked: usize,
    /// Of the window before, per second.
    before: f64,
}

impl Demand {
    /// A worker asked.
    pub(super) fn asked(
        &mut self,
        now: Instant,
        workload: WorkloadId,
        kind: SocketKind,
        count: usize,
    ) {
        let rate = self.0.entry((workload, kind)).or_insert(Rate {
            since: now,
            asked: 0,
            before: 0.0,
        });
        let age = now.duration_since(rate.since);
        if age >= WINDOW {
            rate.before = rate.asked as f64 / age.as_secs_f64();
            rate.asked = 0;
            rate.since = now;
        }
        rate.asked += count;
    }

    /// Forgets workloads that have left.
    pub(super) fn keep(&mut self, stays: impl Fn(WorkloadId) -> bool) {
        self.0.retain(|(workload, _), _| stays(*workload));
    }

    /// What is to be given before the agent is gone, to a worker that may have so many open files.
    pub(super) fn in_advance(
        &self,
        now: Instant,
        absence: Absence,
        files: usize,
    ) -> Vec<(WorkloadId, SocketKind, usize)> {
        let Absence {
            seconds,
            least,
            most,
        } = absence;
        // Connections need files, too.
        let in_all = MOST_IN_ALL.min(files / 2);
        let share = in_all / 2 / self.0.len().max(1);
        let least = share.clamp(FEWEST, least);
        let mut given: Vec<(WorkloadId, SocketKind, usize)> = self
            .0
            .iter()
            .map(|((workload, kind), rate)| {
                let count = (rate.per_second(now) * seconds) as usize;
                (*workload, *kind, count.clamp(least, most))
            })
            .collect();
        given.sort_unstable_by_key(|(_, _, count)| std::cmp::Reverse(*count));
        let mut left = in_all;
        for (_, _, count) in &mut given {
            *count = (*count).min(left.max(least));
            left = left.saturating_sub(*count);
        }
        given
    }
}

impl Rate {
    /// What it is now.
    fn per_second(&self, now: Instant) -> f64 {
        let age = now.duration_since(self.since);
        if age >= STALE {
            return 0.0;
        }
        let age = age.clamp(SHORTEST, WINDOW);
        self.before.max(self.asked as f64 / age.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use mesh_proxy::link::Purpose;

    use super::*;

    const KIND: SocketKind = SocketKind {
        purpose: Purpose::Deliver,
        ipv6: false,
    };

    const FILES: usize = 1_048_576;

    #[test]
    fn a_busy_workload_is_given_three_seconds_worth_and_an_idle_one_the_least() {
        let mut demand = Demand::default();
        let start = Instant::now();
        for step in 0..20 {
            demand.asked(
                start + Duration::from_millis(100 * step),
                WorkloadId(1),
                KIND,
                50,
            );
        }
        let now = start + Duration::from_secs(2);
        let given = demand.in_advance(now, RESTART, FILES);
        assert_eq!(given.len(), 1);
        assert!((1_000..2_000).contains(&given[0].2), "{given:?}");
        let idle = demand.in_advance(now + STALE, RESTART, FILES);
        assert_eq!(idle[0].2, RESTART.least);
        demand.keep(|workload| workload != WorkloadId(1));
        assert!(demand.in_advance(now, RESTART, FILES).is_empty());
    }

    #[test]
    fn demand_is_bounded_at_both_ends() {
        let mut demand = Demand::default();
        let now = Instant::now();
        demand.asked(now, WorkloadId(1), KIND, 1);
        demand.asked(now, WorkloadId(2), KIND, 100_000);
        let mut given: Vec<usize> = demand
            .in_advance(now, RESTART, FILES)
            .into_iter()
            .map(|(_, _, count)| count)
            .collect();
        given.sort_unstable();
        assert_eq!(given, [RESTART.least, RESTART.most]);
    }

    #[test]
    fn all_together_are_bounded_and_the_busiest_come_first() {
        let mut demand = Demand::default();
        let now = Instant::now();
        for number in 1..=100 {
            demand.asked(now, WorkloadId(number), KIND, 100_000);
        }
        demand.asked(now, WorkloadId(101), KIND, 1);
        let given = demand.in_advance(now, REPLACEMENT, FILES);
        let sum: usize = given.iter().map(|(_, _, count)| count).sum();
        assert!(sum <= MOST_IN_ALL * 3 / 2, "{sum}");
        assert_eq!(given[0].2, REPLACEMENT.most);
        let least = MOST_IN_ALL / 2 / 101;
        assert!(given.iter().all(|(_, _, count)| *count >= least));

        let given = demand.in_advance(now, REPLACEMENT, 4_096);
        let sum: usize = given.iter().map(|(_, _, count)| count).sum();
        assert!(sum <= 2_048 + 101 * FEWEST, "{sum}");
    }

    #[test]
    fn demand_that_has_just_begun_is_taken_for_what_it_will_be() {
        let mut demand = Demand::default();
        let start = Instant::now();
        demand.asked(start, WorkloadId(1), KIND, 10);
        let now = start + Duration::from_millis(500);
        // 20 per second, for 90 s.
        assert_eq!(demand.in_advance(now, REPLACEMENT, FILES)[0].2, 1_800);
    }
}
