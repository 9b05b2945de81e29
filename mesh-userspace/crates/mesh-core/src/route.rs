//! Where a dial goes: one pure function over the snapshot.

use std::sync::Arc;

use crate::addr::OrigDst;
use crate::outcome::Reason;
use crate::service::{Endpoint, Route, RouteRule, Service, ServicePort};
use crate::snapshot::Snapshot;
use crate::workload::Workload;

/// What to do with a dial.
#[derive(Clone, Debug)]
pub enum Decision {
    /// The address of a service: balance among the endpoints of its backends.
    Service(ServiceRoute),
    /// The address of a mesh workload: to that very workload, no balancing.
    Workload(Arc<Workload>),
    /// Not of the mesh (any more): pass it through untouched.
    Outside,
    /// No.
    Refuse {
        /// Why, as records count it.
        reason: Reason,
        /// Why, for a person.
        detail: String,
    },
}

/// The backends that a dial may go to.
#[derive(Clone, Debug)]
pub struct ServiceRoute {
    /// The dialled service.
    pub service: Arc<Service>,
    /// Its dialled port.
    pub port: ServicePort,
    /// The route and rule that decided; `None`: no route is attached, every endpoint of the service takes part.
    pub rule: Option<(Arc<Route>, usize)>,
    /// Weighted backends with at least weight 1.
    pub backends: Vec<RoutedBackend>,
}

impl ServiceRoute {
    /// The rule that decided.
    pub fn rule(&self) -> Option<&RouteRule> {
        self.rule
            .as_ref()
            .and_then(|(route, index)| route.rules.get(*index))
    }
}

/// One backend with its endpoints resolved.
#[derive(Clone, Debug)]
pub struct RoutedBackend {
    /// Its name for records: `web.shop` or `web.shop/v2`.
    pub name: String,
    /// Its share.
    pub weight: u32,
    /// Endpoints with weight above 0; may be empty.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// The port of the backend service that gives the target port.
    pub port: ServicePort,
}

/// Decides where `source`'s dial to `destination` goes.
pub fn decide(snapshot: &Snapshot, source: &Workload, destination: OrigDst) -> Decision {
    let _ = (snapshot, source, destination);
    unimplemented!("written by its owner")
}
