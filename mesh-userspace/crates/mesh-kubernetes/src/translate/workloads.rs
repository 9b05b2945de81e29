//! A pod → its workload fact.

use std::net::IpAddr;

use mesh_control::objects::{Selector, WorkloadSpec};
use mesh_core::addr::is_forbidden_destination;
use mesh_core::identity::SpiffeId;
use mesh_core::workload::Labels;

use super::membership::{Membership, WhyNot, membership};
use super::state::State;
use crate::observe::Pod;

/// The identity of a pod.
pub(crate) fn identity(state: &State, pod: &Pod) -> Result<SpiffeId, WhyNot> {
    let domain = state.settings.mesh.trust_domain.clone();
    SpiffeId::new(domain, &pod.name.namespace, &pod.service_account).map_err(|error| {
        WhyNot::NoIdentity {
            why: error.to_string(),
        }
    })
}

/// Whether a pod is of the mesh, as the state says.
pub(crate) fn member(state: &State, pod: &Pod) -> Membership {
    let namespace = state.namespaces.get(&pod.name.namespace);
    let system = &state.settings.system_namespace;
    match membership(pod, namespace.map(AsRef::as_ref), system) {
        Membership::Meshed => match identity(state, pod) {
            Ok(_) => Membership::Meshed,
            Err(why) => Membership::Not(why),
        },
        not => not,
    }
}

/// The workload that a pod is; `None` when it is not of the mesh, or not on a node yet (a workload without a node would be
/// everybody's).
pub(crate) fn workload(state: &State, pod: &Pod) -> Option<WorkloadSpec> {
    if member(state, pod) != Membership::Meshed {
        return None;
    }
    let node = pod.node.clone()?;
    let namespace = state.namespaces.get(&pod.name.namespace);
    Some(WorkloadSpec {
        name: pod.name.clone(),
        service_account: pod.service_account.clone(),
        node: Some(node),
        addresses: own_addresses(state, pod),
        labels: Labels::clone(&pod.labels),
        ports: Vec::new(),
        select: Some(Selector::Pod {
            uid: pod.uid.clone(),
        }),
        udp: pod
            .udp
            .or_else(|| namespace.and_then(|namespace| namespace.udp))
            .unwrap_or(false),
    })
}

/// The addresses of a pod that no other pod has by now: an address is given away again while the one that had it is still
/// seen to end.
fn own_addresses(state: &State, pod: &Pod) -> Vec<IpAddr> {
    let is_own = |ip: &IpAddr| {
        let owner = state
            .pods_at(ip)
            .max_by(|left, right| precedence(left).cmp(&precedence(right)));
        !is_forbidden_destination(*ip) && owner.is_none_or(|owner| owner.name == pod.name)
    };
    pod.addresses.iter().copied().filter(is_own).collect()
}

/// Of two pods with one address, the greater one has it: one that is not ending, the younger one.
fn precedence(pod: &Pod) -> (bool, i64, &str, &str) {
    let Pod {
        terminating,
        created,
        name,
        uid,
        ..
    } = pod;
    (!terminating, *created, name.name.as_str(), uid.as_str())
}
