//! Which backend, and which endpoint of it: smooth weighted round robin among backends (so that shares are exact, not
//! only likely), power of two choices among healthy endpoints.
//!
//! One balancer belongs to one worker thread; it holds the only mutable state that decisions have.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::route::ServiceRoute;
use crate::service::Endpoint;

/// Time as the balancer sees it: since any fixed moment, given by the caller.
pub type Now = Duration;

/// The state of one worker's choices.
#[derive(Debug, Default)]
pub struct Balancer {}

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

/// Every endpoint is unhealthy, tried already, or there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no healthy endpoint")]
pub struct NothingHealthy;

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
        let _ = (route, tried, now, random);
        unimplemented!("written by its owner")
    }

    /// A connection to the endpoint was made, after `latency`; counts towards its load until [`Balancer::closed`].
    pub fn opened(&mut self, address: SocketAddr, latency: Duration, now: Now) {
        let _ = (address, latency, now);
    }

    /// That connection ended.
    pub fn closed(&mut self, address: SocketAddr) {
        let _ = address;
    }

    /// The endpoint refused or could not be reached: it is skipped for a while that grows with each failure in a row.
    pub fn failed(&mut self, address: SocketAddr, now: Now) {
        let _ = (address, now);
    }
}
