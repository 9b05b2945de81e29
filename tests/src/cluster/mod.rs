//! The simulated cluster: nodes on a wire, pods and host services on nodes, an outsider on the wire.
//!
//! ```text
//!   pod ──veth── bridge│node a│eth0 ──veth── bridge │wire│ ──veth── eth0│node b│bridge ──veth── pod
//!                                                     └──veth── eth0 │outsider│
//! ```
//!
//! Addresses are the same in every cluster, since no two share a namespace: the wire is 10.99.0.0/24 and fd99::/64, pods of
//! the n-th node 10.n.0.0/24 and fd00:n::/64, services 10.200.0.0/16 and fd00:200::/64 (which are routed nowhere).

pub mod ask;
pub mod capture;
pub mod configuration;
pub mod fault;
pub mod mariadb;
pub mod nginx;
pub mod node;
pub mod observe;
pub mod place;
pub mod postgresql;
pub mod redis;
pub mod requests;
pub mod shop;
mod wire;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::host::cgroup::Cgroup;
use crate::host::leak;
use crate::host::namespace::Namespace;
use configuration::Configuration;
use node::Node;
use place::{NOBODY, Place};
use wire::Wire;

/// How long nodes may take to apply a configuration.
const APPLY: Duration = Duration::from_secs(15);

/// A cluster; everything in it is removed when it is dropped.
pub struct Cluster {
    name: String,
    folder: PathBuf,
    nodes: BTreeMap<String, Arc<Node>>,
    configuration: Configuration,
    // Dropped in this order: processes end first, then what they were in.
    outside: Arc<Cgroup>,
    cgroup: Arc<Cgroup>,
    wire: Wire,
}

impl Cluster {
    /// An empty cluster with a name of its own.
    pub fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = leak::name_for(process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = leak::folder_for(&name);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let cgroup = Arc::new(Cgroup::create(&name)?);
        let wire = Wire::create(&name)?;
        Ok(Self {
            configuration: Configuration::new(&folder.join("authority")),
            name,
            folder,
            nodes: BTreeMap::new(),
            outside: Arc::new(cgroup.child("outside")?),
            cgroup,
            wire,
        })
    }

    /// The first words of the names of everything in it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its files: configuration, logs, captures.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder for the data of an application in a place, which may be written by [`NOBODY`] only.
    fn folder_of(&self, place: &Place, application: &str) -> Result<PathBuf> {
        let folder = self.folder.join(format!("{application}-{}", place.name()));
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        chown(&folder, Some(NOBODY), Some(NOBODY))
            .with_context(|| format!("give {} to an unprivileged user", folder.display()))?;
        Ok(folder)
    }

    /// The one configuration file of all nodes.
    pub fn file(&self) -> PathBuf {
        self.folder.join("warren.yaml")
    }

    /// The cgroup of programs that are in no node's capture root.
    pub fn outside(&self) -> &Arc<Cgroup> {
        &self.outside
    }

    /// The wire's namespace.
    pub fn wire(&self) -> &Arc<Namespace> {
        self.wire.namespace()
    }

    /// Adds a node. Its agent is not started.
    pub fn node(&mut self, name: &str) -> Result<Arc<Node>> {
        let number = u8::try_from(self.nodes.len() + 1).context("too many nodes")?;
        let namespace = self.wire.attach(name, number)?;
        let node = Arc::new(Node::create(self, name, number, namespace)?);
        self.nodes.insert(name.to_owned(), Arc::clone(&node));
        Ok(node)
    }

    /// Two nodes, `a` and `b`.
    pub fn two_nodes(&mut self) -> Result<(Arc<Node>, Arc<Node>)> {
        Ok((self.node("a")?, self.node("b")?))
    }

    /// A machine on the wire that is not part of the mesh: 10.99.0.100.
    pub fn outsider(&mut self) -> Result<Place> {
        const NUMBER: u8 = 100;
        let namespace = self.wire.attach("outsider", NUMBER)?;
        let cgroup = Arc::new(self.cgroup.child("outsider")?);
        Ok(Place::new(
            "outsider",
            namespace,
            cgroup,
            Ipv4Addr::new(10, 99, 0, NUMBER),
            wire::address6(NUMBER),
        ))
    }

