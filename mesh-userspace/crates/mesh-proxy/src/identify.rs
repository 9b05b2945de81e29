//! Who dialled: the workload of the listener at which the connection arrived. The kernel decides which one that is (by
//! network namespace or cgroup); no address, mark, user or header has a say.

use std::sync::Arc;

use mesh_core::snapshot::Snapshot;
use mesh_core::workload::Workload;

use crate::link::LocalWorkload;

/// The world does not know the workload (any more), or knows it by another identity. Nothing may be done in its name.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unidentified {
    /// It is not in the world.
    #[error("workload {0} is not part of the mesh's configuration (any more)")]
    Unknown(String),
    /// Its identity changed; it is enrolled anew in a moment.
    #[error(
        "workload {name} was enrolled as {enrolled}, but is now {configured}; it is being enrolled anew"
    )]
    Changed {
        /// Which one.
        name: String,
        /// As it was enrolled.
        enrolled: String,
        /// As the world has it.
        configured: String,
    },
}

/// The source of a connection that arrived at one of `local`'s listeners.
///
/// # Errors
/// [`Unidentified`]: the connection is to be reset.
pub(crate) fn local<'a>(
    world: &'a Snapshot,
    local: &LocalWorkload,
) -> Result<&'a Arc<Workload>, Unidentified> {
    let workload = world
        .workload(&local.name)
        .ok_or_else(|| Unidentified::Unknown(local.name.to_string()))?;
    if workload.identity == local.identity {
        Ok(workload)
    } else {
        Err(Unidentified::Changed {
            name: local.name.to_string(),
            enrolled: local.identity.to_string(),
            configured: workload.identity.to_string(),
        })
    }
}
