//! The facade. (Signatures first; the bodies follow module by module.)

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ipnet::IpNet;
use mesh_common::counter::Reason;
use mesh_common::workload::Class;
use mesh_core::workload::WorkloadId;

use crate::error::KernelError;
use crate::events::EventStream;
use crate::types::{
    EnrolRequest, Fault, GuardMode, Listener, Options, Prepared, Purpose, Target,
};

/// The node's kernel half.
#[derive(Debug)]
pub struct Kernel {
    _private: (),
}

impl Kernel {
    /// Loads the programs, adopts what an earlier agent pinned or makes it new, creates the mesh's cgroups and moves this
    /// process into `<mesh_cgroup>/agent`. Blocks for some 100 ms.
    pub fn open(options: &Options) -> Result<Self, KernelError> {
        let _ = options;
        Err(KernelError::NoObject)
    }
    /// The cgroup of a worker generation, made and registered. Put the worker there before it makes any socket.
    pub fn worker_cgroup(&mut self, generation: u64) -> Result<PathBuf, KernelError> {
        let _ = generation;
        Err(KernelError::NoObject)
    }
    /// The number under which a target is enrolled already (by an earlier agent, too).
    pub fn known_id(&self, target: &Target) -> Result<Option<WorkloadId>, KernelError> {
        let _ = target;
        Ok(None)
    }
    /// Every number in use: enrolled, leaving, or left by an earlier agent and not enrolled again yet. Un-enrol and
    /// release those of the last kind that the configuration no longer names.
    pub fn known(&self) -> Vec<WorkloadId> {
        Vec::new()
    }
    /// Prepares a workload; see the crate's order of steps. Rolled back whole on error.
    pub fn enrol(&mut self, request: EnrolRequest) -> Result<Prepared, KernelError> {
        Err(KernelError::Unknown { id: request.id })
    }
    /// Begins the capture, or switches it to the new listeners; call it when the worker accepts from them.
    pub fn activate(&mut self, id: WorkloadId) -> Result<(), KernelError> {
        Err(KernelError::Unknown { id })
    }
    /// Ends capture and guard; connections that are open go on. Call [`Self::release`] after the last of them.
    pub fn unenrol(&mut self, id: WorkloadId) -> Result<(), KernelError> {
        Err(KernelError::Unknown { id })
    }
    /// Puts the namespace back as it was and forgets the workload.
    pub fn release(&mut self, id: WorkloadId) -> Result<(), KernelError> {
        Err(KernelError::Unknown { id })
    }
    /// Fresh duplicates of a workload's listeners, for a new worker.
    pub fn listeners(&self, id: WorkloadId) -> Result<Vec<Listener>, KernelError> {
        Err(KernelError::Unknown { id })
    }
    /// Unconnected sockets in the workload's namespace, non-blocking. Deliveries to host services are plain sockets.
    pub fn sockets(
        &self,
        id: WorkloadId,
        purpose: Purpose,
        ipv6: bool,
        count: usize,
    ) -> Result<Vec<OwnedFd>, KernelError> {
        let _ = (purpose, ipv6, count);
        Err(KernelError::Unknown { id })
    }
    /// Tunnel listeners on the node's own addresses, shared by all host services. Made at the first call, duplicates of
    /// them afterwards.
    pub fn host_listeners(&mut self) -> Result<Vec<Listener>, KernelError> {
        Err(KernelError::NoObject)
    }
    /// Makes the destinations in the kernel these: adds and changes first, then removes.
    pub fn set_destinations(
        &mut self,
        destinations: &BTreeMap<IpNet, Class>,
    ) -> Result<(), KernelError> {
        let _ = destinations;
        Ok(())
    }
    /// Changes how strict a workload's guard is.
    pub fn set_mode(&mut self, id: WorkloadId, mode: GuardMode) -> Result<(), KernelError> {
        let _ = mode;
        Err(KernelError::Unknown { id })
    }
    /// The stream of drops and refusals. Needs a tokio runtime with I/O.
    pub fn events(&mut self) -> Result<EventStream, KernelError> {
        Err(KernelError::NoObject)
    }
    /// Counters, summed over the CPUs; workload 0 stands for none.
    pub fn counters(&self) -> Result<Vec<(WorkloadId, Reason, u64)>, KernelError> {
        Ok(Vec::new())
    }
    /// What is not where it was put. The watchdog calls it every few seconds.
    pub fn verify(&mut self) -> Vec<Fault> {
        Vec::new()
    }
    /// Puts a part back.
    pub fn repair(&mut self, fault: &Fault) -> Result<(), KernelError> {
        let _ = fault;
        Ok(())
    }
    /// Clears what nobody needs any more: ended connections in `ESTABLISHED`, stale flows, dead generations and cgroups.
    pub fn maintain(&mut self) -> Result<(), KernelError> {
        Ok(())
    }
}

#[expect(dead_code, reason = "replaced with the bodies")]
fn unused() -> io::Error {
    io::Error::other("")
}
