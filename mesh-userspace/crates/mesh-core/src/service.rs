//! Services: a stable address in front of endpoints, and the routes that split traffic among subsets of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::workload::{Labels, Name, Workload};

/// A named group of endpoints behind one or more virtual addresses.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// Virtual addresses, one per family at most in practice.
    pub addresses: Vec<IpAddr>,
    /// The ports it offers.
    pub ports: Vec<ServicePort>,
    /// Where it runs.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Named selections of endpoints by label.
    pub subsets: BTreeMap<String, Labels>,
}

/// One port of a service.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ServicePort {
    /// The port that clients dial.
    pub port: u16,
    /// The port on which endpoints listen, unless an endpoint says otherwise.
    pub target_port: u16,
}

/// One place where a service runs.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Endpoint {
    /// Address of the application.
    pub address: IpAddr,
    /// Its port, when it differs from the service's target port.
    pub port: Option<u16>,
    /// The same for single ports of the service, by the port that clients dial; `None`: it does not offer that one.
    #[serde(default)]
    pub ports: BTreeMap<u16, Option<u16>>,
    /// Share among the endpoints of its subset; 0 takes no new connection.
    pub weight: u32,
    /// Labels, as subsets match them.
    pub labels: Labels,
    /// The mesh workload that it is; `None` for an endpoint outside the mesh, which is reached in clear.
    pub workload: Option<Arc<Workload>>,
}

impl Endpoint {
    /// The address of the application for a service port.
    pub fn socket_addr(&self, port: &ServicePort) -> SocketAddr {
        let own = self.ports.get(&port.port).copied().flatten().or(self.port);
        SocketAddr::new(self.address, own.unwrap_or(port.target_port))
    }

    /// Whether it offers a service port.
    pub fn offers(&self, port: &ServicePort) -> bool {
        self.ports.get(&port.port).is_none_or(Option::is_some)
    }
}

/// A TCP route: rules for dials towards a service. The first rule that matches decides.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Route {
    /// Its name, as explanations give it.
    pub name: Name,
    /// The service whose address clients dial.
    pub service: Name,
    /// Rules, in order.
    pub rules: Vec<RouteRule>,
}

/// One rule of a route.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RouteRule {
    /// Its name, or its position.
    pub name: String,
    /// The service port it is for; `None` for every port.
    pub port: Option<u16>,
    /// Where connections go, by weight. All weights 0, or no backend, refuses the connection.
    pub backends: Vec<Backend>,
}

/// One weighted destination of a rule.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Backend {
    /// The service it leads to (the routed service itself, in most cases).
    pub service: Name,
    /// The subset of it; `None` for all endpoints.
    pub subset: Option<String>,
    /// The port of that service; `None` for the one that stands for the dialled port.
    #[serde(default)]
    pub port: Option<u16>,
    /// Share of connections: weight divided by the sum of the rule's weights.
    pub weight: u32,
}
