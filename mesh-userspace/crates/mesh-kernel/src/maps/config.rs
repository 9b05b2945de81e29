//! `CONFIG`: settings of the node, one entry.

use aya::maps::{Array, Map, MapData};
use mesh_common::names::map::CONFIG;
use mesh_common::workload::NodeConfig;

use super::{Wire, map_error};
use crate::error::KernelError;

/// The node's settings in the kernel.
pub(crate) struct Config(Array<MapData, Wire<NodeConfig>>);

impl Config {
    /// Takes the loaded map.
    pub(crate) fn new(map: Map) -> Result<Self, KernelError> {
        Array::try_from(map)
            .map(Self)
            .map_err(map_error("use", CONFIG))
    }

    /// What the programs read now.
    pub(crate) fn get(&self) -> Result<NodeConfig, KernelError> {
        self.0
            .get(&0, 0)
            .map(|value| value.0)
            .map_err(map_error("read", CONFIG))
    }

    /// What they read from now on.
    pub(crate) fn set(&mut self, config: &NodeConfig) -> Result<(), KernelError> {
        self.0
            .set(0, Wire(*config), 0)
            .map_err(map_error("write", CONFIG))
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Config")
    }
}
