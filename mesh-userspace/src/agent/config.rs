//! What the agent acts on: the workloads of this node, the world, and what is to be said about either. It is the same
//! whatever it comes from; see [`super::source`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mesh_control::objects::{LocalWorkloadSpec, Objects, Selector as Selected, WorkloadSpec};
use mesh_core::identity::TrustDomain;
use mesh_core::policy::{MtlsMode, mtls_mode};
use mesh_core::snapshot::{Snapshot, World};
use mesh_core::workload::Name;
use mesh_kernel::{GuardMode, Udp};

use super::enrol::Wanted;
use super::select::Selector;
use crate::api::objects::ConfigurationProblem;
use crate::cni::namespaces::Namespaces;

/// A configuration that applies.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) identity_directory: PathBuf,
    pub(crate) certificate_lifetime: Duration,
    pub(crate) drain: Duration,
    pub(crate) tunnel_port: u16,
    /// The workloads of this node.
    pub(crate) wanted: Vec<Wanted>,
    /// Namespaces of a cluster that are in the mesh.
    pub(crate) namespaces: Namespaces,
    /// The source's own count of its changes; what it means is the source's business.
    pub(crate) generation: u64,
    /// It is what the source says now; not what it said when it was last heard.
    pub(crate) current: bool,
    pub(crate) problems: Problems,
    node: Arc<str>,
    objects: Arc<Objects>,
    snapshot: Arc<Snapshot>,
}

/// What is to be said about a configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Problems {
    /// For people.
    pub(crate) list: Vec<ConfigurationProblem>,
    /// How many objects do not apply.
    pub(crate) rejected: usize,
}

/// What became of a source that changed.
#[derive(Debug)]
pub(crate) enum Change {
    /// Another configuration applies.
    Applies(Box<Configuration>),
    /// The same applies, but something else is to be said about it, or it is current now, or not any more.
    Said {
        problems: Problems,
        current: bool,
        generation: u64,
    },
}

impl Configuration {
    /// What objects mean for a node.
    pub(crate) fn new(node: &Arc<str>, objects: Arc<Objects>, world: World) -> Self {
        let settings = objects.settings.clone();
        let snapshot = Arc::new(Snapshot::new(world));
        Self {
            trust_domain: settings.trust_domain,
            identity_directory: settings.authority_directory,
            certificate_lifetime: settings.certificate_lifetime,
            drain: settings.drain,
            tunnel_port: settings.tunnel_port,
            wanted: objects
                .local(node)
                .iter()
                .map(|spec| wanted(spec, &snapshot))
                .collect(),
            namespaces: Namespaces::default(),
            generation: 0,
            current: true,
            problems: Problems::default(),
            node: Arc::clone(node),
            objects,
            snapshot,
        }
    }

    /// The world, with the addresses that were found for this node's workloads.
    pub(crate) fn world(&self, generation: u64, found: &BTreeMap<Name, Vec<IpAddr>>) -> World {
        self.objects.world(generation, &self.node, found)
    }

    /// What is wanted of a pod of this node that the world does not know yet; `None`: it is not of this node, or cannot be
    /// found on it.
    pub(crate) fn wanted_pod(&self, spec: &WorkloadSpec) -> Option<Wanted> {
        let alone = Objects {
            settings: self.objects.settings.clone(),
            workloads: vec![spec.clone()],
            ..Objects::default()
        };
        let local = alone.local(&self.node);
        local.first().map(|spec| wanted(spec, &self.snapshot))
    }
}

fn wanted(spec: &LocalWorkloadSpec, snapshot: &Snapshot) -> Wanted {
    let LocalWorkloadSpec {
        name,
        identity,
        addresses,
        ports,
        labels: _,
        select,
        udp,
    } = spec.clone();
    // The mode of the workload as a whole: an exception for single ports is about what arrives there.
    let mode = snapshot
        .workload(&name)
        .map_or(snapshot.world.default_mtls, |workload| {
            mtls_mode(snapshot, workload, 0).0
        });
    Wanted {
        name,
        identity,
        selector: match select {
            Selected::NetworkNamespace(path) => Selector::NetworkNamespace(path),
            Selected::Container(container) => Selector::container(container),
            Selected::Cgroup(path) => Selector::Cgroup(path),
            Selected::Pod { uid } => Selector::Pod(uid),
        },
        addresses,
        ports,
        mode: match mode {
            MtlsMode::Strict => GuardMode::Strict,
            MtlsMode::Permissive => GuardMode::Permissive,
        },
        udp: if udp { Udp::Allow } else { Udp::Deny },
    }
}
