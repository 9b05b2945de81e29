//! The last step inbound: connects to the application, from the client's own address where that is possible.
//! Without a [`Permit`] there is no way in.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use mesh_core::addr::{AppAddr, ClientAddr, is_forbidden_destination};
use mesh_core::outcome::Reason;
use mesh_core::policy::Permit;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::link::{Purpose, SocketKind};
use crate::reservoir::Exhausted;
use crate::served::Served;

mod port;

/// The application did not take the connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The reservoir is empty.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The system call failed.
    #[error("{address}: {source}")]
    Connect {
        /// Whom.
        address: SocketAddr,
        /// The operating system's answer.
        source: io::Error,
    },
    /// It would be delivered to the proxy.
    #[error("{0} is a listener of the mesh, not of an application")]
    OwnListener(SocketAddr),
    /// No answer in time.
    #[error("{0} did not answer in time")]
    Timeout(SocketAddr),
}

impl DialError {
    /// As records count it.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Exhausted(_) => Reason::Overloaded,
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                    Reason::ConnectionRefused
                }
                _ => Reason::Unreachable,
            },
            Self::OwnListener(_) => Reason::WrongDestination,
            Self::Timeout(_) => Reason::Unreachable,
        }
    }
}

/// Connects to the permitted destination, an application of `served`, as `client`.
pub(crate) async fn deliver(
    permit: &Permit,
    served: &Served,
    client: ClientAddr,
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let AppAddr(destination) = permit.destination();
    if served.is_own_listener(destination) {
        return Err(DialError::OwnListener(destination));
    }
    if carries_client(served, client.0.ip(), destination.ip())
        && let Some(connected) = as_client(served, client.0.ip(), destination, deadline).await
    {
        return connected;
    }
    dial(served, destination, deadline).await
}

/// Connects as the client; `None`: that is not possible here. The application then sees the proxy's address: worse than
/// the client's, better than no connection.
async fn as_client(
    served: &Served,
    client: IpAddr,
    destination: SocketAddr,
    deadline: Instant,
) -> Option<Result<TcpStream, DialError>> {
    for port in port::candidates() {
        let socket = match take(served, Purpose::Deliver, destination, deadline).await {
            Ok(socket) => socket,
            Err(error) => return Some(Err(error)),
        };
        // An application listens at this very port.
        match socket2::SockRef::from(&socket).bind(&SocketAddr::new(client, port).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
            Err(error) => {
                tracing::debug!(%error, %client, "cannot deliver from the client's address");
                return None;
            }
            Ok(()) => {}
        }
        match connect(socket, destination, deadline).await {
            // Another delivery from this port to this destination is open.
            Err(DialError::Connect { source, .. })
                if source.kind() == io::ErrorKind::AddrNotAvailable && port != 0 => {}
            connected => return Some(connected),
        }
    }
    None
}

/// Connects from the workload's own network namespace and address.
pub(crate) async fn dial(
    served: &Served,
    destination: SocketAddr,
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    let socket = take(served, Purpose::Dial, destination, deadline).await?;
    connect(socket, destination, deadline).await
}

/// Whether the application can see the client's address: replies to it come back only where the workload has a network
/// namespace of its own, and to addresses that are neither its own nor confined to one machine or link.
fn carries_client(served: &Served, client: IpAddr, destination: IpAddr) -> bool {
    !served.local.host
        && client.is_ipv4() == destination.is_ipv4()
        && !served.owns(client)
        && !is_forbidden_destination(client)
}

async fn take(
    served: &Served,
    purpose: Purpose,
    destination: SocketAddr,
    deadline: Instant,
) -> Result<TcpSocket, DialError> {
    let kind = SocketKind {
        purpose,
        ipv6: destination.is_ipv6(),
    };
    let socket: OwnedFd = served.reservoir.take(kind, deadline).await?;
    // Whoever carries the connection sets what it needs of the socket (TCP_NODELAY): here it would be one system call
    // more for each.
    let socket = socket2::Socket::from(socket);
    Ok(TcpSocket::from_std_stream(socket.into()))
}

async fn connect(
    socket: TcpSocket,
    address: SocketAddr,
    deadline: Instant,
) -> Result<TcpStream, DialError> {
    match timeout_at(deadline, socket.connect(address)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(source)) => Err(DialError::Connect { address, source }),
        Err(_) => Err(DialError::Timeout(address)),
    }
}
