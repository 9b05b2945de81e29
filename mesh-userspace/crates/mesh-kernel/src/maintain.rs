//! Clearing what nobody needs any more.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use mesh_common::guard::EstablishedKey;
use mesh_core::workload::WorkloadId;

use crate::cgroup;
use crate::error::KernelError;
use crate::events::monotonic_now;
use crate::kernel::Kernel;
use crate::link::Link;
use crate::namespace::{self, Place};
use crate::register::Key;
use crate::workload::Stage;

/// A dial that nobody accepted for so long is over: the kernel gives up a SYN after some two minutes.
const FLOW_LIFETIME: Duration = Duration::from_secs(180);

impl Kernel {
    /// Clears ended connections of `ESTABLISHED`, stale dials, dead generations and their cgroups. Call it every ten
    /// seconds or so: until then an ended connection's addresses and ports stay let through.
    ///
    /// # Errors
    /// The first step that failed; the others were done.
    pub fn maintain(&mut self) -> Result<(), KernelError> {
        if self.is_superseded() {
            return Ok(());
        }
        let established = self.clear_established();
        let flows = self.clear_flows();
        let cgroups = self.clear_cgroups();
        let orphans = self.clear_orphans();
        established.and(flows).and(cgroups).and(orphans)
    }

    /// Removes entries that no workload has: of interfaces that were made anew, of enrolments that were cut short.
    fn clear_orphans(&mut self) -> Result<(), KernelError> {
        let workloads = &self.workloads;
        let known = |id: u32| workloads.get(&WorkloadId(id));
        self.maps.guarded.remove_where(|interface, guard| {
            !known(guard.workload).is_some_and(|workload| {
                let mut pairs = workload.memory.pairs.iter();
                pairs.any(|pair| pair.outside == *interface)
            })
        })?;
        self.maps
            .inbound
            .remove_where(|_, inbound| known(inbound.workload).is_none())?;
        let is_orphan = |key, id| known(id).is_none_or(|workload| workload.memory.key != key);
        self.maps
            .enrolled
            .remove_where(|cookie, entry| is_orphan(Key::Namespace(*cookie), entry.id))?;
        self.maps.enrolled_cgroups.remove_where(|cgroup, entry| {
            known(entry.id).is_none_or(
                |workload| !matches!(workload.memory.key, Key::Cgroup { id, .. } if id == *cgroup),
            )
        })?;
        Ok(())
    }

    fn clear_established(&mut self) -> Result<(), KernelError> {
        let kept = self.maps.established.entries();
        if kept.is_empty() {
            return Ok(());
        }
        let mut living = HashSet::new();
        let mut known = HashSet::new();
        let mut result = Ok(());
        for (id, workload) in &self.workloads {
            let has_any = kept.iter().any(|(key, _)| {
                let mut own = workload.memory.pairs.iter().map(|pair| pair.outside);
                own.any(|interface| interface == key.interface)
            });
            if !has_any {
                continue;
            }
            match self.older_connections(*id, workload) {
                Ok(keys) => living.extend(keys.iter().map(words)),
                // What cannot be listed is kept: a living connection must not be cut.
                Err(error) => {
                    known.extend(workload.memory.pairs.iter().map(|pair| pair.outside));
                    result = Err(error);
                }
            }
            if workload.stage == Stage::Remembered {
                known.extend(workload.memory.pairs.iter().map(|pair| pair.outside));
            }
        }
        self.maps.established.remove_where(|key, _| {
            !known.contains(&key.interface) && !living.contains(&words(key))
        })?;
        result
    }

    fn clear_flows(&mut self) -> Result<(), KernelError> {
        let now = monotonic_now();
        let mut cleared: BTreeMap<u32, u64> = BTreeMap::new();
        for (key, origin) in self.maps.flows.entries() {
            if now.saturating_sub(Duration::from_nanos(origin.dialled_at)) > FLOW_LIFETIME {
                self.maps.flows.remove(&key)?;
                *cleared.entry(origin.workload).or_default() += 1;
            }
        }
        // The programs count by themselves at the same time; a count lost here only moves the limit a little.
        for (workload, count) in cleared {
            if let Some(used) = self.maps.flow_quota.get(&workload)? {
                let left = used.saturating_sub(count);
                self.maps.flow_quota.set(&workload, &left)?;
            }
        }
        Ok(())
    }

    /// Removes the empty cgroups of workers that are gone, and forgets their ids: a socket of theirs cannot exist any
    /// more, and an id must not stay trusted longer than its owner.
    fn clear_cgroups(&mut self) -> Result<(), KernelError> {
        let newest = self
            .generations
            .last()
            .map(|generation| self.worker_path(*generation));
        for path in cgroup::children(&self.options.mesh_cgroup) {
            let is_worker = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("worker-"));
            if is_worker
                && Some(&path) != newest.as_ref()
                && cgroup::is_empty(&path).unwrap_or(false)
            {
                fs::remove_dir(&path).map_err(|source| KernelError::File {
                    operation: "remove cgroup",
                    path: path.clone(),
                    source,
                })?;
            }
        }
        let living: Vec<u64> = cgroup::children(&self.options.mesh_cgroup)
            .iter()
            .filter_map(|path| cgroup::id(path).ok())
            .collect();
        self.maps
            .mesh_cgroups
            .remove_where(|id, _| !living.contains(id))?;
        let mesh = self.options.mesh_cgroup.clone();
        self.generations
            .retain(|generation| mesh.join(format!("worker-{generation}")).is_dir());
        Ok(())
    }

    /// The folders of worker generations that have processes, oldest first by number.
    pub fn worker_cgroups(&self) -> Vec<(u64, PathBuf)> {
        let mut found: Vec<(u64, PathBuf)> = cgroup::children(&self.options.mesh_cgroup)
            .into_iter()
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?;
                let generation = name.strip_prefix("worker-")?.parse().ok()?;
                Some((generation, path))
            })
            .filter(|(_, path)| !cgroup::is_empty(path).unwrap_or(true))
            .collect();
        found.sort();
        found
    }

    /// Workloads whose namespace has neither a process nor a name any more: their container is gone, and only our
    /// descriptors keep the namespace alive. Un-enrol and release them. Reads `/proc`; some milliseconds.
    pub fn vanished(&self) -> Vec<WorkloadId> {
        let used = namespace::used();
        self.workloads
            .iter()
            .filter(|(_, workload)| match &workload.place {
                Some(Place::Namespace(fd)) => {
                    namespace::identity(fd.as_fd()).is_ok_and(|identity| !used.contains(&identity))
                }
                _ => false,
            })
            .map(|(id, _)| *id)
            .collect()
    }
}

impl Kernel {
    /// Whether a workload may still use its addresses. The container that had them before may be gone without having been
    /// un-enrolled, and its successor has them now.
    pub(crate) fn is_alive(&self, id: WorkloadId) -> bool {
        match self.workloads.get(&id) {
            None => false,
            Some(workload) if workload.stage == Stage::Remembered => {
                workload.is_host() || workload.links.iter().any(Link::is_attached)
            }
            Some(_) => !self.vanished().contains(&id),
        }
    }
}

/// A key as plain values, to be put into a set.
fn words(key: &EstablishedKey) -> (u32, [u8; 16], [u8; 16], u16, u16) {
    (
        key.interface,
        key.local,
        key.remote,
        key.local_port,
        key.remote_port,
    )
}
