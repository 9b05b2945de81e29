//! How many sockets a worker has been asking for, so that it can be given enough for the time without an agent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mesh_core::workload::WorkloadId;
use mesh_proxy::link::SocketKind;

/// Over which time demand is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// Demand that is older than this says nothing.
const STALE: Duration = Duration::from_secs(30);

/// For how long a worker shall do without an agent at its present rate, and the most sockets of one kind that one workload
/// is given for that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    seconds: f64,
    /// Where there was any demand of late: it may only just have begun.
    least: usize,
    most: usize,
}

/// A restart takes about a second.
pub(super) const RESTART: Absence = Absence {
    seconds: 3.0,
    least: 16,
    most: 4_096,
};

/// A cluster that replaces an agent's pod, and cannot start the new one beside it, takes ten seconds, and more than a minute
/// where kubelet is old.
pub(super) const REPLACEMENT: Absence = Absence {
    seconds: 90.0,
    least: 64,
    most: 16_384,
};

/// Most sockets for all workloads together, the busiest first: each costs the kernel some 3 KiB.
const MOST_IN_ALL: usize = 32_768;

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
        if !self.0.contains_key(&(workload, kind)) {
            // Workloads come and go.
            self.0
                .retain(|_, rate| now.duration_since(rate.since) < STALE);
        }
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

    /// What is to be given before the agent is gone.
    pub(super) fn in_advance(
        &self,
        now: Instant,
        absence: Absence,
    ) -> Vec<(WorkloadId, SocketKind, usize)> {
        let Absence {
            seconds,
            least,
            most,
        } = absence;
        let mut given: Vec<(WorkloadId, SocketKind, usize)> = self
            .0
            .iter()
            .filter(|(_, rate)| now.duration_since(rate.since) < STALE)
            .map(|((workload, kind), rate)| {
                let age = now.duration_since(rate.since).clamp(SHORTEST, WINDOW);
                let rate = rate.before.max(rate.asked as f64 / age.as_secs_f64());
                let count = (rate * seconds) as usize;
                (*workload, *kind, count.clamp(least, most))
            })
            .collect();
        given.sort_unstable_by_key(|(_, _, count)| std::cmp::Reverse(*count));
        let mut left = MOST_IN_ALL;
        for (_, _, count) in &mut given {
            *count = (*count).min(left.max(least));
            left = left.saturating_sub(*count);
        }
        given
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

    #[test]
    fn a_busy_workload_is_given_three_seconds_worth_and_an_idle_one_nothing() {
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
        let given = demand.in_advance(now, RESTART);
        assert_eq!(given.len(), 1);
        assert!((1_000..2_000).contains(&given[0].2), "{given:?}");
        assert!(demand.in_advance(now + STALE, RESTART).is_empty());
    }

    #[test]
    fn demand_is_bounded_at_both_ends() {
        let mut demand = Demand::default();
        let now = Instant::now();
        demand.asked(now, WorkloadId(1), KIND, 1);
        demand.asked(now, WorkloadId(2), KIND, 100_000);
        let mut given: Vec<usize> = demand
            .in_advance(now, RESTART)
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
        let given = demand.in_advance(now, REPLACEMENT);
        let sum: usize = given.iter().map(|(_, _, count)| count).sum();
        assert!(sum <= MOST_IN_ALL + 101 * REPLACEMENT.least, "{sum}");
        assert_eq!(given[0].2, REPLACEMENT.most);
        assert!(
            given
                .iter()
                .all(|(_, _, count)| *count >= REPLACEMENT.least)
        );
    }

    #[test]
    fn demand_that_has_just_begun_is_taken_for_what_it_will_be() {
        let mut demand = Demand::default();
        let start = Instant::now();
        demand.asked(start, WorkloadId(1), KIND, 10);
        let now = start + Duration::from_millis(500);
        // 20 per second, for 90 s.
        assert_eq!(demand.in_advance(now, REPLACEMENT)[0].2, 1_800);
    }
}
