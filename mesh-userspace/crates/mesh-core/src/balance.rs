//! Which backend, and which endpoint of it: smooth weighted round robin among backends (so that shares are exact, not
//! only likely), power of two choices among healthy endpoints.
//!
//! One balancer belongs to one worker thread; it holds the only mutable state that decisions have. It must not know
//! sockets or a clock: time and randomness are arguments.
//!
//! A failed endpoint is skipped *while something else can take the connection*. When nothing else can, it is dialled all
//! the same: a service with a single endpoint that has just come back must not be refused for the rest of a back-off,
//! and an endpoint that is still down gives the client the truth (connection refused).

mod health;
mod latency;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::route::{RoutedBackend, ServiceRoute};
use crate::service::Endpoint;
use crate::snapshot::Snapshot;

use health::{Health, Healths, Measure};
use shares::Shares;

pub use health::{FIRST_BACK_OFF, LONGEST_BACK_OFF, PROBE_PATIENCE};

/// Time as the balancer sees it: since any fixed moment, given by the caller.
pub type Now = Duration;

/// One decision in so many does not look at latency. An endpoint that looks slow is dialled less, so nobody would learn
/// that it has become faster.
const LOOK_AGAIN: u64 = 8;

/// The state of one worker's choices.
#[derive(Debug, Default)]
pub struct Balancer {
    shares: Shares,
    healths: Healths,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The backend's name, for the record.
    pub backend: String,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Its application address.
    pub address: SocketAddr,
}

/// Every endpoint is tried already, or there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no healthy endpoint")]
pub struct NothingHealthy;

/// Which endpoints are acceptable in a round of choosing.
#[derive(Clone, Copy)]
enum Accept {
    /// Those not being skipped.
    Healthy,
    /// All: nothing healthy is left.
    Any,
}

