//! What can go wrong at the kernel's edge.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use mesh_core::workload::WorkloadId;

/// Why the kernel half could not do what was asked. Nothing is half done when one of these comes back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The binary has no programs in it.
    #[error("built without the eBPF programs: run `cargo xtask ebpf`, then build again")]
    NoObject,
    /// The kernel refused to load the object.
    #[error("load the eBPF object; `warren check` names the kernel features that are missing")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A pinned map is not as this build would make it.
    #[error("pinned map {map} at {} has another shape; run `warren uninstall`, then start again", path.display())]
    OtherShape {
        /// The map.
        map: &'static str,
        /// Its pin.
        path: PathBuf,
    },
    /// A system call of bpf(2), on a program, link or map.
    #[error("{operation} {object}")]
    Bpf {
        /// The operation.
        operation: &'static str,
        /// On what.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// An operation on a file, folder, cgroup or mount.
    #[error("{operation} {}", path.display())]
    File {
        /// The operation.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A step inside a network namespace.
    #[error("{step}")]
    Namespace {
        /// The step.
        step: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is no cgroup v2 hierarchy, or a path is not in it.
    #[error("{} is not in a cgroup v2 hierarchy; give a folder below the cgroup2 mount", path.display())]
    NotACgroup {
        /// The path.
        path: PathBuf,
    },
    /// A host service that the capture would not see.
    #[error("cgroup {} is not below the capture root {}; choose the service's cgroup below it", path.display(), root.display())]
    OutsideCapture {
        /// The service's cgroup.
        path: PathBuf,
        /// The capture root.
        root: PathBuf,
    },
    /// The workload has no address.
    #[error(
        "workload {id} has no interface with an address; connect its network, then enrol it again"
    )]
    NoAddress {
        /// The workload.
        id: WorkloadId,
    },
    /// The workload's loopback interface is down, so that nothing could be delivered to it.
    #[error(
        "the loopback interface of workload {id} is down; run `ip link set lo up` in its namespace"
    )]
    LoopbackDown {
        /// The workload.
        id: WorkloadId,
    },
    /// The workload has an interface whose other end is not in this node's namespace: nothing could be held back there.
    #[error(
        "interface {interface} of workload {id} ({kind}) has no host end in this node's network namespace, so its guard would have no place; only veth pairs to the node can be enrolled"
    )]
    NoHostEnd {
        /// The workload.
        id: WorkloadId,
        /// The interface.
        interface: String,
        /// Its kind.
        kind: String,
    },
    /// A host service's address that the node does not have.
    #[error("{address} of workload {id} is not an address of this node; give the node's own")]
    ForeignAddress {
        /// The workload.
        id: WorkloadId,
        /// The address.
        address: IpAddr,
    },
    /// A host service's cgroup that the programs cannot look up.
    #[error("cgroup {} is {depth} levels deep; at most 31 are supported", path.display())]
    TooDeep {
        /// The cgroup.
        path: PathBuf,
        /// How deep it is.
        depth: u32,
    },
    /// It is the node's own namespace.
    #[error("workload {id} is in the node's own network namespace; enrol it by its cgroup instead")]
    NodeNamespace {
        /// The workload.
        id: WorkloadId,
    },
    /// An address that another workload of the node already has.
    #[error(
        "{address} already belongs to workload {other}; two workloads of a node cannot share {address}"
    )]
    AddressTaken {
        /// The address, and the port of a host service.
        address: String,
        /// Its owner.
        other: WorkloadId,
    },
    /// The target is enrolled under another number, or the number is another target's.
    #[error("the target is enrolled as workload {known}, not {asked}; ask `known_id` first")]
    OtherId {
        /// The number it has.
        known: WorkloadId,
        /// The number that was asked for.
        asked: WorkloadId,
    },
    /// The number stands for another target.
    #[error(
        "number {id} belongs to another workload that is enrolled or leaving; choose a free one"
    )]
    IdTaken {
        /// The number.
        id: WorkloadId,
    },
    /// No such workload.
    #[error("workload {id} is not enrolled")]
    Unknown {
        /// The workload.
        id: WorkloadId,
    },
    /// The workload is known from an earlier agent only.
    #[error("workload {id} is known from an earlier run only; enrol it first")]
    NotPrepared {
        /// The workload.
        id: WorkloadId,
    },
}
