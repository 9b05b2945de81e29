//! Looking whether everything is still where it was put, and putting it back.

use std::os::fd::AsFd;
use std::path::PathBuf;

use mesh_common::names::{map, program};
use mesh_core::workload::WorkloadId;

use crate::bpf::{AttachType, LinkTarget};
use crate::cgroup;
use crate::enrol::step_failed;
use crate::error::KernelError;
use crate::host::takes_arrivals;
use crate::kernel::Kernel;
use crate::link::{Link, Wanted};
use crate::load::Programs;
use crate::netlink::delivery;
use crate::register::{Key, Pair};
use crate::sysctls;
use crate::types::{Fault, Part};
use crate::workload::{
    Enrolled, Stage, guard_mode, guard_pin, host_ingress_pin, ingress_pin, listener_key,
};

impl Kernel {
    /// What is not where it was put. The watchdog calls it every few seconds. A namespace that is gone is no fault; see
    /// [`Self::vanished`].
    pub fn verify(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.is_superseded() {
            return faults;
        }
        for (name, link) in &self.node_links {
            faults.extend(self.link_fault(None, name, Some(link)));
        }
        for (path, _) in self.own_cgroups() {
            let trusted = cgroup::id(&path).and_then(|id| self.maps.mesh_cgroups.get(&id));
            if !matches!(trusted, Ok(Some(_))) {
                faults.push(entry_fault(None, map::MESH_CGROUPS));
            }
        }
        for (id, workload) in &self.workloads {
            if workload.stage == Stage::Active {
                faults.extend(self.workload_faults(*id, workload));
            }
        }
        if self
            .workloads
            .values()
            .any(|workload| workload.stage == Stage::Active && takes_arrivals(workload))
        {
            faults.extend(self.host_link_faults());
        }
        faults
    }

    /// The cgroups of this agent and the workers that it asked for.
    fn own_cgroups(&self) -> Vec<(PathBuf, u64)> {
        let agent = self.options.mesh_cgroup.join("agent");
        self.generations
            .iter()
            .map(|generation| (self.worker_path(*generation), *generation))
            .chain([(agent, self.options.generation)])
            .collect()
    }

    fn link_fault(
        &self,
        workload: Option<WorkloadId>,
        pin: &str,
        link: Option<&Link>,
    ) -> Option<Fault> {
        let program = Programs::of_pin(pin)?;
        let found = match link.map(|link| (link.info(), link.is_pinned())) {
            None => "it is not attached".to_owned(),
            Some((Err(error), _)) => format!("it cannot be read: {error}"),
            Some((Ok(info), _)) if info.target == 0 => "it was detached".to_owned(),
            Some((Ok(info), _)) if info.program != self.programs.id(program) => {
                format!("another program (id {}) is in its place", info.program)
            }
            Some((Ok(_), false)) => "its pin is gone".to_owned(),
            Some((Ok(_), true)) => return None,
        };
        Some(Fault {
            workload,
            part: Part::Link(pin.to_owned()),
            found,
        })
    }

    fn workload_faults(&self, id: WorkloadId, workload: &Enrolled) -> Vec<Fault> {
        let mut faults = Vec::new();
        for pair in &workload.memory.pairs {
            for pin in [guard_pin(id, *pair), ingress_pin(id, *pair)] {
                let link = workload.links.iter().find(|link| link.name() == pin);
                faults.extend(self.link_fault(Some(id), &pin, link));
            }
            let mode = guard_mode(workload.mode) as u32;
            let guarded = self.maps.guarded.get(&pair.outside);
            if !matches!(guarded, Ok(Some(entry)) if entry.workload == id.0 && entry.mode == mode) {
                faults.push(entry_fault(Some(id), map::GUARDED));
            }
        }
        let (enrolled, name) = match workload.memory.key {
            Key::Namespace(cookie) => (self.maps.enrolled.get(&cookie), map::ENROLLED),
            Key::Cgroup { id, .. } => (self.maps.enrolled_cgroups.get(&id), map::ENROLLED_CGROUPS),
        };
        if !matches!(enrolled, Ok(Some(entry)) if entry == workload.entry(id)) {
            faults.push(entry_fault(Some(id), name));
        }
        let listening = self.maps.listeners.keys();
        let mut wanted = workload
            .listeners
            .iter()
            .filter_map(|each| listener_key(id, each));
        if wanted.any(|key| !listening.contains(&key)) {
            faults.push(entry_fault(Some(id), map::LISTENERS));
        }
        let arrives =
            |key| matches!(self.maps.inbound.get(key), Ok(Some(value)) if value.workload == id.0);
        if !workload.inbound_keys().iter().all(arrives) {
            faults.push(entry_fault(Some(id), map::INBOUND));
        }
        if !workload.is_host() {
            faults.extend(delivery_faults(id, workload));
        }
        faults
    }

