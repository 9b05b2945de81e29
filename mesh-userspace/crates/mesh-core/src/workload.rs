//! Workloads: what has an identity and an address.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::identity::SpiffeId;

/// A node's own number for one of its workloads: what the kernel maps speak of. Never 0, never reused while a
/// connection may still carry it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct WorkloadId(pub u32);

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A name within a namespace; printed as `name.namespace`, as people say it.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Name {
    /// Namespace: the unit of ownership.
    pub namespace: String,
    /// Name, unique for its kind in the namespace.
    pub name: String,
}

impl Name {
    /// Makes a name from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// Labels, sorted, as subsets and policies match them.
pub type Labels = BTreeMap<String, String>;

/// One pod or host service of the mesh, on whichever node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Workload {
    /// Its name.
    pub name: Name,
    /// The identity that its certificate carries.
    pub identity: SpiffeId,
    /// The node on which it runs.
    pub node: String,
    /// Its addresses, IPv4 first, never v4-mapped. Several host services of one node may share an address.
    pub addresses: Vec<IpAddr>,
    /// Labels.
    pub labels: Labels,
    /// The TCP ports that belong to it where the address is shared (host services); empty for all.
    pub ports: Vec<u16>,
}
