//! The maps, under the names and with the sizes of `mesh-common`. BTF-defined, so that bpftool and other loaders can
//! read them.
//!
//! Hash maps allocate per entry (`BPF_F_NO_PREALLOC`): a node pays for what it uses, not for the limits.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruPerCpuHashMap, PerCpuHashMap, RingBuf, SkStorage, SockHash,
};
use aya_ebpf::macros::btf_map;
use mesh_common::address::Address;
use mesh_common::counter::{CounterKey, MAX_COUNTERS};
use mesh_common::event::EVENTS_SIZE;
use mesh_common::guard::{EstablishedKey, Guard, MAX_ESTABLISHED};
use mesh_common::inbound::{Inbound, InboundKey, ListenerKey, MAX_INBOUND, MAX_LISTENERS};
use mesh_common::origin::{FlowKey, MAX_FLOWS, Origin};
use mesh_common::workload::{
    MAX_DESTINATIONS, MAX_MESH_CGROUPS, MAX_WORKLOADS, NodeConfig, Workload,
};
use mesh_ebpf::rate::Rate;

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static CONFIG: Array<NodeConfig, 1> = Array::new();

#[btf_map]
pub static ENROLLED: HashMap<u64, Workload, { MAX_WORKLOADS as usize }, LAZY> = HashMap::new();

#[btf_map]
pub static ENROLLED_CGROUPS: HashMap<u64, Workload, { MAX_WORKLOADS as usize }, LAZY> =
    HashMap::new();

#[btf_map]
pub static MESH_CGROUPS: HashMap<u64, u64, { MAX_MESH_CGROUPS as usize }, LAZY> = HashMap::new();

#[btf_map]
pub static DESTINATIONS: LpmTrie<Address, u32, { MAX_DESTINATIONS as usize }> = LpmTrie::new();

#[btf_map]
pub static DIALLED: SkStorage<Origin> = SkStorage::new();

#[btf_map]
pub static ACCEPTED: SkStorage<Origin> = SkStorage::new();

#[btf_map]
pub static FLOWS: HashMap<FlowKey, Origin, { MAX_FLOWS as usize }, LAZY> = HashMap::new();

#[btf_map]
pub static FLOW_QUOTA: HashMap<u32, u64, { MAX_WORKLOADS as usize }, LAZY> = HashMap::new();

#[btf_map]
pub static INBOUND: HashMap<InboundKey, Inbound, { MAX_INBOUND as usize }, LAZY> = HashMap::new();

#[btf_map]
pub static LISTENERS: SockHash<ListenerKey, { MAX_LISTENERS as usize }> = SockHash::new();

#[btf_map]
pub static GUARDED: HashMap<u32, Guard, { MAX_WORKLOADS as usize }, LAZY> = HashMap::new();

#[btf_map]
pub static ESTABLISHED: HashMap<EstablishedKey, u64, { MAX_ESTABLISHED as usize }, LAZY> =
    HashMap::new();

/// Of [`mesh_common::event::Event`]. A ring buffer has no value type for libbpf, and bpftool refuses one that is given.
#[btf_map]
pub static EVENTS: RingBuf<(), { EVENTS_SIZE as usize }> = RingBuf::new();

#[btf_map]
pub static COUNTERS: PerCpuHashMap<CounterKey, u64, { MAX_COUNTERS as usize }, LAZY> =
    PerCpuHashMap::new();

/// The programs' own notebook for limiting events; user space has no business with it. It is small because every CPU
/// has one: the worst that happens when it overflows is that a window starts again early.
#[btf_map]
pub static EVENT_RATES: LruPerCpuHashMap<CounterKey, Rate, 1024> = LruPerCpuHashMap::new();