    fn host_link_faults(&self) -> Vec<Fault> {
        let indexes = crate::netlink::interfaces::list().unwrap_or_default();
        indexes
            .into_iter()
            .filter(|interface| !interface.loopback)
            .filter_map(|interface| {
                let pin = host_ingress_pin(interface.index);
                self.link_fault(None, &pin, self.host_links.get(&interface.index))
            })
            .collect()
    }

    /// Puts a part back.
    ///
    /// # Errors
    /// Names the step and the kernel's answer. Call it again after the next [`Self::verify`].
    pub fn repair(&mut self, fault: &Fault) -> Result<(), KernelError> {
        match (&fault.part, fault.workload) {
            (Part::Link(_), None) => self.repair_node_links(),
            (Part::Link(pin), Some(id)) => self.repair_link(id, pin),
            (Part::Entry(_), None) => {
                for (path, generation) in self.own_cgroups() {
                    let id = cgroup::id(&path)?;
                    self.maps.mesh_cgroups.set(&id, &generation)?;
                }
                Ok(())
            }
            (Part::Entry(_), Some(id)) => self.repair_entries(id),
            (Part::Delivery | Part::Sysctls, Some(id)) => {
                let workload = self.prepared(id)?;
                let families = workload.families();
                let Some(place) = &workload.place else {
                    return Ok(());
                };
                place
                    .visit(|| {
                        sysctls::set()?;
                        delivery::add(families)
                    })
                    .map_err(|source| step_failed(id, "put back the delivery", source))
            }
            (Part::Delivery | Part::Sysctls, None) => Ok(()),
        }
    }

    fn repair_node_links(&mut self) -> Result<(), KernelError> {
        for link in self.node_links.values().chain(self.host_links.values()) {
            if link.is_attached() {
                link.pin_again()?;
            }
        }
        self.attach_node()?;
        self.host_links.retain(|_, link| link.is_attached());
        if self.workloads.values().any(takes_arrivals) {
            self.attach_host_ingress()?;
        }
        Ok(())
    }

    fn repair_link(&mut self, id: WorkloadId, pin: &str) -> Result<(), KernelError> {
        let workload = self.prepared(id)?;
        let known = workload.links.iter().find(|link| link.name() == pin);
        if let Some(link) = known.filter(|link| link.is_attached()) {
            // Only the pin is gone, or another program was put in.
            link.pin_again()?;
            let program = Programs::of_pin(pin);
            return program.map_or(Ok(()), |name| link.update(self.programs.fd(name)));
        }
        let pairs = workload.memory.pairs.clone();
        let is_for = |name: fn(WorkloadId, Pair) -> String| {
            pairs.iter().copied().find(|pair| name(id, *pair) == pin)
        };
        let attached = if let Some(pair) = is_for(guard_pin) {
            let wanted = Wanted {
                program: self.programs.fd(program::GUARD),
                target: LinkTarget::Interface(pair.outside),
                target_id: u64::from(pair.outside),
                attach: AttachType::TcxIngress,
            };
            Link::attach(&self.pins, pin, wanted)?
        } else if let Some(pair) = is_for(ingress_pin) {
            self.attach_ingress_to(id, workload, pair)?
        } else {
            return Ok(());
        };
        if let Some(workload) = self.workloads.get_mut(&id) {
            workload.links.retain(|link| link.name() != pin);
            workload.links.push(attached.link);
        }
        Ok(())
    }

    fn repair_entries(&mut self, id: WorkloadId) -> Result<(), KernelError> {
        for key in self.prepared(id)?.inbound_keys() {
            let value = mesh_common::inbound::Inbound {
                workload: id.0,
                flags: 0,
            };
            self.maps.inbound.set(&key, &value)?;
        }
        let listeners: Vec<_> = self
            .listeners(id)?
            .into_iter()
            .filter_map(|listener| Some((listener_key(id, &listener)?, listener.socket)))
            .collect();
        for (key, socket) in &listeners {
            self.maps.listeners.set(*key, socket.as_fd())?;
        }
        // Capture and guard are written whole again; connections that are let through stay.
        self.activate(id)
    }
}

fn delivery_faults(id: WorkloadId, workload: &Enrolled) -> Vec<Fault> {
    let Some(place) = &workload.place else {
        return Vec::new();
    };
    let families = workload.families();
    let checks = place.visit(|| Ok((delivery::missing(families)?, sysctls::wrong()?)));
    let (delivery, sysctls) = match checks {
        Ok(found) => found,
        Err(error) => (Some(format!("they cannot be read: {error}")), None),
    };
    let fault = |part, found| Fault {
        workload: Some(id),
        part,
        found,
    };
    delivery
        .map(|found| fault(Part::Delivery, found))
        .into_iter()
        .chain(sysctls.map(|found| fault(Part::Sysctls, found)))
        .collect()
}

fn entry_fault(workload: Option<WorkloadId>, map: &'static str) -> Fault {
    Fault {
        workload,
        part: Part::Entry(map),
        found: "an entry is missing or wrong".to_owned(),
    }
}
