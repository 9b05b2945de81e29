//! What the agent and this crate say to each other: requests, answers, events. Data only.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::SystemTime;

use mesh_common::counter::Reason;
use mesh_core::workload::WorkloadId;

/// Where this node's kernel state lives, and what it is told about the node.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder on bpffs for pins. A bpffs is mounted there when it is not on one; its mode is 0700, because whoever can
    /// open a pin can detach it.
    pub pins: PathBuf,
    /// The cgroup below which dials are captured: the pods' root, or the root of the hierarchy.
    pub capture_root: PathBuf,
    /// The cgroup below which the mesh's own processes live.
    pub mesh_cgroup: PathBuf,
    /// The port of peers' tunnel listeners.
    pub tunnel_port: u16,
    /// Generation of this agent.
    pub generation: u64,
}

/// What is enrolled.
#[derive(Debug)]
pub enum Target {
    /// A network namespace of its own (a pod, a container).
    NetworkNamespace(OwnedFd),
    /// A service in the node's own network namespace, known by its cgroup.
    Cgroup {
        /// Its cgroup: an absolute path in the file system.
        path: PathBuf,
        /// The node's addresses under which it is reached.
        addresses: Vec<IpAddr>,
        /// Its TCP ports. Without ports nothing that arrives is captured, because the address is the whole node's.
        ports: Vec<u16>,
    },
}

/// How strict the guard is with traffic that went past the capture.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GuardMode {
    /// TCP towards the mesh that the proxy does not own is dropped and counted.
    Strict,
    /// It is counted and passes.
    Permissive,
}

/// What happens to UDP towards addresses of the mesh.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Udp {
    /// It passes, in clear as ever.
    Allow,
    /// It is dropped and counted.
    Deny,
}

/// A workload to enrol.
#[derive(Debug)]
pub struct EnrolRequest {
    /// The node's number for it. One that [`Kernel::known_id`](crate::Kernel::known_id) gives for the target must be kept.
    pub id: WorkloadId,
    /// What it is.
    pub target: Target,
    /// How strict its guard is once it is active.
    pub mode: GuardMode,
    /// What its guard does with UDP.
    pub udp: Udp,
}

/// A workload whose kernel side is ready, but (unless it was adopted) not capturing yet.
#[derive(Debug)]
pub struct Prepared {
    /// The node's number for it.
    pub id: WorkloadId,
    /// It shares the node's network namespace.
    pub host: bool,
    /// It was enrolled by an earlier agent and goes on being captured, to the old listeners, until
    /// [`Kernel::activate`](crate::Kernel::activate).
    pub adopted: bool,
    /// Its own addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// Listening sockets for the worker; this crate keeps duplicates.
    pub listeners: Vec<Listener>,
    /// Where its guard sits.
    pub guard: GuardPlacement,
}

/// A listening socket, non-blocking and close-on-exec.
#[derive(Debug)]
pub struct Listener {
    /// What arrives on it.
    pub kind: ListenerKind,
    /// IPv6 (only).
    pub ipv6: bool,
    /// Where it is bound, in its namespace.
    pub address: SocketAddr,
    /// The socket.
    pub socket: OwnedFd,
}

/// What arrives on a listener.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ListenerKind {
    /// The workload's own dials.
    Outbound,
    /// Tunnels from other workloads.
    Tunnel,
    /// Connections in clear from outside the mesh.
    Plaintext,
}

/// Where a workload's guard sits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GuardPlacement {
    /// On the host end of each of the workload's interfaces, out of its reach.
    HostInterfaces(Vec<GuardedInterface>),
    /// Nowhere: a host service has no interface of its own.
    None,
}

/// One guarded interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuardedInterface {
    /// Index in the node's namespace.
    pub index: u32,
    /// Name in the node's namespace.
    pub name: String,
    /// Index of its peer in the workload's namespace.
    pub inside: u32,
}

/// What an unconnected socket is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Purpose {
    /// To other nodes' tunnel listeners, and to destinations outside the mesh.
    Dial,
    /// To the workload's own application: transparent and marked, so that it can be bound to the client's address.
    Deliver,
}

/// A dropped packet or a refused dial.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drop {
    /// Why.
    pub reason: Reason,
    /// The workload; `None` when the kernel knew none.
    pub workload: Option<WorkloadId>,
    /// Source; `None` for a dial refused before one is chosen. Never v4-mapped.
    pub source: Option<SocketAddr>,
    /// Destination. Never v4-mapped.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// cgroup id of the socket that owned the packet, or of the dialling process.
    pub owner: Option<u64>,
    /// Process that dialled.
    pub pid: Option<u32>,
    /// Interface index in the namespace of the hook.
    pub interface: Option<u32>,
    /// When.
    pub at: SystemTime,
}

/// Something that is not where it was put.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// The workload that it concerns; `None` for the node.
    pub workload: Option<WorkloadId>,
    /// What.
    pub part: Part,
    /// What was found, in words.
    pub found: String,
}

/// A part of the kernel state that the watchdog looks after.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Part {
    /// An attached program, by the name of its pin.
    Link(String),
    /// The policy rule and route that lead replies back to the proxy.
    Delivery,
    /// The sysctls of the workload's namespace.
    Sysctls,
    /// An entry of the map of this name.
    Entry(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.part {
            Part::Link(name) => write!(f, "program {name}: {}", self.found)?,
            Part::Delivery => write!(f, "delivery rule and route: {}", self.found)?,
            Part::Sysctls => write!(f, "sysctls: {}", self.found)?,
            Part::Entry(map) => write!(f, "map {map}: {}", self.found)?,
        }
        self.workload
            .map_or(Ok(()), |id| write!(f, " (workload {id})"))
    }
}

/// What [`uninstall`](crate::uninstall()) took away.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Removed {
    /// Detached programs.
    pub links: usize,
    /// Removed maps.
    pub maps: usize,
    /// Workloads whose namespace was put back as it was.
    pub workloads: usize,
    /// Removed cgroups.
    pub cgroups: usize,
    /// What could not be removed, and why.
    pub left: Vec<String>,
}

impl Removed {
    /// Whether nothing of Warren was there.
    pub fn nothing(&self) -> bool {
        *self == Self::default()
    }
}
