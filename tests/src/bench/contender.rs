//! Who is compared: how each is reached, and what its proxies use.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::certificates::Certificates;
use super::scene::Scene;
use super::sidecar::Pair;
use super::usage::CpuTime;
use super::{envoy, haproxy};
use crate::cluster::Cluster;
use crate::cluster::node::Node;
use crate::cluster::place::Place;

/// Who is compared.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// No mesh at all.
    Direct,
    /// Warren.
    Warren,
    /// A pair of Envoy sidecars.
    Envoy,
    /// A pair of HAProxy sidecars.
    Haproxy,
}

impl Variant {
    /// All, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Warren, Self::Envoy, Self::Haproxy];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Warren => "warren",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
        })
    }
}

/// One of those who are compared, running.
pub struct Contender {
    /// Which.
    pub variant: Variant,
    /// Where load comes from.
    pub client: Place,
    /// What the client dials for nginx.
    pub http: SocketAddr,
    /// What the client dials for the sink.
    pub bulk: SocketAddr,
    proxies: Proxies,
}

enum Proxies {
    None,
    Warren([Arc<Node>; 2]),
    Sidecars(Box<Pair>),
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// The proxy at the client's end.
    pub client: u64,
    /// The proxy at the server's end.
    pub server: u64,
    /// What runs besides on each node, together: Warren's agents.
    pub agents: u64,
}

/// Programs of peers, where there are any.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// Envoy.
    pub envoy: Option<PathBuf>,
    /// HAProxy.
    pub haproxy: Option<PathBuf>,
}

/// Starts everybody who is wanted and can be; says who cannot.
pub fn start(
    scene: &Scene,
    cluster: &Cluster,
    wanted: &[Variant],
    programs: &Programs,
) -> Result<Vec<Contender>> {
    let folder = cluster.folder().join("peers");
    let certificates = Certificates::make(&folder).context("make the peers' certificates")?;
    let pods = (&scene.plain.client, &scene.plain.server);
    let start_pair = |start: StartPair, program: &Path| {
        start(program, pods, cluster.outside(), &certificates, &folder)
    };
    let mut contenders = Vec::new();
    for variant in wanted {
        let started = match variant {
            Variant::Direct => Some(Contender::direct(scene)),
            Variant::Warren => Contender::warren(scene),
            Variant::Envoy => programs
                .envoy
                .as_deref()
                .map(|program| start_pair(envoy::start, program))
                .transpose()?
                .map(|pair| Contender::sidecars(*variant, scene, pair)),
            Variant::Haproxy => programs
                .haproxy
                .as_deref()
                .map(|program| start_pair(haproxy::start, program))
                .transpose()?
                .map(|pair| Contender::sidecars(*variant, scene, pair)),
        };
        match started {
            Some(contender) => contenders.push(contender),
            None => eprintln!("bench: {variant} is not there and left out"),
        }
    }
    Ok(contenders)
}

type StartPair =
    fn(&Path, (&Place, &Place), &crate::host::cgroup::Cgroup, &Certificates, &Path) -> Result<Pair>;

impl Contender {
    fn direct(scene: &Scene) -> Self {
        Self {
            variant: Variant::Direct,
            client: scene.plain.client.clone(),
            http: scene.plain.server.at(super::scene::HTTP_PORT),
            bulk: scene.plain.server.at(super::scene::BULK_PORT),
            proxies: Proxies::None,
        }
    }

    fn warren(scene: &Scene) -> Option<Self> {
        let meshed = scene.meshed.as_ref()?;
        Some(Self {
            variant: Variant::Warren,
            client: meshed.pods.client.clone(),
            http: meshed.http,
            bulk: meshed.bulk,
            proxies: Proxies::Warren(meshed.nodes.clone()),
        })
    }

    fn sidecars(variant: Variant, scene: &Scene, pair: Pair) -> Self {
        Self {
            variant,
            client: scene.plain.client.clone(),
            http: pair.http,
            bulk: pair.bulk,
            proxies: Proxies::Sidecars(Box::new(pair)),
        }
    }

    /// CPU time of both proxies so far; for Warren the agents are counted in.
    pub fn cpu(&self) -> Result<CpuTime> {
        match &self.proxies {
            Proxies::None => Ok(CpuTime::default()),
            Proxies::Sidecars(pair) => [&pair.client, &pair.server]
                .into_iter()
                .map(super::sidecar::Sidecar::cpu)
                .sum(),
            Proxies::Warren(nodes) => nodes
                .iter()
                .map(|node| CpuTime::of_cgroup(&node.cgroup().path().join("mesh")))
                .sum(),
        }
    }

    /// The part of [`Self::cpu`] that is not the proxies': Warren's agents, which make sockets and take records.
    pub fn agents_cpu(&self) -> Result<Option<CpuTime>> {
        let Proxies::Warren(nodes) = &self.proxies else {
            return Ok(None);
        };
        nodes
            .iter()
            .map(|node| CpuTime::of_cgroup(&node.cgroup().path().join("mesh/agent")))
            .sum::<Result<CpuTime>>()
            .map(Some)
    }

    /// Memory of the proxies now; nothing where there is none.
    pub fn memory(&self) -> Result<Option<Memory>> {
        Ok(match &self.proxies {
            Proxies::None => None,
            Proxies::Sidecars(pair) => Some(Memory {
                client: pair.client.memory()?,
                server: pair.server.memory()?,
                agents: 0,
            }),
            Proxies::Warren([client, server]) => Some(Memory {
                client: workers_memory(client)?,
                server: workers_memory(server)?,
                agents: Node::memory_of(client.agent_id()?)? + Node::memory_of(server.agent_id()?)?,
            }),
        })
    }

    /// What of it Warren's records have to say: that connections were carried under mutual TLS.
    pub fn verify(&self) -> Result<()> {
        if let Proxies::Warren([client, _]) = &self.proxies {
            client.wait_flow("the load went through the mesh", &[], |flow| {
                flow.transport == "mutual_tls" && flow.verdict == "allowed"
            })?;
        }
        Ok(())
    }
}

fn workers_memory(node: &Node) -> Result<u64> {
    node.worker_ids().into_iter().map(Node::memory_of).sum()
}
