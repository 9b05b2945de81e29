//! The scene of most stories: a client on one node, a server on the other, a service in front of the server.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;

use super::node::Node;
use super::place::{Place, Server};
use super::{Cluster, service_addresses};

/// The service's port, and the server's.
pub const PORT: (u16, u16) = (80, 8080);

/// Client and server in the mesh.
pub struct Shop {
    /// The client's node.
    pub a: Arc<Node>,
    /// The server's node.
    pub b: Arc<Node>,
    /// The client, on node a.
    pub client: Place,
    /// The server, on node b.
    pub server: Place,
    /// What runs in the server: echo on 8080, and what was asked for besides.
    pub application: Server,
    /// The service `web` in both families.
    pub web: [SocketAddr; 2],
}

impl Shop {
    /// Builds it and starts the mesh. The server also serves `more` (see [`crate::probe::serve`]).
    pub fn open(cluster: &mut Cluster, more: &[&str]) -> Result<Self> {
        let shop = Self::build(cluster, more)?;
        cluster.start(&[&shop.client, &shop.server])?;
        Ok(shop)
    }

    /// Builds it and configures the mesh, but does not start it.
    pub fn build(cluster: &mut Cluster, more: &[&str]) -> Result<Self> {
        let (a, b) = cluster.two_nodes()?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let application = server.serve(&[&["8080=echo"], more].concat())?;
        let addresses = service_addresses(1);
        cluster
            .configuration()
            .service("web", addresses, PORT, &[&server]);
        Ok(Self {
            a,
            b,
            client,
            server,
            application,
            web: addresses.map(|address| SocketAddr::new(address, PORT.0)),
        })
    }

    /// The service in one family.
    pub fn web4(&self) -> SocketAddr {
        self.web[0]
    }

    /// The service in the other.
    pub fn web6(&self) -> SocketAddr {
        self.web[1]
    }
}