    /// Changes the configuration; [`Cluster::apply`] writes it.
    pub fn configuration(&mut self) -> &mut Configuration {
        &mut self.configuration
    }

    /// Writes the configuration and waits until every running agent decides with it.
    pub fn apply(&self) -> Result<()> {
        let text = self.configuration.text();
        if fs::read_to_string(self.file()).is_ok_and(|present| present == text) {
            return Ok(());
        }
        self.apply_text(&text)
    }

    /// Writes a configuration given as text and waits until every running agent decides with it.
    pub fn apply_text(&self, text: &str) -> Result<()> {
        let mut running = Vec::new();
        for node in self.nodes.values().filter(|node| node.is_running()) {
            running.push((node, node.status()?.configuration.generation));
        }
        self.write_text(text)?;
        for (node, before) in running {
            node.wait_status("the new configuration is applied", APPLY, |status| {
                status.configuration.generation > before
                    && status.configuration.applied_generation == status.configuration.generation
            })?;
        }
        Ok(())
    }

    /// Writes the configuration, whole or not at all; false when it is there already.
    pub fn write(&self) -> Result<bool> {
        let text = self.configuration.text();
        if fs::read_to_string(self.file()).is_ok_and(|present| present == text) {
            return Ok(false);
        }
        self.write_text(&text)?;
        Ok(true)
    }

    /// Writes any text as configuration file, whole or not at all.
    pub fn write_text(&self, text: &str) -> Result<()> {
        let (file, new) = (self.file(), self.folder.join("warren.yaml.new"));
        fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &file).with_context(|| format!("rename to {}", file.display()))
    }

    /// Enrols these places in the configuration, writes it, starts the agents of all nodes, and waits until they are ready.
    pub fn start(&mut self, places: &[&Place]) -> Result<()> {
        for place in places {
            self.configuration.enrol(place);
        }
        self.write()?;
        for node in self.nodes.values() {
            node.start()?;
        }
        self.wait_ready()?;
        for node in self.nodes.values() {
            let problems = node.status()?.configuration.problems;
            ensure!(
                problems.is_empty(),
                "the story's configuration has mistakes: {problems:?}"
            );
        }
        Ok(())
    }

    /// Waits until every node is ready and has enrolled all of its workloads.
    pub fn wait_ready(&self) -> Result<()> {
        self.nodes.values().try_for_each(|node| node.wait_ready())
    }

    /// A node by name.
    pub fn get(&self, name: &str) -> Result<&Arc<Node>> {
        self.nodes
            .get(name)
            .ok_or_else(|| anyhow!("the cluster has no node {name}"))
    }

    /// What the agents and workers have written, for a story that failed.
    pub fn logs(&self) -> String {
        self.nodes.values().map(|node| node.log_tail()).collect()
    }

    /// Ends and removes everything; an error when something cannot be removed, or is left.
    pub fn remove(self) -> Result<()> {
        let name = self.name.clone();
        // Agents are ended first, so that they do not react to what is taken away from under them.
        drop(self);
        let left = leak::find(&name)?;
        if !left.is_empty() {
            leak::sweep(&name)?;
            return Err(anyhow!("left behind: {left:?}"));
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Everything that runs is in here; what is borrowed from the machine goes with its guards.
        let ended = fs::write(self.cgroup.path().join("cgroup.kill"), "1");
        self.nodes.clear();
        let removed = fs::remove_dir_all(&self.folder);
        for error in [ended.err(), removed.err()].into_iter().flatten() {
            eprintln!("remove {}: {error}", self.name);
        }
    }
}

/// The address of a service in both families: the n-th of 10.200.0.0/16 and fd00:200::/64.
pub fn service_addresses(number: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 200, 0, number).into(),
        Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, number.into()).into(),
    ]
}
