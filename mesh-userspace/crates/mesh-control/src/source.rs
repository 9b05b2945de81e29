//! Sources of configuration. Each publishes what applies, as [`Applied`]; readers never wait for it.

pub mod file;

use std::sync::Arc;

use mesh_core::snapshot::World;

use crate::objects::{LocalWorkloadSpec, Objects, Settings};
use crate::reconcile::Discovered;
use crate::report::Report;

/// What applies on this node, and what is to be said about it.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Grows by one with every change that applies. What is said may change without it.
    pub generation: u64,
    /// The node that it is for.
    pub node: Arc<str>,
    /// About the node and the mesh as a whole.
    pub settings: Settings,
    /// The workloads that this node is to enrol.
    pub local: Vec<LocalWorkloadSpec>,
    /// The world, with the addresses that the file gives. [`Applied::world_with`] adds those that were found.
    pub world: Arc<World>,
    /// About the file as it is now.
    pub report: Arc<Report>,
    /// Why the file cannot be read at the moment; what applied before stays.
    pub unreadable: Option<String>,
    /// Everything the file says.
    pub objects: Arc<Objects>,
}

impl Applied {
    /// The world with the addresses that this node found for its own workloads.
    pub fn world_with(&self, discovered: &Discovered) -> World {
        self.objects.world(self.generation, &self.node, discovered)
    }

    /// Whether the file as it is now applies as a whole or in part.
    pub fn is_current(&self) -> bool {
        self.report.usable && self.unreadable.is_none()
    }
}
