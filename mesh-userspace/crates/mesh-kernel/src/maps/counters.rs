//! `COUNTERS`: what the programs counted, per workload and reason.

use aya::maps::{Map, MapData, PerCpuHashMap};
use mesh_common::counter::{CounterKey, Reason};
use mesh_common::names::map::COUNTERS;
use mesh_core::workload::WorkloadId;

use super::{Wire, map_error};
use crate::error::KernelError;

/// Counters, one per CPU in the kernel, summed here.
pub(crate) struct Counters(PerCpuHashMap<MapData, Wire<CounterKey>, u64>);

impl Counters {
    /// Takes the loaded map.
    pub(crate) fn new(map: Map) -> Result<Self, KernelError> {
        PerCpuHashMap::try_from(map)
            .map(Self)
            .map_err(map_error("use", COUNTERS))
    }

    /// Every counter. Reasons of a newer build, which this one cannot name, are left out.
    pub(crate) fn read(&self) -> Vec<(WorkloadId, Reason, u64)> {
        self.0
            .iter()
            .filter_map(Result::ok)
            .filter_map(|(key, values)| {
                let reason = Reason::from_u32(key.0.reason)?;
                Some((WorkloadId(key.0.workload), reason, values.iter().sum()))
            })
            .collect()
    }

    /// Forgets a workload's counters.
    pub(crate) fn forget(&mut self, id: WorkloadId) {
        for reason in Reason::ALL {
            // Most are not there, and a counter that stays does no harm.
            drop(self.0.remove(&Wire(CounterKey {
                workload: id.0,
                reason: *reason as u32,
            })));
        }
    }
}

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counters")
    }
}
