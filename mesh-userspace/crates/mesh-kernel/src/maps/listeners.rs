//! `LISTENERS`: the sockets to which the ingress programs hand connections. An entry vanishes when its socket closes.

use std::os::fd::{AsRawFd, BorrowedFd};

use aya::maps::{Map, MapData, SockHash};
use mesh_common::inbound::ListenerKey;
use mesh_common::names::map::LISTENERS;

use super::{Wire, into_io, map_error};
use crate::error::KernelError;

/// Listening sockets by workload, kind and family.
pub(crate) struct Listeners(SockHash<MapData, Wire<ListenerKey>>);

impl Listeners {
    /// Takes the loaded map.
    pub(crate) fn new(map: Map) -> Result<Self, KernelError> {
        SockHash::try_from(map)
            .map(Self)
            .map_err(map_error("use", LISTENERS))
    }

    /// From now on new connections go to this socket: one write switches a generation.
    pub(crate) fn set(
        &mut self,
        key: ListenerKey,
        socket: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        self.0
            .insert(Wire(key), socket.as_raw_fd(), 0)
            .map_err(map_error("write", LISTENERS))
    }

    /// Removes an entry; one that is not there is removed.
    pub(crate) fn remove(&mut self, key: ListenerKey) -> Result<(), KernelError> {
        match self.0.remove(&Wire(key)).map_err(into_io) {
            Ok(()) => Ok(()),
            // The kernel says EINVAL where it means that there is no entry.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::EINVAL) =>
            {
                Ok(())
            }
            Err(source) => Err(KernelError::Bpf {
                operation: "remove from",
                object: format!("map {LISTENERS}"),
                source,
            }),
        }
    }

    /// The entries that have a living socket.
    pub(crate) fn keys(&self) -> Vec<ListenerKey> {
        self.0
            .keys()
            .filter_map(Result::ok)
            .map(|key| key.0)
            .collect()
    }
}

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listeners")
    }
}
