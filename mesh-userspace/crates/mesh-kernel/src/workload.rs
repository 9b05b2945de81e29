//! A workload as this side knows it, and the names of its pins.

use std::net::IpAddr;

use mesh_common::guard::{Guard, GuardMode as Mode, UdpMode};
use mesh_common::inbound::{InboundKey, ListenerKey, ListenerKind as Kind};
use mesh_common::names::program;
use mesh_common::workload::{Workload, flag};
use mesh_core::workload::WorkloadId;

use crate::address::{first_of_each, to_bytes};
use crate::link::Link;
use crate::namespace::Place;
use crate::netlink::delivery::Families;
use crate::register::{Key, Memory, Pair};
use crate::types::{GuardMode, Listener, ListenerKind, Udp};

/// How far a workload has come.
///
/// ```text
///            enrol              activate            unenrol             release
///  (nothing) ─────► Prepared ─────────────► Active ─────────► Leaving ─────────► (nothing)
///                      ▲   └──────────────────────────────────►┘
///            enrol     │
///  Remembered ─────────┘    (an earlier agent's; capture goes on)
///       └────────────────────── unenrol ──────────────────────►┘
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Left by an earlier agent.
    Remembered,
    /// Ready; a fresh one is not captured yet.
    Prepared,
    /// Captured, to our listeners.
    Active,
    /// Not captured any more; its connections finish.
    Leaving,
}

/// One workload.
#[derive(Debug)]
pub(crate) struct Enrolled {
    pub(crate) memory: Memory,
    pub(crate) stage: Stage,
    /// Its namespace, when it is known.
    pub(crate) place: Option<Place>,
    pub(crate) mode: GuardMode,
    pub(crate) udp: Udp,
    pub(crate) listeners: Vec<Listener>,
    /// Links of its own: ingress and guard.
    pub(crate) links: Vec<Link>,
    /// It was captured already when it was enrolled.
    pub(crate) adopted: bool,
}

impl Enrolled {
    /// Whether it is a host service.
    pub(crate) fn is_host(&self) -> bool {
        matches!(self.memory.key, Key::Cgroup { .. })
    }

    /// What the connect hooks must know of it.
    pub(crate) fn entry(&self, id: WorkloadId) -> Workload {
        let port = |ipv6| {
            self.listeners
                .iter()
                .find(|listener| listener.kind == ListenerKind::Outbound && listener.ipv6 == ipv6)
                .map_or(0, |listener| listener.address.port().to_be())
        };
        let (address4, address6) = first_of_each(&self.memory.addresses);
        Workload {
            id: id.0,
            flags: if self.is_host() { flag::HOST } else { 0 },
            address4,
            port4: port(false),
            port6: port(true),
            address6,
        }
    }

    /// Under which addresses and ports the ingress programs know it.
    pub(crate) fn inbound_keys(&self) -> Vec<InboundKey> {
        let key = |address: &IpAddr, port| InboundKey {
            address: to_bytes(*address),
            port,
            padding: 0,
        };
        let addresses = &self.memory.addresses;
        if self.is_host() {
            addresses
                .iter()
                .flat_map(|address| {
                    self.memory
                        .ports
                        .iter()
                        .map(move |port| key(address, *port))
                })
                .collect()
        } else {
            addresses.iter().map(|address| key(address, 0)).collect()
        }
    }

    /// The families that it uses.
    pub(crate) fn families(&self) -> Families {
        families(&self.memory.addresses)
    }
}

/// The families of some addresses.
pub(crate) fn families(addresses: &[IpAddr]) -> Families {
    Families {
        ipv4: addresses.iter().any(IpAddr::is_ipv4),
        ipv6: addresses.iter().any(IpAddr::is_ipv6),
    }
}

/// Key of a listener that the ingress programs use; `None` for outbound ones, which are known by their port.
pub(crate) fn listener_key(id: WorkloadId, listener: &Listener) -> Option<ListenerKey> {
    let kind = match listener.kind {
        ListenerKind::Outbound => return None,
        ListenerKind::Tunnel => Kind::Tunnel,
        ListenerKind::Plaintext => Kind::Plaintext,
    };
    Some(ListenerKey {
        workload: id.0,
        kind: kind as u16,
        family: if listener.ipv6 {
            libc::AF_INET6 as u16
        } else {
            libc::AF_INET as u16
        },
    })
}

/// How a guard decides. Each interface may send from its own addresses only.
pub(crate) fn guard(id: WorkloadId, mode: Mode, udp: Udp, addresses: &[IpAddr]) -> Guard {
    let (address4, address6) = first_of_each(addresses);
    Guard {
        workload: id.0,
        mode: mode as u32,
        udp: match udp {
            Udp::Allow => UdpMode::Allow as u32,
            Udp::Deny => UdpMode::Deny as u32,
        },
        address4,
        address6,
    }
}

/// The kernel's form of a mode.
pub(crate) const fn guard_mode(mode: GuardMode) -> Mode {
    match mode {
        GuardMode::Strict => Mode::Strict,
        GuardMode::Permissive => Mode::Permissive,
    }
}

/// Pin of the ingress program on an interface of the workload.
pub(crate) fn ingress_pin(id: WorkloadId, pair: Pair) -> String {
    format!("{}-{id}-{}", program::INGRESS, pair.inside)
}

/// Pin of the guard on the host end of an interface of the workload.
pub(crate) fn guard_pin(id: WorkloadId, pair: Pair) -> String {
    format!("{}-{id}-{}", program::GUARD, pair.outside)
}

/// Pin of the ingress program on an interface of the node.
pub(crate) fn host_ingress_pin(interface: u32) -> String {
    format!("{}-{interface}", program::INGRESS_HOST)
}

/// The workload to which a pin belongs, if it belongs to one.
pub(crate) fn owner_of_pin(pin: &str) -> Option<WorkloadId> {
    let mut parts = pin.split('-');
    let program = parts.next()?;
    (program == program::INGRESS || program == program::GUARD).then_some(())?;
    parts.next()?.parse().ok().map(WorkloadId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_name_their_owner() {
        let pair = Pair {
            inside: 2,
            outside: 9,
        };
        let id = WorkloadId(41);
        assert_eq!(owner_of_pin(&ingress_pin(id, pair)), Some(id));
        assert_eq!(owner_of_pin(&guard_pin(id, pair)), Some(id));
        assert_eq!(owner_of_pin(&host_ingress_pin(3)), None);
        assert_eq!(owner_of_pin(program::CONNECT4), None);
    }

    #[test]
    fn a_host_service_without_ports_takes_nothing_that_arrives() {
        let mut service = Enrolled {
            memory: Memory {
                key: Key::Cgroup { id: 1, depth: 1 },
                addresses: vec!["10.0.0.1".parse().expect("an address")],
                ports: Vec::new(),
                pairs: Vec::new(),
                sysctls: None,
            },
            stage: Stage::Prepared,
            place: Some(Place::Node),
            mode: GuardMode::Strict,
            udp: Udp::Allow,
            listeners: Vec::new(),
            links: Vec::new(),
            adopted: false,
        };
        assert!(service.inbound_keys().is_empty());
        service.memory.ports = vec![80, 81];
        assert_eq!(service.inbound_keys().len(), 2);
        assert_eq!(service.entry(WorkloadId(3)).flags, flag::HOST);
    }
}
