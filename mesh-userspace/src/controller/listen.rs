//! Listening sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

use super::ControllerError;

/// Listens; where the machine has no IPv6, "all addresses" are those of IPv4.
pub(super) async fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<TcpListener, ControllerError> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if address.ip().is_unspecified() && is_no_family(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.map_err(|source| ControllerError::Listen {
        address,
        purpose,
        source,
    })
}

fn is_no_family(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}
