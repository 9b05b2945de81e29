//! Begin and end of the capture of a workload: activate, un-enrol, release.

use std::os::fd::AsFd;

use mesh_common::guard::EstablishedKey;
use mesh_common::guard::GuardMode as Mode;
use mesh_core::workload::WorkloadId;

use crate::address::to_bytes;
use crate::enrol::{close_delivery, step_failed};
use crate::error::KernelError;
use crate::established;
use crate::kernel::Kernel;
use crate::namespace::{self, Place};
use crate::register::{self, Key, Pair};
use crate::types::GuardMode;
use crate::workload::{Enrolled, Stage, guard_mode, listener_key};

impl Kernel {
    /// Begins the capture, or switches it to the new listeners; call it when the worker accepts from them. New
    /// connections go to the new listeners from the write of one map entry on; those before it stay where they are.
    ///
    /// # Errors
    /// The workload is not prepared, or a map cannot be written; its guard stays closed then.
    pub fn activate(&mut self, id: WorkloadId) -> Result<(), KernelError> {
        self.prepared(id)?;
        let Some(mut workload) = self.workloads.remove(&id) else {
            return Err(KernelError::Unknown { id });
        };
        let result = self.capture(id, &workload);
        if result.is_ok() {
            workload.stage = Stage::Active;
        }
        self.workloads.insert(id, workload);
        result.and_then(|()| self.write_cgroup_levels())
    }

    fn capture(&mut self, id: WorkloadId, workload: &Enrolled) -> Result<(), KernelError> {
        for listener in &workload.listeners {
            if let Some(key) = listener_key(id, listener) {
                self.maps.listeners.set(key, listener.socket.as_fd())?;
            }
        }
        let entry = workload.entry(id);
        match workload.memory.key {
            Key::Namespace(cookie) => self.maps.enrolled.set(&cookie, &entry)?,
            Key::Cgroup { id: cgroup, .. } => self.maps.enrolled_cgroups.set(&cgroup, &entry)?,
        }
        if workload.stage == Stage::Prepared && !workload.is_host() {
            // Every dial from here on is captured, so what exists now and is not captured is older than enrolment.
            self.let_older_pass(id, workload)?;
        }
        self.enforce(id, workload, guard_mode(workload.mode))
    }

    /// Sets the mode of a workload's guards.
    pub(crate) fn enforce(
        &mut self,
        id: WorkloadId,
        workload: &Enrolled,
        mode: Mode,
    ) -> Result<(), KernelError> {
        for pair in &workload.memory.pairs {
            // The entry was made with the addresses of its interface, which stay.
            let entry = match self.maps.guarded.get(&pair.outside)? {
                Some(entry) if entry.workload == id.0 => entry,
                _ => crate::workload::guard(id, mode, workload.udp, &workload.memory.addresses),
            };
            let entry = mesh_common::guard::Guard {
                mode: mode as u32,
                udp: crate::workload::guard(id, mode, workload.udp, &[]).udp,
                ..entry
            };
            self.maps.guarded.set(&pair.outside, &entry)?;
        }
        Ok(())
    }

    /// Changes how strict a workload's guard is.
    ///
    /// # Errors
    /// The workload is not known, or the map cannot be written.
    pub fn set_mode(&mut self, id: WorkloadId, mode: GuardMode) -> Result<(), KernelError> {
        let Some(mut workload) = self.workloads.remove(&id) else {
            return Err(KernelError::Unknown { id });
        };
        workload.mode = mode;
        // A guard that is closed opens with `activate` only.
        let result = if workload.stage == Stage::Active
            || workload.adopted && workload.stage != Stage::Leaving
        {
            self.enforce(id, &workload, guard_mode(mode))
        } else {
            Ok(())
        };
        self.workloads.insert(id, workload);
        result
    }

    /// Ends capture and guard; connections that are open go on. Call [`Self::release`] after the last of them.
    ///
    /// # Errors
    /// The workload is not known, or a step failed; call it again then, it goes on where it stopped.
    pub fn unenrol(&mut self, id: WorkloadId) -> Result<(), KernelError> {
        let Some(mut workload) = self.workloads.remove(&id) else {
            return Err(KernelError::Unknown { id });
        };
        let result = self.uncapture(id, &mut workload);
        if result.is_ok() {
            workload.stage = Stage::Leaving;
            workload.adopted = false;
        }
        self.workloads.insert(id, workload);
        result.and_then(|()| self.write_cgroup_levels())
    }

