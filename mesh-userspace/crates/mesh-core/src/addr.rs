//! Addresses that carry their role in their type: a bare `SocketAddr` says nothing about which end it is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

macro_rules! role {
    ($(#[$doc:meta])+ $name:ident) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        pub struct $name(pub SocketAddr);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

role! {
    /// Where the application thought it was connecting, before the kernel redirected it. Never v4-mapped.
    OrigDst
}
role! {
    /// The application's own end of a connection, as its peer should see it. Never v4-mapped.
    ClientAddr
}
role! {
    /// Another node's tunnel listener: an address of the destination workload, and the tunnel port.
    PeerAddr
}
role! {
    /// Where the destination application listens.
    AppAddr
}

/// Unwraps a v4-mapped IPv6 address (RFC 4291 §2.5.5.2), so that one host has one spelling.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// The metadata service of a large cloud that is not link-local: whoever reaches it in a workload's place may get the
/// machine's credentials.
const CLOUD_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Whether an address may never be a destination of the mesh: loopback, link-local (most cloud metadata services live
/// there), multicast, unspecified, broadcast.
pub fn is_forbidden_destination(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_unspecified()
                || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified()
                || v6 == CLOUD_METADATA
        }
    }
}
