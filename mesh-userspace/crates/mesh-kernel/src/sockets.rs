//! The sockets that are made for the worker, which has no right to make them itself.
//!
//! All are close-on-exec, non-blocking and without Nagle's delay. They carry the agent's cgroup, by which the programs know
//! the mesh's own traffic.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use mesh_common::DELIVERY_MARK;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::types::{Listener, ListenerKind, Purpose};

/// Connections that wait to be accepted; the kernel clamps it to `net.core.somaxconn`. A proxy that restarts finds them.
const BACKLOG: i32 = 4096;

/// A listener of a workload, in the calling thread's namespace.
///
/// The port is random: only the kernel maps know it. The outbound listener is bound to every address because the capture
/// redirects to the workload's own, which may change; the others are bound to loopback, since the ingress program hands
/// connections to them by reference and nothing else should reach them.
pub(crate) fn listener(kind: ListenerKind, ipv6: bool) -> io::Result<Listener> {
    let ip = match (kind, ipv6) {
        (ListenerKind::Outbound, false) => Ipv4Addr::UNSPECIFIED.into(),
        (ListenerKind::Outbound, true) => Ipv6Addr::UNSPECIFIED.into(),
        (_, false) => Ipv4Addr::LOCALHOST.into(),
        (_, true) => Ipv6Addr::LOCALHOST.into(),
    };
    listen(kind, SocketAddr::new(ip, 0), false)
}

/// A tunnel listener on every address of the node, for host services. Shared between generations of agents by
/// `SO_REUSEPORT`, so that a new one can open it before the old one is gone.
pub(crate) fn host_tunnel_listener(ipv6: bool, port: u16) -> io::Result<Listener> {
    let ip = if ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    listen(ListenerKind::Tunnel, SocketAddr::new(ip, port), true)
}

fn listen(kind: ListenerKind, at: SocketAddr, shared: bool) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // What the ingress program hands over is accepted at the application's own port, and the accepted sockets inherit
    // this: without it they would keep the application from binding that port again when it restarts.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    let address = socket
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("a TCP socket without an IP address"))?;
    Ok(Listener {
        kind,
        ipv6: at.is_ipv6(),
        address,
        socket: socket.into(),
    })
}

/// Duplicates of listeners: the same queue of connections, another descriptor.
pub(crate) fn duplicate(listeners: &[Listener]) -> io::Result<Vec<Listener>> {
    listeners
        .iter()
        .map(|listener| {
            Ok(Listener {
                socket: listener.socket.try_clone()?,
                ..*listener
            })
        })
        .collect()
}

/// Unconnected sockets, in the calling thread's namespace. `transparent` ones deliver from the client's own address.
pub(crate) fn unconnected(
    purpose: Purpose,
    transparent: bool,
    ipv6: bool,
    count: usize,
) -> io::Result<Vec<OwnedFd>> {
    (0..count)
        .map(|_| unconnected_one(purpose, transparent, ipv6))
        .collect()
}

fn unconnected_one(purpose: Purpose, transparent: bool, ipv6: bool) -> io::Result<OwnedFd> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if ipv6 {
        socket.set_only_v6(true)?;
    }
    if purpose == Purpose::Deliver && transparent {
        if ipv6 {
            set_ipv6_transparent(&socket)?;
        } else {
            setsockopt(&socket, sockopt::IpTransparent, &true)?;
        }
        socket.set_mark(DELIVERY_MARK)?;
        // Deliveries share the client's ports, as far as their destinations differ.
        socket.set_reuse_address(true)?;
        set_bind_address_no_port(&socket)?;
    }
    Ok(socket.into())
}

fn set_ipv6_transparent(socket: &Socket) -> io::Result<()> {
    set_flag(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
}

/// A port that is left to the kernel is chosen at connect time, per destination, so that binding to a client's address does
/// not use up its ports.
fn set_bind_address_no_port(socket: &Socket) -> io::Result<()> {
    set_flag(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT)
}

fn set_flag(socket: &Socket, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option reads `size_of::<c_int>()` bytes from `on`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