    fn uncapture(&mut self, id: WorkloadId, workload: &mut Enrolled) -> Result<(), KernelError> {
        // The guard lets go first: a dial that is not captured any more must not be dropped.
        self.enforce(id, workload, Mode::Permissive)?;
        match workload.memory.key {
            Key::Namespace(cookie) => self.maps.enrolled.remove(&cookie)?,
            Key::Cgroup { id: cgroup, .. } => self.maps.enrolled_cgroups.remove(&cgroup)?,
        }
        while let Some(link) = workload.links.pop() {
            link.remove()?;
        }
        for key in workload.inbound_keys() {
            if self
                .maps
                .inbound
                .get(&key)?
                .is_some_and(|value| value.workload == id.0)
            {
                self.maps.inbound.remove(&key)?;
            }
        }
        if workload.is_host() {
            self.release_host_links(id)?;
        }
        self.forget_established(&workload.memory.pairs)?;
        for pair in &workload.memory.pairs {
            if self
                .maps
                .guarded
                .get(&pair.outside)?
                .is_some_and(|entry| entry.workload == id.0)
            {
                self.maps.guarded.remove(&pair.outside)?;
            }
        }
        for key in self.maps.listeners.keys() {
            if key.workload == id.0 {
                self.maps.listeners.remove(key)?;
            }
        }
        Ok(())
    }

    /// Puts the namespace back as it was, closes the listeners and forgets the workload. Un-enrols first what is not yet.
    ///
    /// # Errors
    /// The workload is not known, or a step failed; call it again then.
    pub fn release(&mut self, id: WorkloadId) -> Result<(), KernelError> {
        let workload = self.workloads.get(&id).ok_or(KernelError::Unknown { id })?;
        if workload.stage != Stage::Leaving {
            self.unenrol(id)?;
        }
        let Some(workload) = self.workloads.get(&id) else {
            return Err(KernelError::Unknown { id });
        };
        if let Key::Namespace(cookie) = workload.memory.key {
            let found;
            let place = match &workload.place {
                Some(place) => Some(place),
                // An earlier agent's: if its namespace cannot be found, nobody is in it any more.
                None => {
                    found = namespace::find(cookie).map(Place::Namespace);
                    found.as_ref()
                }
            };
            if let Some(place) = place {
                close_delivery(place, workload.memory.sysctls.as_ref())
                    .map_err(|source| step_failed(id, "put back the namespace", source))?;
            }
        }
        register::forget(&self.pins, id)?;
        self.maps.flow_quota.remove(&id.0)?;
        self.maps.counters.forget(id);
        self.workloads.remove(&id);
        Ok(())
    }

    /// Lets the connections that exist now pass the guard: they are older than the enrolment.
    pub(crate) fn let_older_pass(
        &mut self,
        id: WorkloadId,
        workload: &Enrolled,
    ) -> Result<(), KernelError> {
        if workload.adopted {
            return Ok(());
        }
        for key in self.older_connections(id, workload)? {
            self.maps.established.set(&key, &u64::MAX)?;
        }
        Ok(())
    }

    /// The connections of a namespace, as keys of `ESTABLISHED`. Those within it never meet the guard.
    pub(crate) fn older_connections(
        &self,
        id: WorkloadId,
        workload: &Enrolled,
    ) -> Result<Vec<EstablishedKey>, KernelError> {
        let Some(place) = &workload.place else {
            return Ok(Vec::new());
        };
        let own = &workload.memory.addresses;
        let connections = place
            .visit(established::list)
            .map_err(|source| step_failed(id, "list the connections", source))?;
        Ok(connections
            .into_iter()
            .filter(|each| !each.remote.ip().is_loopback() && !own.contains(&each.remote.ip()))
            .flat_map(|each| {
                workload
                    .memory
                    .pairs
                    .iter()
                    .map(move |pair| EstablishedKey {
                        interface: pair.outside,
                        local: to_bytes(each.local.ip()),
                        remote: to_bytes(each.remote.ip()),
                        local_port: each.local.port(),
                        remote_port: each.remote.port(),
                    })
            })
            .collect())
    }

    pub(crate) fn forget_established(&mut self, pairs: &[Pair]) -> Result<(), KernelError> {
        self.maps
            .established
            .remove_where(|key, _| pairs.iter().any(|pair| pair.outside == key.interface))?;
        Ok(())
    }
}
