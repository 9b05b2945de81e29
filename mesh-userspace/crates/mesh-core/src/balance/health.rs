//! What is known of each endpoint: open connections, how fast it answers, and whether it failed lately.
//!
//! ```text
//!            failed                    back-off over, chosen
//!   well ────────────► skipped ─────────────────────────────► probed
//!    ▲                 ▲                                        │ │
//!    │ opened          └────────── failed: twice as long ───────┘ │
//!    └────────────────────────────────────────────────────────────┘ opened
//! ```
//!
//! A probe is one real connection; while it is out, others are not sent after it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Now;
use super::latency::Latency;

/// How long an endpoint is skipped after its first failure. Each further one doubles it.
pub const FIRST_BACK_OFF: Duration = Duration::from_secs(1);

/// The longest that an endpoint is skipped.
pub const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

/// How long a probe may take before another connection is sent as one: a connection that was chosen for it, and then
/// neither opened nor failed, must not keep an endpoint out for ever.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// By how much one endpoint must look better than the one that chance chose. Without it, a difference of one percent
/// would send every connection of an idle service to the same endpoint.
const CLEARLY: f64 = 0.75;

/// Endpoints whose state is kept before unused ones are looked for.
const PRUNE_FROM: usize = 1024;

/// An endpoint with no open connection, unused for so long, is forgotten when there are many.
const FORGET_AFTER: Duration = Duration::from_secs(600);

/// The state of all endpoints.
#[derive(Debug, Default)]
pub(super) struct Healths {
    endpoints: HashMap<SocketAddr, State, foldhash::fast::RandomState>,
    /// Number of states with `failure`.
    failed: usize,
    /// Number of states at which unused ones are looked for.
    prune_at: usize,
}

#[derive(Debug, Default)]
struct State {
    /// Open connections.
    active: u32,
    latency: Latency,
    failure: Option<Failure>,
    used: Now,
    /// Left the world; forgotten when its last connection ends.
    absent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    in_a_row: u32,
    skip_until: Now,
    /// A connection was sent to see whether it is back.
    probed: bool,
}

/// Whether an endpoint may be chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Health {
    /// It may.
    Well,
    /// It failed, its back-off is over: one connection may find out.
    ToProbe,
    /// Not now.
    Skipped,
}

/// By what endpoints are compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Measure {
    /// What each has to do.
    Connections,
    /// And how fast each is.
    ConnectionsAndLatency,
}

impl Healths {
    /// Whether there is no failed endpoint at all.
    pub(super) fn nothing_failed(&self) -> bool {
        self.failed == 0
    }

    pub(super) fn of(&self, address: SocketAddr, now: Now) -> Health {
        if self.failed == 0 {
            return Health::Well;
        }
        let failure = self
            .endpoints
            .get(&address)
            .and_then(|state| state.failure.as_ref());
        match failure {
            None => Health::Well,
            Some(failure) if now < failure.skip_until => Health::Skipped,
            Some(_) => Health::ToProbe,
        }
    }

    /// A connection is about to be made to the endpoint.
    pub(super) fn chosen(&mut self, address: SocketAddr, now: Now) {
        if self.of(address, now) != Health::ToProbe {
            return;
        }
        if let Some(failure) = self
            .endpoints
            .get_mut(&address)
            .and_then(|state| state.failure.as_mut())
        {
            failure.probed = true;
            failure.skip_until = now + PROBE_PATIENCE;
        }
    }

    pub(super) fn opened(&mut self, address: SocketAddr, latency: Duration, now: Now) {
        let state = self.state(address, now);
        state.active = state.active.saturating_add(1);
        state.latency.answered(latency, now);
        if state.failure.take().is_some() {
            self.failed -= 1;
        }
    }

    pub(super) fn closed(&mut self, address: SocketAddr) {
        let Some(state) = self.endpoints.get_mut(&address) else {
            return;
        };
        state.active = state.active.saturating_sub(1);
        if state.absent && state.active == 0 {
            self.forget(address);
        }
    }

    pub(super) fn failed(&mut self, address: SocketAddr, now: Now) {
        let state = self.state(address, now);
        match &mut state.failure {
            None => {
                state.failure = Some(Failure {
                    in_a_row: 1,
                    skip_until: now + FIRST_BACK_OFF,
                    probed: false,
                });
                self.failed += 1;
            }
            // Connections that were on their way when it failed fail together: that is one failure, not many.
            Some(failure) if now < failure.skip_until && !failure.probed => {}
            Some(failure) => {
                failure.in_a_row = failure.in_a_row.saturating_add(1);
                let doublings = (failure.in_a_row - 1).min(16);
                let back_off = (FIRST_BACK_OFF * (1 << doublings)).min(LONGEST_BACK_OFF);
                failure.skip_until = now + back_off;
                failure.probed = false;
            }
        }
    }

    /// Whether the first endpoint is clearly less loaded than the second. The load is the connections that it would have,
    /// counted against its weight relative to the others', and times its latency where that is known of both.
    pub(super) fn clearly_less_loaded(
        &self,
        (first, first_weight): (SocketAddr, f64),
        (second, second_weight): (SocketAddr, f64),
        measure: Measure,
        now: Now,
    ) -> bool {
        let (first, second) = (self.endpoints.get(&first), self.endpoints.get(&second));
        let connections = |state: Option<&State>, weight: f64| {
            f64::from(state.map_or(0, |state| state.active)) / weight.max(f64::MIN_POSITIVE) + 1.0
        };
        let latency = |state: Option<&State>| match measure {
            Measure::Connections => None,
            Measure::ConnectionsAndLatency => state?.latency.estimate(now),
        };
        let (first_latency, second_latency) =
            latency(first).zip(latency(second)).unwrap_or((1.0, 1.0));
        connections(first, first_weight) * first_latency
            < connections(second, second_weight) * second_latency * CLEARLY
    }

    /// Forgets endpoints that are not to be kept, now or when their last connection ends.
    pub(super) fn retain(&mut self, keep: impl Fn(SocketAddr) -> bool) {
        self.endpoints.retain(|address, state| {
            state.absent = !keep(*address);
            !state.absent || state.active > 0
        });
        self.count_failed();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.endpoints.len()
    }

    fn state(&mut self, address: SocketAddr, now: Now) -> &mut State {
        // Dials to addresses that no service has (a workload's own) are counted too, and no world tells when to forget
        // them.
        if self.endpoints.len() >= self.prune_at.max(PRUNE_FROM) {
            self.endpoints.retain(|_, state| {
                state.active > 0 || now.saturating_sub(state.used) < FORGET_AFTER
            });
            self.prune_at = self.endpoints.len() * 2;
            self.count_failed();
        }
        let state = self.endpoints.entry(address).or_default();
        state.used = now;
        state
    }

    fn forget(&mut self, address: SocketAddr) {
        if let Some(state) = self.endpoints.remove(&address)
            && state.failure.is_some()
        {
            self.failed -= 1;
        }
    }

    fn count_failed(&mut self) {
        self.failed = self
            .endpoints
            .values()
            .filter(|state| state.failure.is_some())
            .count();
    }
}
