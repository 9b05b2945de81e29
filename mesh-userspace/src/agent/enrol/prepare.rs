//! A workload's kernel side made ready, and the worker told about it.

use std::os::fd::OwnedFd;

use mesh_core::workload::WorkloadId;
use mesh_kernel::{EnrolRequest, Kernel, Target};
use mesh_proxy::link::{self, LocalWorkload, ToWorker};

use super::{Active, Context, Enrolments, State, Wanted};
use crate::agent::select::{self, Found};
use crate::agent::supervise::{Outgoing, chain};

impl Enrolments {
    pub(super) fn prepare(
        &mut self,
        wanted: &Wanted,
        cx: &mut Context<'_>,
    ) -> Result<(Active, Vec<mesh_kernel::Listener>), String> {
        let (found, mark) =
            select::find(&wanted.selector, cx.cgroup2).map_err(|error| error.to_string())?;
        let target = match found {
            Found::NetworkNamespace(namespace) => Target::NetworkNamespace(namespace),
            Found::Cgroup(path) => Target::Cgroup {
                path,
                addresses: wanted.addresses.clone(),
                ports: wanted.ports.clone(),
            },
        };
        let known = cx.kernel.known_id(&target).map_err(|error| chain(&error))?;
        let id = match known {
            Some(id) => id,
            None => self.free_id(cx.kernel),
        };
        if let Some(id) = known {
            self.claimed.insert(id);
            if let Some((other, _)) = self.entries.iter().find(|(name, entry)| {
                **name != wanted.name && entry.active().is_some_and(|active| active.id == id)
            }) {
                return Err(format!("{other} selects the same; a workload has one name"));
            }
        }
        let prepared = cx
            .kernel
            .enrol(EnrolRequest {
                id,
                target,
                mode: wanted.mode,
                udp: wanted.udp,
            })
            .map_err(|error| chain(&error))?;
        tracing::info!(
            workload = %wanted.name,
            %id,
            addresses = ?prepared.addresses,
            adopted = prepared.adopted,
            guard = ?prepared.guard,
            "prepared"
        );
        let workload = LocalWorkload {
            id,
            name: wanted.name.clone(),
            identity: wanted.identity.clone(),
            addresses: prepared.addresses,
            host: prepared.host,
        };
        Ok((Active { id, mark, workload }, prepared.listeners))
    }

    /// A number that nobody has, nor had in this agent's time.
    fn free_id(&mut self, kernel: &Kernel) -> WorkloadId {
        let used = kernel.known();
        let mut id = self
            .last_id
            .max(used.iter().map(|id| id.0).max().unwrap_or(0));
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !used.contains(&WorkloadId(id)) {
                self.last_id = id;
                return WorkloadId(id);
            }
        }
    }

    /// Tells the worker about a workload.
    pub(crate) fn announce(
        &mut self,
        workload: &LocalWorkload,
        listeners: Vec<mesh_kernel::Listener>,
        cx: &mut Context<'_>,
    ) {
        if workload.host && !self.host_told {
            match cx.kernel.host_listeners() {
                Ok(shared) => {
                    let (kinds, sockets) = split(shared);
                    (cx.say)(Outgoing::Message(
                        ToWorker::Host { listeners: kinds },
                        sockets,
                    ));
                    self.host_told = true;
                }
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "host services cannot be reached from other nodes"
                    );
                }
            }
        }
        let (kinds, sockets) = split(listeners);
        let message = ToWorker::Enrol {
            workload: workload.clone(),
            listeners: kinds,
        };
        (cx.say)(Outgoing::Message(message, sockets));
    }

    /// Tells a new worker about everything. What was leaving has left: its connections ended with the worker before.
    pub(crate) fn announce_all(&mut self, cx: &mut Context<'_>) {
        self.host_told = false;
        let leaving: Vec<WorkloadId> = self.ids(|state| matches!(state, State::Leaving(_)));
        for id in leaving {
            self.left(id, cx);
        }
        let active: Vec<LocalWorkload> = self
            .entries
            .values()
            .filter_map(|entry| entry.active().map(|active| active.workload.clone()))
            .collect();
        for workload in active {
            match cx.kernel.listeners(workload.id) {
                Ok(listeners) => self.announce(&workload, listeners, cx),
                Err(error) => {
                    tracing::error!(workload = %workload.name, error = chain(&error), "has no listeners any more");
                    self.leave(&workload.name, "its listeners were lost", cx);
                }
            }
        }
    }
}

fn split(listeners: Vec<mesh_kernel::Listener>) -> (Vec<link::Listener>, Vec<OwnedFd>) {
    listeners
        .into_iter()
        .map(|listener| {
            let kind = match listener.kind {
                mesh_kernel::ListenerKind::Outbound => link::ListenerKind::Outbound,
                mesh_kernel::ListenerKind::Tunnel => link::ListenerKind::Tunnel,
                mesh_kernel::ListenerKind::Plaintext => link::ListenerKind::Plaintext,
            };
            let kind = link::Listener {
                kind,
                ipv6: listener.ipv6,
            };
            (kind, listener.socket)
        })
        .unzip()
}
