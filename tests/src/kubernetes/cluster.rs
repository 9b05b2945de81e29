//! A cluster, from its control plane to nodes that are ready. There is at most one on a machine; it goes on after whoever
//! brought it up has ended, so that many stories can share it.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cache::{Cache, Part};
use super::kubectl::Kubectl;
use super::layout::{self, CONTROL, Node};
use super::machine::{self, Machine};
use super::{control_plane, hierarchy, images, leak, network, pki};
use crate::host::{binary, cgroup};

/// From the start of the kubelets until all nodes are ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a running cluster is made of, written when it is ready.
#[derive(Debug, Deserialize, Serialize)]
struct State {
    nodes: u8,
    cache: PathBuf,
}

impl State {
    /// Of the cluster on this machine, if there is one.
    fn read() -> Result<Option<Self>> {
        let file = state_file();
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("read {}", file.display()))?,
        };
        let state =
            serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
        Ok(Some(state))
    }

    fn write(&self) -> Result<()> {
        let file = state_file();
        fs::write(&file, serde_json::to_string(self)?)
            .with_context(|| format!("write {}", file.display()))
    }
}

fn state_file() -> PathBuf {
    layout::folder().join("cluster.json")
}

/// Whose a cluster is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Brought up here: taken down when dropped.
    Own,
    /// Found running on this machine: left running.
    Adopted,
    /// Somewhere, named by `WARREN_KUBECONFIG`: its nodes are out of reach.
    Foreign,
}

/// A cluster whose nodes are ready.
#[derive(Debug)]
pub struct Cluster {
    origin: Origin,
    kubectl: Kubectl,
    nodes: Vec<Node>,
}

impl Cluster {
    /// The one that `WARREN_KUBECONFIG` names, or that runs on this machine, or else a new one with two nodes.
    pub fn adopt_or_up() -> Result<Self> {
        if let Some(file) = env::var_os("WARREN_KUBECONFIG").map(PathBuf::from)
            && file != layout::kubeconfig()
        {
            ensure!(
                file.is_file(),
                "WARREN_KUBECONFIG names {}, which is not a file",
                file.display()
            );
            return Ok(Self {
                origin: Origin::Foreign,
                kubectl: Kubectl::of_file(&file),
                nodes: Vec::new(),
            });
        }
        match Self::running()? {
            Some(cluster) => Ok(cluster),
            None => Self::up(&Cache::complete()?, 2),
        }
    }

    /// The one that runs on this machine.
    pub fn running() -> Result<Option<Self>> {
        let Some(State { nodes, cache }) = State::read()? else {
            return Ok(None);
        };
        let control = cgroup::mount_point()?.join(CONTROL);
        ensure!(
            !cgroup::processes_below(&control).is_empty(),
            "{} is left of a cluster whose control plane has ended; `cargo xtask kubernetes down` removes it",
            layout::folder().display()
        );
        Ok(Some(Self {
            origin: Origin::Adopted,
            kubectl: Kubectl::of_machine(&Cache::at(&cache)),
            nodes: Node::first(nodes).collect(),
        }))
    }

    /// Brings one up; comes back when all nodes are ready. What was made is removed when something fails.
    pub fn up(cache: &Cache, nodes: u8) -> Result<Self> {
        ensure!(
            (1..=layout::MOST_NODES).contains(&nodes),
            "a cluster has 1 to {} nodes, not {nodes}",
            layout::MOST_NODES
        );
        let left = leak::find()?;
        if !left.is_empty() {
            bail!(
                "a cluster is there, or what is left of one; `cargo xtask kubernetes down` removes it: {left:?}"
            );
        }
        bring_up(cache, nodes).inspect_err(|_error| {
            if let Err(error) = down() {
                eprintln!("{error:#}");
            }
        })
    }

