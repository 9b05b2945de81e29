//! What must be remembered about a workload when the agent is gone: its number, its target, what was changed for it.
//!
//! bpffs holds no files, but it holds symbolic links, whose target is free text. So the memory lives exactly as long as the
//! pins that it describes, and needs no second place.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;

use mesh_core::workload::WorkloadId;

use crate::error::KernelError;
use crate::pin::{self, Pins};
use crate::sysctls;

/// How a workload is recognised, whatever its number.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Key {
    /// By the cookie of its network namespace.
    Namespace(u64),
    /// By its cgroup's id, and how deep that is.
    Cgroup { id: u64, depth: u32 },
}

/// A veth pair.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Pair {
    /// Index of the end in the workload's namespace.
    pub(crate) inside: u32,
    /// Index of the end in the node's namespace.
    pub(crate) outside: u32,
}

/// The memory of one workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Memory {
    pub(crate) key: Key,
    /// Its addresses, IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
    /// Ports of a host service.
    pub(crate) ports: Vec<u16>,
    /// Its interfaces.
    pub(crate) pairs: Vec<Pair>,
    /// Settings of its namespace before us; `None` for host services.
    pub(crate) sysctls: Option<sysctls::Saved>,
}

impl Memory {
    fn as_text(&self) -> String {
        let list = |items: Vec<String>| items.join(",");
        let key = match self.key {
            Key::Namespace(cookie) => format!("netns={cookie}"),
            Key::Cgroup { id, depth } => format!("cgroup={id}:{depth}"),
        };
        let addresses = list(self.addresses.iter().map(IpAddr::to_string).collect());
        let ports = list(self.ports.iter().map(u16::to_string).collect());
        let pairs = self
            .pairs
            .iter()
            .map(|pair| format!("{}:{}", pair.inside, pair.outside));
        let pairs = list(pairs.collect());
        let sysctls = self.sysctls.as_ref().map_or("", sysctls::Saved::as_text);
        format!("{key} addresses={addresses} ports={ports} pairs={pairs} sysctls={sysctls}")
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut key = None;
        let mut memory = Self {
            key: Key::Namespace(0),
            addresses: Vec::new(),
            ports: Vec::new(),
            pairs: Vec::new(),
            sysctls: None,
        };
        for field in text.split(' ') {
            let (name, value) = field.split_once('=')?;
            let items = value.split(',').filter(|item| !item.is_empty());
            match name {
                "netns" => key = Some(Key::Namespace(value.parse().ok()?)),
                "cgroup" => {
                    let (id, depth) = pair(value)?;
                    let depth = u32::try_from(depth).ok()?;
                    key = Some(Key::Cgroup { id, depth });
                }
                "addresses" => {
                    memory.addresses = items.map(|i| i.parse().ok()).collect::<Option<_>>()?;
                }
                "ports" => memory.ports = items.map(|i| i.parse().ok()).collect::<Option<_>>()?,
                "pairs" => {
                    memory.pairs = items
                        .map(|item| {
                            let (inside, outside) = pair(item)?;
                            Some(Pair {
                                inside: u32::try_from(inside).ok()?,
                                outside: u32::try_from(outside).ok()?,
                            })
                        })
                        .collect::<Option<_>>()?;
                }
                "sysctls" if !value.is_empty() => {
                    memory.sysctls = Some(sysctls::Saved::from_text(value));
                }
                // A field of a newer build says nothing to this one.
                _ => {}
            }
        }
        memory.key = key?;
        Some(memory)
    }
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let (first, second) = text.split_once(':')?;
    Some((first.parse().ok()?, second.parse().ok()?))
}

/// Writes a workload's memory, replacing what was there.
pub(crate) fn write(pins: &Pins, id: WorkloadId, memory: &Memory) -> Result<(), KernelError> {
    let path = pins.workloads().join(id.to_string());
    pin::remove(&path)
        .and_then(|()| symlink(memory.as_text(), &path))
        .map_err(|source| KernelError::File {
            operation: "remember the workload in",
            path,
            source,
        })
}

/// Forgets a workload.
pub(crate) fn forget(pins: &Pins, id: WorkloadId) -> Result<(), KernelError> {
    let path = pins.workloads().join(id.to_string());
    pin::remove(&path).map_err(|source| KernelError::File {
        operation: "forget the workload in",
        path,
        source,
    })
}

/// Everything remembered. What cannot be read is named, and left for `uninstall`.
pub(crate) fn read(pins: &Pins) -> Vec<(WorkloadId, Memory)> {
    let folder = pins.workloads();
    Pins::names(&folder)
        .into_iter()
        .filter_map(|name| {
            let read = fs::read_link(folder.join(&name)).and_then(|text| {
                text.to_str()
                    .and_then(Memory::from_text)
                    .ok_or_else(|| io::Error::other("it is not a memory of a workload"))
            });
            match (name.parse(), read) {
                (Ok(id), Ok(memory)) => Some((WorkloadId(id), memory)),
                (_, Err(error)) => {
                    tracing::warn!(name, %error, "ignored an entry among the workloads' pins");
                    None
                }
                (Err(_not_a_number), _) => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_survives_its_text() {
        let memory = Memory {
            key: Key::Namespace(u64::MAX),
            addresses: vec![
                "10.0.0.1".parse().expect("an address"),
                "fd00::1".parse().expect("an address"),
            ],
            ports: Vec::new(),
            pairs: vec![Pair {
                inside: 2,
                outside: 17,
            }],
            sysctls: Some(sysctls::Saved::from_text("0,0,-")),
        };
        assert_eq!(Memory::from_text(&memory.as_text()), Some(memory));
        let host = Memory {
            key: Key::Cgroup { id: 99, depth: 2 },
            addresses: Vec::new(),
            ports: vec![80, 443],
            pairs: Vec::new(),
            sysctls: None,
        };
        assert_eq!(Memory::from_text(&host.as_text()), Some(host));
        assert_eq!(Memory::from_text("pairs="), None);
        assert_eq!(Memory::from_text("netns=x"), None);
    }
}
