//! Enrolling a host service: a cgroup in the node's own network namespace.
//!
//! It has no interface of its own, so there is no guard and no transparent delivery. Its dials are captured by its cgroup;
//! what arrives at its ports, on whichever interface of the node, is given to the proxy. Tunnels for all host services of
//! the node arrive at ordinary listeners on the tunnel port.

use std::io;

use mesh_common::names::program;
use mesh_common::workload::NodeConfig;
use mesh_core::workload::WorkloadId;

use crate::bpf::{AttachType, LinkTarget};
use crate::cgroup;
use crate::enrol::step_failed;
use crate::error::KernelError;
use crate::kernel::Kernel;
use crate::link::{Link, Wanted};
use crate::namespace::Place;
use crate::netlink::interfaces;
use crate::register::{Key, Memory};
use crate::sockets;
use crate::types::{EnrolRequest, GuardPlacement, Listener, Target};
use crate::undo::Undo;
use crate::workload::{Enrolled, Stage, host_ingress_pin};

impl Kernel {
    pub(crate) fn prepare_host(
        &mut self,
        request: EnrolRequest,
        key: Key,
        undo: &mut Undo,
    ) -> Result<(Enrolled, GuardPlacement), KernelError> {
        let EnrolRequest {
            id,
            target:
                Target::Cgroup {
                    path,
                    mut addresses,
                    ports,
                },
            mode,
            udp,
        } = request
        else {
            return Err(KernelError::Unknown { id: request.id });
        };
        if !cgroup::is_below(&path, &self.options.capture_root) {
            return Err(KernelError::OutsideCapture {
                path,
                root: self.options.capture_root.clone(),
            });
        }
        self.step("interfaces")?;
        let own: Vec<_> = interfaces::list()
            .map_err(|source| step_failed(id, "list the interfaces", source))?
            .into_iter()
            .flat_map(|interface| interface.addresses)
            .collect();
        addresses.sort_by_key(std::net::IpAddr::is_ipv6);
        if addresses.is_empty() {
            return Err(KernelError::NoAddress { id });
        }
        if let Some(address) = addresses.iter().find(|address| !own.contains(address)) {
            return Err(KernelError::ForeignAddress {
                id,
                address: *address,
            });
        }
        if let Key::Cgroup { depth, .. } = key
            && depth >= u32::BITS
        {
            return Err(KernelError::TooDeep { path, depth });
        }
        self.step("memory")?;
        let adopted = self.is_captured(key);
        let previous = self.workloads.get(&id).map(|known| known.memory.clone());
        let memory = Memory {
            key,
            addresses,
            ports,
            pairs: Vec::new(),
            sysctls: None,
        };
        self.write_memory(id, &memory, previous, undo)?;
        let mut workload = Enrolled {
            memory,
            stage: Stage::Prepared,
            place: Some(Place::Node),
            mode,
            udp,
            listeners: Vec::new(),
            links: Vec::new(),
            adopted,
        };
        self.listen_and_offer(id, &mut workload, undo)?;
        if !workload.inbound_keys().is_empty() {
            undo.note("ingress of the node", move |kernel| {
                kernel.release_host_links(id)
            });
            self.attach_host_ingress()?;
        }
        self.step("ingress")?;
        Ok((workload, GuardPlacement::None))
    }

    /// Attaches the host's ingress program to every interface of the node that has none, since a connection to one of its
    /// addresses can arrive on any of them.
    pub(crate) fn attach_host_ingress(&mut self) -> Result<(), KernelError> {
        let listed = interfaces::list().map_err(|source| KernelError::Namespace {
            step: "list the node's interfaces".to_owned(),
            source,
        })?;
        for interface in listed.into_iter().filter(|each| !each.loopback) {
            let index = interface.index;
            let attached = self
                .host_links
                .get(&index)
                .and_then(|link| link.info().ok())
                .is_some_and(|info| info.target == u64::from(index));
            if attached {
                continue;
            }
            let wanted = Wanted {
                program: self.programs.fd(program::INGRESS_HOST),
                target: LinkTarget::Interface(index),
                target_id: u64::from(index),
                attach: AttachType::TcxIngress,
            };
            match Link::attach(&self.pins, &host_ingress_pin(index), wanted) {
                Ok(attached) => {
                    self.host_links.insert(index, attached.link);
                }
                // It went away meanwhile.
                Err(KernelError::Bpf { source, .. })
                    if source.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes the host's ingress programs when no service but `leaving` needs them.
    pub(crate) fn release_host_links(&mut self, leaving: WorkloadId) -> Result<(), KernelError> {
        let needed = self.workloads.iter().any(|(id, workload)| {
            *id != leaving && workload.stage != Stage::Leaving && takes_arrivals(workload)
        });
        if needed {
            return Ok(());
        }
        while let Some((_, link)) = self.host_links.pop_first() {
            link.remove()?;
        }
        Ok(())
    }

    /// Tells the connect hooks at which depths of the hierarchy services are enrolled.
    pub(crate) fn write_cgroup_levels(&mut self) -> Result<(), KernelError> {
        let captured = self.maps.enrolled_cgroups.entries();
        let levels = self
            .workloads
            .values()
            .map(|workload| workload.memory.key)
            .filter_map(|key| match key {
                Key::Cgroup { id, depth } => Some((id, depth)),
                Key::Namespace(_) => None,
            })
            .filter(|(id, _)| captured.iter().any(|(captured, _)| captured == id))
            .fold(0_u32, |levels, (_, depth)| {
                levels | 1_u32.checked_shl(depth).unwrap_or(0)
            });
        let now = self.maps.config.get()?;
        self.maps.config.set(&NodeConfig {
            cgroup_levels: levels,
            ..now
        })
    }

    /// Tunnel listeners on the node's own addresses, shared by all host services. Made at the first call, duplicates of
    /// them afterwards.
    ///
    /// # Errors
    /// The tunnel port is taken by another program.
    pub fn host_listeners(&mut self) -> Result<Vec<Listener>, KernelError> {
        let fail = |source| KernelError::Namespace {
            step: "listen on the tunnel port of the node".to_owned(),
            source,
        };
        if self.host_listeners.is_empty() {
            let port = self.options.tunnel_port;
            self.host_listeners = [false, true]
                .into_iter()
                .filter_map(|ipv6| match sockets::host_tunnel_listener(ipv6, port) {
                    // A node without IPv6.
                    Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
                    other => Some(other),
                })
                .collect::<io::Result<_>>()
                .map_err(fail)?;
        }
        sockets::duplicate(&self.host_listeners).map_err(fail)
    }
}

/// Whether a workload needs the host's ingress program.
pub(crate) fn takes_arrivals(workload: &Enrolled) -> bool {
    workload.is_host() && !workload.inbound_keys().is_empty()
}
