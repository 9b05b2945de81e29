//! The contract between the kernel half (`mesh-ebpf`) and the user half (`mesh-kernel`).
//!
//! Everything here crosses the system-call boundary as plain bytes, so the rules are strict:
//! `repr(C)`, explicit padding that is always zero (the kernel hashes and compares bytes), sizes asserted at
//! compile time, byte order stated per field. No logic, no dependency, no allocation.
//!
//! Reading order: [`names`] (what the programs and maps are called), [`address`] (one form for both families),
//! [`origin`] (what a redirected connection remembers), [`workload`] (who is enrolled, and how), [`inbound`]
//! (which SYN goes to which listener), [`guard`] (what may leave a workload), [`counter`] and [`event`].
#![no_std]

pub mod address;
pub mod counter;
pub mod event;
pub mod guard;
pub mod inbound;
pub mod names;
pub mod origin;
pub mod workload;

/// Version of every layout in this crate. A pinned map made by another version is replaced, never adopted.
pub const LAYOUT_VERSION: u16 = 1;

/// The TCP port on which nodes accept tunnels from each other.
pub const TUNNEL_PORT: u16 = 15008;

/// `getsockopt(SOL_IP, SO_ORIGINAL_DST)`: the option number of netfilter, answered for both families by the
/// `origdst` program with an [`origin::Origin`].
pub const SO_ORIGINAL_DST: i32 = 80;

/// Firewall mark carried by sockets that deliver a connection to an application from the client's own address.
/// It only chooses a route inside the workload's namespace (replies come back to the proxy); it gives no privilege.
pub const DELIVERY_MARK: u32 = 0x0157_0001;

/// Routing table, in the workload's namespace, that the mark selects.
pub const DELIVERY_TABLE: u32 = 15008;

/// Priority of the policy rule that selects [`DELIVERY_TABLE`]: before every rule of the default set but `local`'s 0.
pub const DELIVERY_RULE_PRIORITY: u32 = 150;
