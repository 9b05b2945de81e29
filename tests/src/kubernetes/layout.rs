//! Names and addresses. There is one cluster per machine, so they are fixed, and what is left of one is found by them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The first letters of the name of every network namespace and cgroup.
pub const PREFIX: &str = "wk-";

/// Network namespace and cgroup of the control plane.
pub const CONTROL: &str = "wk-control";

/// The bridge in it that nodes are plugged into.
pub const BRIDGE: &str = "nodes";

/// Where nodes and the API server meet.
pub const API_SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 6443);

/// The cluster addresses of services; the first of them is the API server's.
pub const SERVICES: &str = "10.96.0.0/16";

/// The API server as pods know it.
pub const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);

/// The cluster's DNS as pods know it.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The addresses of all pods.
pub const PODS: &str = "10.244.0.0/16";

/// More nodes than a machine should be asked for.
pub const MOST_NODES: u8 = 4;

/// The files of the running cluster. On disk rather than in memory: containers' file systems are in it.
pub fn folder() -> PathBuf {
    PathBuf::from("/var/tmp/wk-cluster")
}

/// Files of the control plane: data and logs.
pub fn control_folder() -> PathBuf {
    folder().join("control")
}

/// Certificates and kubeconfigs.
pub fn pki_folder() -> PathBuf {
    folder().join("pki")
}

/// Archives of the images that every node imports when it starts.
pub fn images_folder() -> PathBuf {
    folder().join("images")
}

/// The administrator's kubeconfig.
pub fn kubeconfig() -> PathBuf {
    pki_folder().join("admin.kubeconfig")
}

/// One node: everything about it follows from its number, which begins at 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Node(pub u8);

impl Node {
    /// The first so many.
    pub fn first(count: u8) -> impl Iterator<Item = Self> {
        (1..=count).map(Self)
    }

    /// As the cluster knows it.
    pub fn name(self) -> String {
        format!("node{}", self.0)
    }

    /// Its network namespace and its cgroup in every hierarchy.
    pub fn namespace(self) -> String {
        format!("{PREFIX}{}", self.name())
    }

    /// Its address.
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, 10 + self.0)
    }

    /// The addresses of its pods.
    pub fn pods(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    /// Its files.
    pub fn folder(self) -> PathBuf {
        folder().join(self.name())
    }

    /// What its first process says.
    pub fn log(self) -> PathBuf {
        self.folder().join("machine.log")
    }
}
