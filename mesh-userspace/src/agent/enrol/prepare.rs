//! A workload's kernel side made ready, and the worker told about it.

use std::os::fd::OwnedFd;

use mesh_core::workload::WorkloadId;
use mesh_kernel::{EnrolRequest, Kernel, Target};
use mesh_proxy::link::{self, LocalWorkload, ToWorker};

use super::{Active, Context, Enrolments, Leaving, NotYet, Wanted};
use crate::agent::select::Found;
use crate::agent::supervise::{Outgoing, chain};

impl Enrolments {
    pub(super) fn prepare(
        &mut self,
        wanted: &Wanted,
        cx: &mut Context<'_>,
    ) -> Result<(Active, Vec<mesh_kernel::Listener>), NotYet> {
        let (found, mark) = cx
            .finder
            .find(&wanted.selector, &wanted.addresses, None)
            .map_err(|error| NotYet::because(error.to_string()))?;
        let target = match found {
            Found::NetworkNamespace(namespace) => Target::NetworkNamespace(namespace),
            Found::Cgroup(path) => Target::Cgroup {
                path,
                addresses: wanted.addresses.clone(),
                ports: wanted.ports.clone(),
            },
        };
        let failed = |error| NotYet::because(chain(&error));
        let known = cx.kernel.known_id(&target).map_err(failed)?;
        if let Some(id) = known {
            self.claimed.insert(id);
            let mut actives = self.actives().filter(|(_, active)| active.id == id);
            if let Some((other, _)) = actives.next() {
                return Err(NotYet::because(match *other == wanted.name {
                    true => "its connections from before have to end first".to_owned(),
                    false => format!("{other} selects the same; a workload has one name"),
                }));
            }
        }
        if !(cx.certified)(&wanted.identity) {
            // A guard that holds back new connections must not be closed for as long as it takes to get one.
            return Err(NotYet {
                reason: "the node has no certificate of its identity yet".to_owned(),
                held: true,
            });
        }
        let id = match known {
            Some(id) => id,
            None => self.free_id(cx.kernel),
        };
        let prepared = cx
            .kernel
            .enrol(EnrolRequest {
                id,
                target,
                mode: wanted.mode,
                udp: wanted.udp,
            })
            .map_err(failed)?;
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
        let active = Active {
            id,
            mark,
            selector: wanted.selector.clone(),
            workload,
        };
        Ok((active, prepared.listeners))
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
        for id in self.leaving() {
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
                    let reason = "its listeners were lost";
                    self.leave(&workload.name, reason, Leaving::Itself, cx);
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
