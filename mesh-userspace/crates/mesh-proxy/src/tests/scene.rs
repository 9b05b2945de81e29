//! The stage: a world, an authority, and what the kernel would say of dials.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mesh_common::origin::Origin;
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::policy::{Action, AuthorizationPolicy, MtlsMode, Rule, Source, Target};
use mesh_core::service::{Endpoint as ServiceEndpoint, Service, ServicePort};
use mesh_core::snapshot::World;
use mesh_core::workload::{Name, Workload, WorkloadId};
use mesh_identity::authority::Authority;
use tokio::time::timeout;

use crate::link::Identities;
use crate::origin::OriginOf;

pub(super) const TUNNEL_PORT: u16 = 15008;
pub(super) const APP_PORT: u16 = 8080;
pub(super) const SOON: Duration = Duration::from_secs(5);

/// What the kernel would say of dials, by the dialler's address.
#[derive(Clone, Default)]
pub(super) struct Origins(Arc<Mutex<HashMap<SocketAddr, (WorkloadId, SocketAddr)>>>);

impl Origins {
    /// From now on a dial of `client` from this address was meant for `destination`.
    pub(super) fn remember(&self, dialler: SocketAddr, destination: SocketAddr) {
        let value = (id("client"), destination);
        self.0.lock().unwrap().insert(dialler, value);
    }
}

impl OriginOf for Origins {
    fn origin_of(&self, socket: BorrowedFd<'_>) -> io::Result<Origin> {
        let client = socket2::SockRef::from(&socket).peer_addr()?.as_socket();
        let origins = self.0.lock().unwrap();
        let (workload, destination) = client
            .and_then(|client| origins.get(&client))
            .ok_or(io::ErrorKind::NotFound)?;
        let (family, address) = match destination.ip() {
            IpAddr::V4(v4) => (2, mesh_common::address::v4_mapped(v4.octets())),
            IpAddr::V6(v6) => (10, v6.octets()),
        };
        Ok(Origin {
            version: mesh_common::LAYOUT_VERSION,
            family,
            port: destination.port().to_be(),
            listener_port: 0,
            address,
            workload: workload.0,
            pid: 42,
            uid: 1000,
            padding: 0,
            cgroup: 0,
            netns: 0,
            dialled_at: 0,
        })
    }
}

/// The facts of the stage: `client` on node a; `web-v1` and `web-v2` behind the service `web` on node b.
pub(super) struct Scene {
    pub(super) authority: Authority,
    pub(super) world: World,
    _directory: tempfile::TempDir,
}

pub(super) fn identity(name: &str) -> SpiffeId {
    format!("spiffe://demo.warren/ns/shop/sa/{name}")
        .parse()
        .unwrap()
}

pub(super) fn address(name: &str) -> IpAddr {
    let last = match name {
        "client" => 1,
        "web-v1" => 2,
        "web-v2" => 3,
        other => panic!("{other}"),
    };
    IpAddr::from([10, 77, 0, last])
}

/// The node's number for a workload.
pub(super) fn id(name: &str) -> WorkloadId {
    let last = address(name).to_string();
    WorkloadId(last.rsplit('.').next().unwrap().parse().unwrap())
}

pub(super) fn service_address() -> SocketAddr {
    "10.77.9.9:80".parse().unwrap()
}

impl Scene {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("demo.warren").unwrap();
        let authority = Authority::open_or_create(directory.path(), &domain).unwrap();
        let workloads: Vec<Arc<Workload>> = [("client", "a"), ("web-v1", "b"), ("web-v2", "b")]
            .into_iter()
            .map(|(name, node)| {
                Arc::new(Workload {
                    name: Name::new("shop", name),
                    identity: identity(name),
                    node: node.to_owned(),
                    addresses: vec![address(name)],
                    labels: [("app".to_owned(), name.to_owned())].into(),
                    ports: Vec::new(),
                })
            })
            .collect();
        let endpoints = workloads[1..]
            .iter()
            .map(|workload| {
                Arc::new(ServiceEndpoint {
                    address: workload.addresses[0],
                    port: None,
                    ports: Default::default(),
                    weight: 1,
                    labels: workload.labels.clone(),
                    workload: Some(Arc::clone(workload)),
                })
            })
            .collect();
        let web = Service {
            name: Name::new("shop", "web"),
            addresses: vec![service_address().ip()],
            ports: vec![ServicePort {
                port: 80,
                target_port: APP_PORT,
            }],
            endpoints,
            subsets: Default::default(),
        };
        let world = World {
            generation: 1,
            trust_domain: domain,
            workloads,
            services: vec![Arc::new(web)],
            ..World::default()
        };
        Self {
            authority,
            world,
            _directory: directory,
        }
    }

    /// The world after a change.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut World)) {
        change(&mut self.world);
        self.world.generation += 1;
    }

    /// A policy for the workload `target` that denies the service account `denied` and allows the others.
    pub(super) fn deny(&mut self, target: &str, denied: &str) {
        let rule = |name: &str, action, from| Rule {
            name: name.to_owned(),
            action,
            from,
            ports: Vec::new(),
        };
        let policy = AuthorizationPolicy {
            name: Name::new("shop", "guard"),
            target: Target::Workload(target.to_owned()),
            dry_run: false,
            rules: vec![
                rule(
                    "not-them",
                    Action::Deny,
                    vec![Source::Identity(identity(denied))],
                ),
                rule("rest", Action::Allow, Vec::new()),
            ],
        };
        self.change(|world| world.policies = vec![Arc::new(policy)]);
    }

    /// Both versions of the web become host services at web-v1's address, told apart by their ports.
    pub(super) fn share_an_address(&mut self) {
        let shared = address("web-v1");
        self.change(|world| {
            for (workload, port) in world.workloads[1..]
                .iter_mut()
                .zip([APP_PORT, APP_PORT + 1])
            {
                let workload = Arc::make_mut(workload);
                workload.addresses = vec![shared];
                workload.ports = vec![port];
            }
        });
    }

    /// The service gets an endpoint that is not of the mesh, and loses the others.
    pub(super) fn move_outside(&mut self, endpoint: IpAddr) {
        self.change(|world| {
            let service = Arc::make_mut(&mut world.services[0]);
            service.endpoints = vec![Arc::new(ServiceEndpoint {
                address: endpoint,
                port: None,
                ports: Default::default(),
                weight: 1,
                labels: Default::default(),
                workload: None,
            })];
        });
    }

    pub(super) fn permissive(&mut self) {
        self.change(|world| world.default_mtls = MtlsMode::Permissive);
    }

    /// What a workload shows and expects in a tunnel that it dials.
    pub(super) fn client_config(&self, name: &str, peer: &str) -> Arc<rustls::ClientConfig> {
        let lifetime = Duration::from_secs(3600);
        let own = self.authority.issue(&identity(name), lifetime).unwrap();
        mesh_identity::tls::client_config(&own, &self.authority.bundle(), &[identity(peer)])
            .unwrap()
    }

    pub(super) fn identities(&self, names: &[&str], generation: u64) -> Identities {
        let certificates = names
            .iter()
            .map(|name| {
                let lifetime = Duration::from_secs(3600);
                let certificate = self.authority.issue(&identity(name), lifetime).unwrap();
                certificate.to_handover().to_vec()
            })
            .collect();
        Identities {
            trust_domain: self.authority.trust_domain().clone(),
            certificates,
            roots: self.authority.bundle().to_der(),
            generation,
        }
    }
}

/// Runs a test on a runtime of its own.
pub(super) fn stage(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(60), test).await.unwrap();
    });
}
