//! The maps, each with the types of its keys and values. Values are those of `mesh-common`; no meaning is added here.

use aya::maps::{Map, MapData};
use mesh_common::guard::{EstablishedKey, Guard};
use mesh_common::inbound::{Inbound, InboundKey};
use mesh_common::names::map;
use mesh_common::origin::{FlowKey, Origin};
use mesh_common::workload::Workload;

use crate::error::KernelError;

mod config;
mod counters;
mod destinations;
mod listeners;
mod table;

pub(crate) use config::Config;
pub(crate) use counters::Counters;
pub(crate) use destinations::Destinations;
pub(crate) use listeners::Listeners;
pub(crate) use table::Table;

/// Every map that is pinned: all, because programs of the old and the new agent must share them while links are swapped.
pub(crate) const PINNED: [&str; 15] = [
    map::CONFIG,
    map::ENROLLED,
    map::ENROLLED_CGROUPS,
    map::MESH_CGROUPS,
    map::DESTINATIONS,
    map::DIALLED,
    map::ACCEPTED,
    map::FLOWS,
    map::FLOW_QUOTA,
    map::INBOUND,
    map::LISTENERS,
    map::GUARDED,
    map::ESTABLISHED,
    map::EVENTS,
    map::COUNTERS,
];

/// The maps that this side reads or writes.
#[derive(Debug)]
pub(crate) struct Maps {
    /// Settings of the node.
    pub(crate) config: Config,
    /// Network namespace cookie → workload.
    pub(crate) enrolled: Table<u64, Workload>,
    /// cgroup id → host service.
    pub(crate) enrolled_cgroups: Table<u64, Workload>,
    /// cgroup id → generation of the agent or worker.
    pub(crate) mesh_cgroups: Table<u64, u64>,
    /// What is captured.
    pub(crate) destinations: Destinations,
    /// Captured dials on their way to the proxy.
    pub(crate) flows: Table<FlowKey, Origin>,
    /// How many of them each workload has.
    pub(crate) flow_quota: Table<u32, u64>,
    /// Address and port → workload.
    pub(crate) inbound: Table<InboundKey, Inbound>,
    /// Listeners for the ingress programs.
    pub(crate) listeners: Listeners,
    /// Interface index → how its guard decides.
    pub(crate) guarded: Table<u32, Guard>,
    /// Connections older than enrolment.
    pub(crate) established: Table<EstablishedKey, u64>,
    /// Counters.
    pub(crate) counters: Counters,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(crate) fn take(
        mut take: impl FnMut(&'static str) -> Result<Map, KernelError>,
    ) -> Result<Self, KernelError> {
        Ok(Self {
            config: Config::new(take(map::CONFIG)?)?,
            enrolled: Table::new(map::ENROLLED, take(map::ENROLLED)?)?,
            enrolled_cgroups: Table::new(map::ENROLLED_CGROUPS, take(map::ENROLLED_CGROUPS)?)?,
            mesh_cgroups: Table::new(map::MESH_CGROUPS, take(map::MESH_CGROUPS)?)?,
            destinations: Destinations::new(take(map::DESTINATIONS)?)?,
            flows: Table::new(map::FLOWS, take(map::FLOWS)?)?,
            flow_quota: Table::new(map::FLOW_QUOTA, take(map::FLOW_QUOTA)?)?,
            inbound: Table::new(map::INBOUND, take(map::INBOUND)?)?,
            listeners: Listeners::new(take(map::LISTENERS)?)?,
            guarded: Table::new(map::GUARDED, take(map::GUARDED)?)?,
            established: Table::new(map::ESTABLISHED, take(map::ESTABLISHED)?)?,
            counters: Counters::new(take(map::COUNTERS)?)?,
        })
    }
}

/// Key size, value size and capacity of the maps whose pins could be of another shape, as this build declares them; 0 for
/// what the kernel or the machine decides.
pub(crate) fn shape(name: &str) -> Option<[usize; 3]> {
    use mesh_common::address::Prefix;
    use mesh_common::counter::{CounterKey, MAX_COUNTERS};
    use mesh_common::guard::MAX_ESTABLISHED;
    use mesh_common::inbound::{ListenerKey, MAX_INBOUND, MAX_LISTENERS};
    use mesh_common::origin::MAX_FLOWS;
    use mesh_common::workload::{MAX_DESTINATIONS, MAX_MESH_CGROUPS, MAX_WORKLOADS, NodeConfig};
    Some(match name {
        map::CONFIG => [4, size_of::<NodeConfig>(), 1],
        map::ENROLLED | map::ENROLLED_CGROUPS => [8, size_of::<Workload>(), MAX_WORKLOADS as usize],
        map::MESH_CGROUPS => [8, 8, MAX_MESH_CGROUPS as usize],
        map::DESTINATIONS => [size_of::<Prefix>(), 4, MAX_DESTINATIONS as usize],
        map::DIALLED | map::ACCEPTED => [4, size_of::<Origin>(), 0],
        map::FLOWS => [
            size_of::<FlowKey>(),
            size_of::<Origin>(),
            MAX_FLOWS as usize,
        ],
        map::FLOW_QUOTA => [4, 8, 0],
        map::INBOUND => [
            size_of::<InboundKey>(),
            size_of::<Inbound>(),
            MAX_INBOUND as usize,
        ],
        map::LISTENERS => [size_of::<ListenerKey>(), 0, MAX_LISTENERS as usize],
        map::GUARDED => [4, size_of::<Guard>(), MAX_WORKLOADS as usize],
        map::ESTABLISHED => [size_of::<EstablishedKey>(), 8, MAX_ESTABLISHED as usize],
        map::COUNTERS => [size_of::<CounterKey>(), 8, MAX_COUNTERS as usize],
        _ => return None,
    })
}

/// A type of `mesh-common` whose bytes may be given to and taken from the kernel.
///
/// # Safety
/// Every bit pattern is a value, and there is no implicit padding.
pub(crate) unsafe trait Bytes: Copy + 'static {}

macro_rules! bytes {
    ($($type:ty),+ $(,)?) => {
        // SAFETY: integers, or `repr(C)` structures of integers with explicit padding, sizes asserted in mesh-common.
        $(unsafe impl Bytes for $type {})+
    };
}

bytes!(
    u32,
    u64,
    Workload,
    Origin,
    FlowKey,
    Inbound,
    InboundKey,
    Guard,
    EstablishedKey,
    mesh_common::inbound::ListenerKey,
    mesh_common::workload::NodeConfig,
    mesh_common::counter::CounterKey,
    mesh_common::address::Address,
);

/// The same bytes under a type of this crate, so that aya's trait can be implemented for it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire<T>(pub(crate) T);

// SAFETY: `Wire` is transparent and `Bytes` promises what `Pod` asks.
unsafe impl<T: Bytes> aya::Pod for Wire<T> {}

/// An error of a map operation.
pub(crate) fn map_error(
    operation: &'static str,
    name: &str,
) -> impl Fn(aya::maps::MapError) -> KernelError + use<> {
    let object = format!("map {name}");
    move |error| KernelError::Bpf {
        operation,
        object: object.clone(),
        source: into_io(error),
    }
}

/// The kernel's own answer, where there is one.
pub(crate) fn into_io(error: aya::maps::MapError) -> std::io::Error {
    match error {
        aya::maps::MapError::SyscallError(error) => error.io_error,
        aya::maps::MapError::IoError(error) => error,
        aya::maps::MapError::KeyNotFound => std::io::ErrorKind::NotFound.into(),
        other => std::io::Error::other(other),
    }
}

/// Opens a pinned map by itself, without loading anything.
pub(crate) fn open(path: &std::path::Path) -> std::io::Result<MapData> {
    MapData::from_pin(path).map_err(into_io)
}
