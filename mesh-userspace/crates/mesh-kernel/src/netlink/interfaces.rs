//! A namespace's interfaces: their addresses, and where their other ends are.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use mesh_core::addr::is_forbidden_destination;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::Netlink;

/// An interface of the calling thread's namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Interface {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Driver kind, e.g. `veth`; empty for hardware.
    pub(crate) kind: String,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    /// Index of its other end, in the other end's namespace.
    peer: Option<u32>,
    /// This namespace's id for the other end's namespace.
    peer_namespace: Option<i32>,
    /// Addresses that others can reach, IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Interface {
    /// Whether it sends through an interface of another namespace.
    pub(crate) fn leads_elsewhere(&self) -> bool {
        self.peer_namespace.is_some()
    }
}

/// Every interface of the calling thread's namespace.
pub(crate) fn list() -> io::Result<Vec<Interface>> {
    let mut netlink = Netlink::route()?;
    let links = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let mut interfaces: Vec<Interface> = links.into_iter().filter_map(interface).collect();
    let addresses = netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    for message in addresses {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            continue;
        };
        let Some(address) = own_address(&message).filter(|ip| !is_forbidden_destination(*ip))
        else {
            continue;
        };
        if let Some(interface) = interfaces
            .iter_mut()
            .find(|interface| interface.index == message.header.index)
        {
            interface.addresses.push(address);
        }
    }
    for interface in &mut interfaces {
        interface.addresses.sort_by_key(IpAddr::is_ipv6);
    }
    Ok(interfaces)
}

fn interface(message: RouteNetlinkMessage) -> Option<Interface> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut interface = Interface {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        peer: None,
        peer_namespace: None,
        addresses: Vec::new(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Link(index) => interface.peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => interface.peer_namespace = Some(id),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        interface.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    Some(interface)
}

/// The interface's own address: on point-to-point links `IFA_ADDRESS` is the other end's.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(other) => address = Some(*other),
            _ => {}
        }
    }
    address
}

/// The end of a veth pair in the calling thread's (the node's) namespace, when `inside` is its other end in `namespace`.
///
/// An index alone proves nothing: indexes repeat between namespaces. Both ends must point at each other.
pub(crate) fn host_end(
    inside: &Interface,
    namespace: BorrowedFd<'_>,
) -> io::Result<Option<(u32, String)>> {
    let Some(index) = inside.peer.filter(|_| inside.kind == "veth") else {
        return Ok(None);
    };
    let mut netlink = Netlink::route()?;
    let mut request = LinkMessage::default();
    request.header.index = index;
    let answer = match netlink.get(&RouteNetlinkMessage::GetLink(request)) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        other => other?,
    };
    let Some(outside) = answer.and_then(interface) else {
        return Ok(None);
    };
    let points_back = outside.kind == "veth" && outside.peer == Some(inside.index);
    let same_namespace = outside.peer_namespace.is_some()
        && outside.peer_namespace == namespace_id(&mut netlink, namespace)?;
    Ok((points_back && same_namespace).then_some((outside.index, outside.name)))
}

/// The calling thread's namespace's id for another namespace, if it has given it one.
fn namespace_id(netlink: &mut Netlink, namespace: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut request = NsidMessage::default();
    request
        .attributes
        .push(NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned()));
    let answer = netlink.get(&RouteNetlinkMessage::GetNsId(request))?;
    let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else {
        return Ok(None);
    };
    Ok(answer
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        }))
}