    /// Whose it is.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// `kubectl` for an administrator, in the namespace `default`.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Its nodes, as far as they are on this machine.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node's machine, by the node's name.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        let node = self.nodes.iter().find(|node| node.name() == name);
        let node = node.ok_or_else(|| anyhow!("the cluster has no node {name} on this machine"))?;
        Machine::of(*node)
    }

    /// All machines.
    pub fn machines(&self) -> Result<Vec<Machine>> {
        self.nodes.iter().map(|node| Machine::of(*node)).collect()
    }

    /// What a loss of power does to a node: everything ends at once; then it starts again, with the disk that it had.
    pub fn reboot(&self, name: &str) -> Result<()> {
        let node = self.machine(name)?.node();
        machine::end(node)?;
        network::attach(node, u8::try_from(self.nodes.len())?)?;
        machine::start(node, &self.cache()?)?;
        machine::wait_started(node)
    }

    fn cache(&self) -> Result<Cache> {
        State::read()?
            .map(|state| Cache::at(&state.cache))
            .ok_or_else(|| anyhow!("the cluster has ended"))
    }

    /// Imports an image on every node, from an archive as `docker save` writes it.
    pub fn import(&self, archive: &Path) -> Result<()> {
        ensure!(
            self.origin != Origin::Foreign,
            "images of a cluster elsewhere come from its registry"
        );
        self.machines()?
            .iter()
            .try_for_each(|machine| machine.import(archive))
    }

    /// Puts the product on every node, unless this very build is there already; gives the name of its image. Every build has a
    /// name of its own: pods with another one are not taken for this.
    pub fn import_warren(&self) -> Result<String> {
        let program = binary::warren()?;
        let about =
            fs::metadata(&program).with_context(|| format!("look at {}", program.display()))?;
        let mut build = DefaultHasher::new();
        (&program, about.modified()?, about.len()).hash(&mut build);
        let image = format!("{}-{:x}", images::WARREN, build.finish());
        let stamp = layout::folder().join("warren.imported");
        if fs::read_to_string(&stamp).is_ok_and(|imported| imported == image) {
            return Ok(image);
        }
        let archive = layout::folder().join("warren.tar");
        images::write_warren(&archive, &image, &program)?;
        self.import(&archive)?;
        fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
        fs::write(&stamp, &image).with_context(|| format!("write {}", stamp.display()))?;
        Ok(image)
    }

    /// Lets it run on when this is dropped.
    pub fn keep(mut self) {
        self.origin = Origin::Adopted;
    }

    /// Takes it down, if it was brought up here; an error when something is left.
    pub fn remove(mut self) -> Result<()> {
        if self.origin != Origin::Own {
            return Ok(());
        }
        // Not once more when dropped.
        self.origin = Origin::Adopted;
        down()
    }

    /// What the nodes' programs have written last.
    pub fn logs(&self) -> String {
        let machines = self.machines().unwrap_or_default();
        machines
            .iter()
            .flat_map(|machine| {
                ["kubelet", "containerd"]
                    .map(|program| format!("{}: {}\n", machine.node().name(), machine.log(program)))
            })
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.origin == Origin::Own
            && let Err(error) = down()
        {
            eprintln!("{error:#}");
        }
    }
}

fn bring_up(cache: &Cache, count: u8) -> Result<Cluster> {
    let kubectl = Kubectl::of_machine(cache);
    pki::make(&layout::pki_folder(), count)?;
    network::create()?;
    thread::scope(|scope| {
        let images = scope.spawn(|| gather_images(cache));
        control_plane::start(cache, &kubectl)?;
        images
            .join()
            .unwrap_or_else(|_panic| Err(anyhow!("gathering images panicked")))
    })?;
    for node in Node::first(count) {
        network::attach(node, count)?;
        machine::start(node, cache)?;
    }
    Node::first(count).try_for_each(machine::wait_started)?;
    let cluster = Cluster {
        origin: Origin::Adopted,
        kubectl,
        nodes: Node::first(count).collect(),
    };
    cluster.wait_ready().with_context(|| cluster.logs())?;
    State {
        nodes: count,
        cache: cache.folder().to_owned(),
    }
    .write()?;
    Ok(Cluster {
        origin: Origin::Own,
        kubectl: cluster.kubectl.clone(),
        nodes: cluster.nodes.clone(),
    })
}

impl Cluster {
    fn wait_ready(&self) -> Result<()> {
        let nodes = ["nodes"];
        self.kubectl
            .eventually("all nodes are ready", PATIENCE, &nodes, |list| {
                let ready = list["items"]
                    .as_array()?
                    .iter()
                    .filter(|node| is_ready(node))
                    .count();
                (ready == self.nodes.len()).then_some(())
            })?;
        self.kubectl.wait_for_account()
    }
}

fn is_ready(node: &Value) -> bool {
    node["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The archives that every node imports when it starts, in one folder.
fn gather_images(cache: &Cache) -> Result<()> {
    let folder = layout::images_folder();
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    for name in ["pause.tar", "busybox.tar"] {
        let from = cache.part(Part::Images).join(name);
        fs::copy(&from, folder.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    images::write_probe(&folder.join("probe.tar"), &cache.part(Part::Root))
}

/// Takes down whatever there is of a cluster on this machine; an error when something is left.
pub fn down() -> Result<()> {
    // Nodes go first: a control plane that sees them go would only be busy.
    for node in Node::first(layout::MOST_NODES) {
        machine::remove(node)?;
    }
    hierarchy::remove(CONTROL)?;
    network::remove(CONTROL)?;
    super::cache::remove(&layout::folder())?;
    let left = leak::find()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
