//! The mesh as a whole, as people ask about it: the world of all facts that nodes are told, with the same indexes that nodes
//! decide by. It is made when somebody asks, and kept while nothing changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_control::facts::Fact;
use mesh_control::objects::Objects;
use mesh_core::snapshot::Snapshot;
use mesh_distribution::hub::Hub;
use tokio::sync::Mutex;

use crate::api::cluster::ObjectCounts;

/// A world that is not older than this is new enough: in a large cluster something changes all the time, and whoever asks in
/// a loop must not have it made anew each time.
const NEW_ENOUGH: Duration = Duration::from_millis(250);

/// What is known.
#[derive(Debug)]
pub(super) struct Knowledge {
    hub: Hub,
    /// One is made at a time: whoever else asks waits for it.
    made: Mutex<Option<(Instant, Arc<Known>)>>,
}

/// The mesh at one moment.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) snapshot: Snapshot,
    pub(super) counts: ObjectCounts,
    generation: u64,
}

impl Knowledge {
    /// Of what this hub tells.
    pub(super) fn new(hub: Hub) -> Self {
        Self {
            hub,
            made: Mutex::new(None),
        }
    }

    /// The mesh as it is now.
    pub(super) async fn now(&self) -> Arc<Known> {
        let mut made = self.made.lock().await;
        let generation = self.hub.counts().generation;
        if let Some((at, known)) = &*made
            && (known.generation == generation || at.elapsed() < NEW_ENOUGH)
        {
            return Arc::clone(known);
        }
        let hub = self.hub.clone();
        let at = Instant::now();
        // Some 100 ms for 20,000 pods: not on a thread that serves nodes.
        let known = tokio::task::spawn_blocking(move || know(&hub, generation)).await;
        let known = Arc::new(known.unwrap_or_default());
        *made = Some((at, Arc::clone(&known)));
        known
    }
}

fn know(hub: &Hub, generation: u64) -> Known {
    let facts = hub.facts();
    let meshed = facts.iter().filter(|fact| match fact {
        Fact::Namespace(spec) => spec.meshed || spec.pods_opt_in,
        _ => false,
    });
    let meshed_namespaces = meshed.count();
    let objects = Objects::from_facts(&facts);
    let counts = ObjectCounts {
        meshed_namespaces,
        workloads: objects.workloads.len(),
        services: objects.services.len(),
        routes: objects.routes.len(),
        policies: objects.policies.len(),
        mtls_exceptions: objects.mtls.len(),
    };
    // Every workload has a node and addresses of its own: none is found by us.
    let world = objects.world(generation, "", &Default::default());
    Known {
        snapshot: Snapshot::new(world),
        counts,
        generation,
    }
}
