//! What nodes are plugged into: a bridge in a namespace of its own.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Result;

use crate::host::namespace::Namespace;

/// Nodes that know of each other's pods.
const MOST_NODES: u8 = 4;

pub(super) struct Wire {
    cluster: String,
    namespace: Arc<Namespace>,
}

impl Wire {
    pub(super) fn create(cluster: &str) -> Result<Self> {
        let namespace = Namespace::create(&format!("{cluster}-wire"))?;
        namespace.ip("link add wire type bridge\nlink set wire up")?;
        Ok(Self {
            cluster: cluster.to_owned(),
            namespace: Arc::new(namespace),
        })
    }

    pub(super) fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Makes a namespace with an interface on the wire, an address there, and routes to the pods of all nodes.
    pub(super) fn attach(&self, name: &str, number: u8) -> Result<Arc<Namespace>> {
        let namespace = Namespace::create(&format!("{}-{name}", self.cluster))?;
        namespace.sysctl("net/ipv4/ip_forward", "1")?;
        namespace.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        self.namespace.ip(&format!(
            "link add to-{name} type veth peer name eth0 netns {}\nlink set to-{name} master wire up",
            namespace.name()
        ))?;
        let mut commands = format!(
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\nlink set eth0 up\n",
            address4(number),
            address6(number)
        );
        for other in (1..=MOST_NODES).filter(|other| *other != number) {
            commands += &format!(
                "route add 10.{other}.0.0/24 via {}\nroute add fd00:{other}::/64 via {}\n",
                address4(other),
                address6(other)
            );
        }
        namespace.ip(&commands)?;
        Ok(Arc::new(namespace))
    }
}

pub(super) fn address4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}

pub(super) fn address6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, number.into())
}
