//! What is known of each endpoint: open connections, how long it took to connect, and whether it failed lately.
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

/// How long an endpoint is skipped after its first failure. Each further one doubles it.
pub const FIRST_BACK_OFF: Duration = Duration::from_secs(1);

/// The longest that an endpoint is skipped.
pub const LONGEST_BACK_OFF: Duration = Duration::from_secs(30);

/// How long a probe may take before another connection is sent as one: a connection that was chosen for it, and then
/// neither opened nor failed, must not keep an endpoint out for ever.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// Time in which an unused latency estimate loses two thirds of its worth, so that a slow endpoint is tried again.
const DECAY: Duration = Duration::from_secs(10);

/// Connect times below this are noise of the scheduler, not distance: on a busy node one connection in ten takes some
/// milliseconds, and the peak of one endpoint would turn an idle service's connections away from it until it decayed.
const LATENCY_FLOOR: Duration = Duration::from_millis(5);

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
    latency: Option<Latency>,
    failure: Option<Failure>,
    used: Now,
    /// Left the world; forgotten when its last connection ends.
    absent: bool,
}

#[derive(Clone, Copy, Debug)]
struct Latency {
    /// Seconds.
    estimate: f64,
    at: Now,
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
        let measured = latency.max(LATENCY_FLOOR).as_secs_f64();
        let estimate = match state.latency {
            // Peak EWMA: bad news counts at once, good news with time.
            Some(known) if known.decayed(now) > measured => {
                let keep = decay(now.saturating_sub(known.at)).min(0.9);
                known.estimate * keep + measured * (1.0 - keep)
            }
            _ => measured,
        };
        state.latency = Some(Latency { estimate, at: now });
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

    /// Whether the first endpoint is clearly less loaded than the second. The load is the latency times the connections
    /// that it would have, these counted against its weight relative to the others'. What was not measured yet is taken
    /// to be as fast as what was.
    pub(super) fn clearly_less_loaded(
        &self,
        (first, first_weight): (SocketAddr, f64),
        (second, second_weight): (SocketAddr, f64),
        now: Now,
    ) -> bool {
        let (first, second) = (self.endpoints.get(&first), self.endpoints.get(&second));
        let connections = |state: Option<&State>, weight: f64| {
            f64::from(state.map_or(0, |state| state.active)) / weight.max(f64::MIN_POSITIVE) + 1.0
        };
        let latency = |state: Option<&State>| Some(state?.latency?.decayed(now));
        let (first_latency, second_latency) = match (latency(first), latency(second)) {
            (Some(first), Some(second)) => (first, second),
            _ => (1.0, 1.0),
        };
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

impl Latency {
    fn decayed(self, now: Now) -> f64 {
        let estimate = self.estimate * decay(now.saturating_sub(self.at));
        estimate.max(LATENCY_FLOOR.as_secs_f64())
    }
}

fn decay(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
}
