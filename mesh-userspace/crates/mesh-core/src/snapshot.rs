//! The world as the data path sees it: one immutable value, replaced whole.
//!
//! A connection loads it once; every decision on its way sees the same snapshot. Lookups are by hash, so that the cost
//! of a decision does not grow with the cluster.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::identity::TrustDomain;
use crate::policy::{AuthorizationPolicy, MtlsRule};
use crate::route::{CompiledPort, RoutedBackend};
use crate::service::{Route, Service, ServicePort};
use crate::workload::{Name, Workload};

/// The facts of a world, as sources state them and as they travel between processes. [`Snapshot::new`] indexes them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct World {
    /// Grows with every change that was applied.
    pub generation: u64,
    /// The trust domain of this mesh.
    pub trust_domain: TrustDomain,
    /// Every workload of the mesh, local and remote.
    pub workloads: Vec<Arc<Workload>>,
    /// Every service.
    pub services: Vec<Arc<Service>>,
    /// Every route.
    pub routes: Vec<Arc<Route>>,
    /// Every authorization policy.
    pub policies: Vec<Arc<AuthorizationPolicy>>,
    /// Where mutual TLS is required, most specific first wins; the last resort is [`World::default_mtls`].
    pub mtls: Vec<MtlsRule>,
    /// Mutual TLS mode where no rule of [`World::mtls`] speaks.
    pub default_mtls: crate::policy::MtlsMode,
}

/// A world with its indexes.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The facts.
    pub world: World,
    workloads_by_address: HashMap<IpAddr, Vec<Arc<Workload>>, foldhash::fast::RandomState>,
    workloads_by_name: HashMap<Name, Arc<Workload>, foldhash::fast::RandomState>,
    services_by_address: HashMap<IpAddr, Arc<Service>, foldhash::fast::RandomState>,
    services_by_name: HashMap<Name, Arc<Service>, foldhash::fast::RandomState>,
    routes_by_service: HashMap<Name, Vec<Arc<Route>>, foldhash::fast::RandomState>,
    ports_by_service: HashMap<Name, Vec<CompiledPort>, foldhash::fast::RandomState>,
    policies_by_namespace:
        HashMap<String, Vec<Arc<AuthorizationPolicy>>, foldhash::fast::RandomState>,
}

impl Snapshot {
    /// Indexes a world.
    pub fn new(world: World) -> Self {
        let mut snapshot = Self {
            world,
            ..Self::default()
        };
        for workload in &snapshot.world.workloads {
            for address in &workload.addresses {
                snapshot
                    .workloads_by_address
                    .entry(*address)
                    .or_default()
                    .push(Arc::clone(workload));
            }
            snapshot
                .workloads_by_name
                .insert(workload.name.clone(), Arc::clone(workload));
        }
        for service in &snapshot.world.services {
            for address in &service.addresses {
                snapshot
                    .services_by_address
                    .insert(*address, Arc::clone(service));
            }
            snapshot
                .services_by_name
                .insert(service.name.clone(), Arc::clone(service));
        }
        for route in &snapshot.world.routes {
            snapshot
                .routes_by_service
                .entry(route.service.clone())
                .or_default()
                .push(Arc::clone(route));
        }
        for policy in &snapshot.world.policies {
            snapshot
                .policies_by_namespace
                .entry(policy.name.namespace.clone())
                .or_default()
                .push(Arc::clone(policy));
        }
        // Last: it resolves backends by name.
        for service in &snapshot.world.services {
            let ports = crate::route::compile(
                service,
                snapshot.routes_of(&service.name),
                &snapshot.services_by_name,
            );
            snapshot
                .ports_by_service
                .insert(service.name.clone(), ports);
        }
        snapshot
    }

    /// The workload that owns an address and port. Where host services share an address, the one that lists the port
    /// wins; one without a port list owns all the others.
    pub fn workload_at(&self, addr: SocketAddr) -> Option<&Arc<Workload>> {
        let candidates = self.workloads_by_address.get(&addr.ip())?;
        candidates
            .iter()
            .find(|workload| workload.ports.contains(&addr.port()))
            .or_else(|| candidates.iter().find(|workload| workload.ports.is_empty()))
    }

    /// The workload of this name.
    pub fn workload(&self, name: &Name) -> Option<&Arc<Workload>> {
        self.workloads_by_name.get(name)
    }

    /// The service behind a virtual address, and its port when it offers the dialled one.
    pub fn service_at(&self, addr: SocketAddr) -> Option<(&Arc<Service>, Option<&ServicePort>)> {
        let service = self.services_by_address.get(&addr.ip())?;
        Some((
            service,
            service.ports.iter().find(|port| port.port == addr.port()),
        ))
    }

    /// The service of this name.
    pub fn service(&self, name: &Name) -> Option<&Arc<Service>> {
        self.services_by_name.get(name)
    }

    /// The routes attached to a service, in the order of the sources.
    pub fn routes_of(&self, service: &Name) -> &[Arc<Route>] {
        self.routes_by_service
            .get(service)
            .map_or(&[], Vec::as_slice)
    }

    /// The authorization policies of a namespace, in the order of the sources.
    pub fn policies_of(&self, namespace: &str) -> &[Arc<AuthorizationPolicy>] {
        self.policies_by_namespace
            .get(namespace)
            .map_or(&[], Vec::as_slice)
    }

    /// Every backend that some dial may lead to, with its endpoints.
    pub fn routed_backends(&self) -> impl Iterator<Item = &RoutedBackend> + '_ {
        self.ports_by_service
            .values()
            .flatten()
            .flat_map(|compiled| {
                compiled
                    .backends_v4
                    .iter()
                    .chain(compiled.backends_v6.iter())
            })
    }

    /// What is known in advance about dials to the ports of a service.
    pub(crate) fn compiled_ports(&self, service: &Name) -> &[CompiledPort] {
        self.ports_by_service
            .get(service)
            .map_or(&[], Vec::as_slice)
    }

    /// Every address that the kernel must capture: services, and workloads of the mesh.
    pub fn captured_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.services_by_address
            .keys()
            .chain(self.workloads_by_address.keys())
            .copied()
    }
}
