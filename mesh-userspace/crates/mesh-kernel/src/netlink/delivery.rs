//! The way back of deliveries, in a workload's namespace: a policy rule and a route.
//!
//! A delivery comes from the client's own address, so the application's replies are addressed to the client and would
//! leave the namespace. `tcp_fwmark_accept` gives them the delivery's mark, the rule leads marked packets to a table, and
//! the table says: deliver here.

use std::io;

use mesh_common::{DELIVERY_MARK, DELIVERY_RULE_PRIORITY, DELIVERY_TABLE};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, interfaces, is_gone};

/// The families that a workload uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Families {
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
}

impl Families {
    fn each(self) -> impl Iterator<Item = AddressFamily> {
        [
            (self.ipv4, AddressFamily::Inet),
            (self.ipv6, AddressFamily::Inet6),
        ]
        .into_iter()
        .filter_map(|(used, family)| used.then_some(family))
    }
}

/// Adds rule and route, in the calling thread's namespace. What is there already is right: nobody else uses our table.
pub(crate) fn add(families: Families) -> io::Result<()> {
    let loopback = loopback_index()?;
    let mut netlink = Netlink::route()?;
    for family in families.each() {
        for message in [
            RouteNetlinkMessage::NewRoute(route(family, loopback)),
            RouteNetlinkMessage::NewRule(rule(family)),
        ] {
            match netlink.change(&message, NLM_F_CREATE | NLM_F_EXCL) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Removes rule and route of both families; what is gone is gone.
pub(crate) fn remove() -> io::Result<()> {
    let loopback = loopback_index()?;
    let mut netlink = Netlink::route()?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in [
            RouteNetlinkMessage::DelRule(rule(family)),
            RouteNetlinkMessage::DelRoute(route(family, loopback)),
        ] {
            match netlink.change(&message, 0) {
                Err(error) if is_gone(&error) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// What is missing, in words; `None` when all is there.
pub(crate) fn missing(families: Families) -> io::Result<Option<String>> {
    let mut netlink = Netlink::route()?;
    for family in families.each() {
        let mut request = RuleMessage::default();
        request.header.family = family;
        let rules = netlink.dump(&RouteNetlinkMessage::GetRule(request))?;
        if !rules.iter().any(is_our_rule) {
            return Ok(Some(format!("no rule for the mark ({family:?})")));
        }
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let routes = netlink.dump(&RouteNetlinkMessage::GetRoute(request))?;
        if !routes.iter().any(is_our_route) {
            return Ok(Some(format!("no route in the table ({family:?})")));
        }
    }
    Ok(None)
}

fn loopback_index() -> io::Result<u32> {
    interfaces::list()?
        .into_iter()
        .find(|interface| interface.loopback)
        .map(|interface| interface.index)
        .ok_or_else(|| io::Error::other("the namespace has no loopback interface"))
}

fn rule(family: AddressFamily) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.attributes = vec![
        RuleAttribute::Priority(DELIVERY_RULE_PRIORITY),
        RuleAttribute::FwMark(DELIVERY_MARK),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Table(DELIVERY_TABLE),
    ];
    message
}

fn route(family: AddressFamily, loopback: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Local;
    // IPv4 demands host scope of a local route; IPv6 knows no scope and reports universe.
    message.header.scope = if family == AddressFamily::Inet {
        RouteScope::Host
    } else {
        RouteScope::Universe
    };
    message.attributes = vec![
        RouteAttribute::Table(DELIVERY_TABLE),
        RouteAttribute::Oif(loopback),
    ];
    message
}

fn is_our_rule(message: &RouteNetlinkMessage) -> bool {
    let RouteNetlinkMessage::NewRule(rule) = message else {
        return false;
    };
    [
        RuleAttribute::FwMark(DELIVERY_MARK),
        RuleAttribute::Table(DELIVERY_TABLE),
        RuleAttribute::Priority(DELIVERY_RULE_PRIORITY),
    ]
    .iter()
    .all(|wanted| rule.attributes.contains(wanted))
}

fn is_our_route(message: &RouteNetlinkMessage) -> bool {
    let RouteNetlinkMessage::NewRoute(route) = message else {
        return false;
    };
    route.header.kind == RouteType::Local
        && route.header.destination_prefix_length == 0
        && route
            .attributes
            .contains(&RouteAttribute::Table(DELIVERY_TABLE))
}
