//! By which interfaces a workload reaches anybody, and where each can be guarded.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use mesh_core::workload::WorkloadId;

use crate::enrol::step_failed;
use crate::error::KernelError;
use crate::namespace;
use crate::netlink::interfaces::{self, Interface};
use crate::register::Pair;

/// An interface of the workload and its host end.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub(crate) pair: Pair,
    /// Name of the host end.
    pub(crate) name: String,
    /// Addresses of the workload's end.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The interfaces by which a workload reaches anybody, each with its host end.
pub(crate) fn exits(id: WorkloadId, fd: &OwnedFd) -> Result<Vec<Exit>, KernelError> {
    let listed = namespace::visit(fd.as_fd(), interfaces::list)
        .map_err(|source| step_failed(id, "list the interfaces", source))?;
    if listed.iter().any(|each| each.loopback && !each.up) {
        return Err(KernelError::LoopbackDown { id });
    }
    let mut exits = Vec::new();
    for interface in listed.into_iter().filter(|each| !each.loopback) {
        match interfaces::host_end(&interface, fd.as_fd())
            .map_err(|source| step_failed(id, "find the host end of an interface", source))?
        {
            Some((outside, name)) => exits.push(Exit {
                pair: Pair {
                    inside: interface.index,
                    outside,
                },
                name,
                addresses: interface.addresses,
            }),
            None if may_lead_out(&interface) => {
                return Err(KernelError::NoHostEnd {
                    id,
                    interface: interface.name,
                    kind: interface.kind,
                });
            }
            None => {}
        }
    }
    if exits.iter().all(|exit| exit.addresses.is_empty()) {
        return Err(KernelError::NoAddress { id });
    }
    for exit in &exits {
        warn_of_more_addresses(id, exit);
    }
    Ok(exits)
}

/// Whether an interface without a host end of ours could lead out of the workload.
///
/// Bridges, tunnels and whatever else sends through another interface of the workload are guarded with that one. A veth
/// without an address leads into a namespace that is nested.
fn may_lead_out(interface: &Interface) -> bool {
    match interface.kind.as_str() {
        "" => true,
        "veth" => !interface.addresses.is_empty(),
        _ => interface.leads_elsewhere(),
    }
}

/// The guard knows one address of each family; packets from others are dropped as spoofed (fail closed), which somebody
/// should be told.
fn warn_of_more_addresses(id: WorkloadId, exit: &Exit) {
    for ipv6 in [false, true] {
        let of_family = exit.addresses.iter().filter(|ip| ip.is_ipv6() == ipv6);
        if of_family.clone().count() > 1 {
            tracing::warn!(
                workload = id.0,
                interface = exit.name,
                addresses = ?of_family.collect::<Vec<_>>(),
                "an interface has several addresses of a family; only the first may send"
            );
        }
    }
}