impl Balancer {
    /// Chooses a backend by weight, then an endpoint of it, never one of `tried`. The first choice of a connection moves
    /// the round robin on; later ones (`tried` not empty) stay with the backend `tried` began with while it has endpoints.
    /// `random` gives uniform bits.
    ///
    /// # Errors
    /// [`NothingHealthy`].
    pub fn choose(
        &mut self,
        route: &ServiceRoute,
        tried: &[Choice],
        now: Now,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Choice, NothingHealthy> {
        for accept in [Accept::Healthy, Accept::Any] {
            let Some(index) = self.backend(route, tried, accept, now, random) else {
                continue;
            };
            let Some(backend) = route.backends.get(index) else {
                continue;
            };
            if let Some(endpoint) = self.endpoint(backend, tried, accept, now, random) {
                let address = endpoint.socket_addr(&backend.port);
                self.healths.chosen(address, now);
                return Ok(Choice {
                    backend: backend.name.clone(),
                    endpoint: Arc::clone(endpoint),
                    address,
                });
            }
        }
        Err(NothingHealthy)
    }

    /// A connection to the endpoint was made, after `latency`; counts towards its load until [`Balancer::closed`].
    pub fn opened(&mut self, address: SocketAddr, latency: Duration, now: Now) {
        self.healths.opened(address, latency, now);
    }

    /// That connection ended.
    pub fn closed(&mut self, address: SocketAddr) {
        self.healths.closed(address);
    }

    /// The endpoint refused or could not be reached: it is skipped for a while that grows with each failure in a row.
    pub fn failed(&mut self, address: SocketAddr, now: Now) {
        self.healths.failed(address, now);
    }

    /// Whether the endpoint is being skipped at the moment.
    pub fn skipped(&self, address: SocketAddr, now: Now) -> bool {
        matches!(self.healths.of(address, now), Health::Skipped)
    }

    /// Drops the state of services, rules and endpoints that a new world no longer has. Call it once per world; what has
    /// open connections is kept until they end.
    pub fn forget_absent(&mut self, snapshot: &Snapshot) {
        self.shares
            .retain(|service| snapshot.service(service).is_some());
        let present: HashSet<SocketAddr> = snapshot
            .routed_backends()
            .flat_map(|backend| {
                backend
                    .endpoints
                    .iter()
                    .map(|endpoint| endpoint.socket_addr(&backend.port))
            })
            .collect();
        self.healths.retain(|address| present.contains(&address));
    }

    fn backend(
        &mut self,
        route: &ServiceRoute,
        tried: &[Choice],
        accept: Accept,
        now: Now,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<usize> {
        let healths = &self.healths;
        let eligible = |backend: &RoutedBackend| {
            // The common case must not look at every endpoint.
            if tried.is_empty() && (matches!(accept, Accept::Any) || healths.nothing_failed()) {
                return !backend.endpoints.is_empty();
            }
            backend
                .endpoints
                .iter()
                .any(|endpoint| acceptable(healths, backend, endpoint, tried, accept, now))
        };
        let Some(first) = tried.first() else {
            return self.shares.next(route, eligible, now, random);
        };
        let began_with = route
            .backends
            .iter()
            .position(|backend| backend.name == first.backend && eligible(backend));
        // The share of this connection is spent already, so another backend is found without moving the round robin.
        began_with.or_else(|| backend_at_random(route, eligible, random))
    }

    /// Two endpoints at random, by weight; of these the one with less to do, unless they are about equal:
    ///
    /// ```text
    ///  first, second at random ──► connections × latency of the second clearly less?  (one time in eight: connections)
    ///                                       │ yes              │ no
    ///                                       ▼                  ▼
    ///                                    second              first
    /// ```
    fn endpoint<'a>(
        &self,
        backend: &'a RoutedBackend,
        tried: &[Choice],
        accept: Accept,
        now: Now,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<&'a Arc<Endpoint>> {
        let accepted = |index: usize| {
            backend
                .endpoints
                .get(index)
                .filter(|endpoint| acceptable(&self.healths, backend, endpoint, tried, accept, now))
        };
        let first = pick_endpoint(backend, None, random, accepted)?;
        let Some(second) = pick_endpoint(backend, Some(first), random, accepted) else {
            return backend.endpoints.get(first);
        };
        let (first, second) = (
            backend.endpoints.get(first)?,
            backend.endpoints.get(second)?,
        );
        let mean = backend.mean_weight();
        let relative = |endpoint: &Endpoint| f64::from(endpoint.weight) / mean;
        let measure = if below(random(), LOOK_AGAIN) == 0 {
            Measure::Connections
        } else {
            Measure::ConnectionsAndLatency
        };
        let better = self.healths.clearly_less_loaded(
            (second.socket_addr(&backend.port), relative(second)),
            (first.socket_addr(&backend.port), relative(first)),
            measure,
            now,
        );
        Some(if better { second } else { first })
    }
}

fn acceptable(
    healths: &Healths,
    backend: &RoutedBackend,
    endpoint: &Endpoint,
    tried: &[Choice],
    accept: Accept,
    now: Now,
) -> bool {
    let address = endpoint.socket_addr(&backend.port);
    tried.iter().all(|choice| choice.address != address)
        && (matches!(accept, Accept::Any) || !matches!(healths.of(address, now), Health::Skipped))
}

/// An acceptable endpoint by weight, other than `except`. A few draws find one unless most are unacceptable; only then
/// is the whole list looked at.
fn pick_endpoint<'a>(
    backend: &RoutedBackend,
    except: Option<usize>,
    random: &mut dyn FnMut() -> u64,
    accepted: impl Fn(usize) -> Option<&'a Arc<Endpoint>>,
) -> Option<usize> {
    let good = |index: &usize| Some(*index) != except && accepted(*index).is_some();
    if backend.endpoints.len() == 1 {
        return Some(0).filter(good);
    }
    const DRAWS: usize = 4;
    for _ in 0..DRAWS {
        let drawn = backend.endpoint_at_random(random())?;
        if good(&drawn) {
            return Some(drawn);
        }
    }
    let rest: Vec<usize> = (0..backend.endpoints.len()).filter(good).collect();
    let weight = |index: usize| {
        backend
            .endpoints
            .get(index)
            .map_or(0, |endpoint| u64::from(endpoint.weight))
    };
    by_weight(&rest, weight, random())
}

/// A backend by weight, at random.
fn backend_at_random(
    route: &ServiceRoute,
    eligible: impl Fn(&RoutedBackend) -> bool,
    random: &mut dyn FnMut() -> u64,
) -> Option<usize> {
    let rest: Vec<usize> = route
        .backends
        .iter()
        .enumerate()
        .filter(|(_, backend)| eligible(backend))
        .map(|(index, _)| index)
        .collect();
    let weight = |index: usize| {
        route
            .backends
            .get(index)
            .map_or(0, |backend| u64::from(backend.weight))
    };
    by_weight(&rest, weight, random())
}

fn by_weight(items: &[usize], weight: impl Fn(usize) -> u64, random: u64) -> Option<usize> {
    let total: u64 = items.iter().map(|item| weight(*item)).sum();
    let mut point = below(random, total);
    for item in items {
        let weight = weight(*item);
        if point < weight {
            return Some(*item);
        }
        point -= weight;
    }
    None
}

/// A number in `0..bound` from uniform bits (0 when `bound` is 0). Multiplying and shifting has no modulo bias worth
/// naming: at most one part in 2^64 / `bound`.
pub(crate) fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}
