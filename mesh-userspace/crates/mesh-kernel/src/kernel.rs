//! The node's kernel half: what is open, and the way it is opened.
//!
//! The other parts of the facade are in the files named after what they do: `enrol.rs`, `capture.rs` (activate, un-enrol,
//! release), `host.rs`, `watchdog.rs`, `maintain.rs`.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use ipnet::IpNet;
use mesh_common::LAYOUT_VERSION;
use mesh_common::counter::Reason;
use mesh_common::guard::GuardMode as Mode;
use mesh_common::names::program;
use mesh_common::workload::{Class, NodeConfig};
use mesh_core::workload::WorkloadId;

use crate::bpf::{AttachType, LinkTarget};
use crate::cgroup;
use crate::error::KernelError;
use crate::events::EventStream;
use crate::link::{Link, Wanted};
use crate::load::{self, Programs};
use crate::log::ProgramLog;
use crate::maps::Maps;
use crate::namespace;
use crate::pin::Pins;
use crate::register::{self, Key};
use crate::sockets;
use crate::types::{GuardMode, Listener, Options, Purpose, Target, Udp};
use crate::workload::{Enrolled, Stage, owner_of_pin};

/// The programs at the capture root, in the order in which they are attached: `connect` redirects, so it comes last.
pub(crate) const AT_CAPTURE_ROOT: [(&str, AttachType); 5] = [
    (program::PEERNAME4, AttachType::PeerName4),
    (program::PEERNAME6, AttachType::PeerName6),
    (program::ORIGIN_CLIENT, AttachType::SockOps),
    (program::CONNECT4, AttachType::Connect4),
    (program::CONNECT6, AttachType::Connect6),
];

/// The programs at the mesh's cgroup.
pub(crate) const AT_MESH_CGROUP: [(&str, AttachType); 2] = [
    (program::ORIGIN_PROXY, AttachType::SockOps),
    (program::ORIGDST, AttachType::GetSockOpt),
];

/// The node's kernel half. Dropping it changes nothing in the kernel: the pins go on working.
#[derive(Debug)]
pub struct Kernel {
    pub(crate) options: Options,
    pub(crate) pins: Pins,
    pub(crate) programs: Programs,
    pub(crate) maps: Maps,
    pub(crate) events: MapData,
    pub(crate) log: Option<ProgramLog>,
    /// Links of the node: at cgroups, by name.
    pub(crate) node_links: BTreeMap<&'static str, Link>,
    /// Links of the node's own interfaces, for host services, by interface index.
    pub(crate) host_links: BTreeMap<u32, Link>,
    pub(crate) workloads: BTreeMap<WorkloadId, Enrolled>,
    pub(crate) host_listeners: Vec<Listener>,
    /// Cookie of the node's own namespace.
    pub(crate) node_cookie: u64,
    /// Worker generations whose cgroups were asked for.
    pub(crate) generations: Vec<u64>,
    /// The step at which the next enrolment fails, for tests of the way back.
    pub(crate) fail_at: Option<&'static str>,
}

impl Kernel {
    /// Loads the programs, adopts what an earlier agent pinned or makes it new, creates the mesh's cgroups and moves this
    /// process into `<mesh_cgroup>/agent`. Blocks for some 100 ms.
    ///
    /// # Errors
    /// Names the step, its object and the kernel's answer. What was pinned before goes on working.
    pub fn open(options: &Options) -> Result<Self, KernelError> {
        crate::object::bytes()?;
        let pins = Pins::prepare(&options.pins)?;
        let agent = options.mesh_cgroup.join("agent");
        cgroup::make(&agent)?;
        let agent_id = cgroup::id(&agent)?;
        cgroup::id(&options.capture_root)?;

        let older = pins.other_versions();
        for old in &older {
            load::adopt_frozen(old, &pins);
        }
        let loaded = load::load(&pins)?;
        let mut kernel = Self {
            options: options.clone(),
            pins,
            programs: loaded.programs,
            maps: loaded.maps,
            events: loaded.events,
            log: loaded.log,
            node_links: BTreeMap::new(),
            host_links: BTreeMap::new(),
            workloads: BTreeMap::new(),
            host_listeners: Vec::new(),
            node_cookie: namespace::own_cookie().map_err(|source| KernelError::Namespace {
                step: "read the cookie of the node's network namespace".to_owned(),
                source,
            })?,
            generations: Vec::new(),
            fail_at: None,
        };
        kernel.configure()?;
        // Higher than whatever was here before, also where that counted on its own: it must notice.
        let before = kernel.maps.mesh_cgroups.get(&agent_id)?.unwrap_or(0);
        kernel.options.generation = options.generation.max(before.saturating_add(1));
        kernel
            .maps
            .mesh_cgroups
            .set(&agent_id, &kernel.options.generation)?;
        cgroup::join(&agent)?;
        for old in &older {
            kernel.replace_layout(old)?;
        }
        kernel.attach_node()?;
        kernel.recall();
        kernel.adopt_links()?;
        kernel.write_cgroup_levels()?;
        Ok(kernel)
    }

    fn configure(&mut self) -> Result<(), KernelError> {
        let now = self.maps.config.get()?;
        self.maps.config.set(&NodeConfig {
            version: LAYOUT_VERSION,
            tunnel_port: self.options.tunnel_port,
            ..now
        })
    }

    /// Takes over the links of another layout version. Guards first: with empty maps they let nothing out until the
    /// workloads are enrolled again, so that nothing leaves in clear meanwhile (fail closed).
    fn replace_layout(&self, old: &Pins) -> Result<(), KernelError> {
        let mut names = Pins::names(&old.links());
        names.sort_by_key(|name| !name.starts_with(program::GUARD));
        for name in names {
            let (Some(program), Ok(link)) = (Programs::of_pin(&name), Link::open(old, &name))
            else {
                continue;
            };
            if link.info().is_ok_and(|info| info.target == 0) {
                link.remove()?;
                continue;
            }
            link.update(self.programs.fd(program))?;
            link.move_to(&self.pins)
                .map_err(|source| KernelError::File {
                    operation: "take over the pin of",
                    path: old.links().join(&name),
                    source,
                })?;
        }
        for (id, memory) in register::read(old) {
            register::write(&self.pins, id, &memory)?;
            register::forget(old, id)?;
        }
        load::remove_maps(old);
        old.remove_folders().map_err(|source| KernelError::File {
            operation: "remove",
            path: old.folder(),
            source,
        })
    }

    /// Attaches or adopts the programs at cgroups.
    pub(crate) fn attach_node(&mut self) -> Result<(), KernelError> {
        let places = [
            (self.options.mesh_cgroup.clone(), AT_MESH_CGROUP.as_slice()),
            (
                self.options.capture_root.clone(),
                AT_CAPTURE_ROOT.as_slice(),
            ),
        ];
        for (path, programs) in places {
            let id = cgroup::id(&path)?;
            let folder = cgroup::open(&path)?;
            for (name, attach) in programs.iter().copied() {
                let wanted = Wanted {
                    program: self.programs.fd(name),
                    target: LinkTarget::Cgroup(std::os::fd::AsFd::as_fd(&folder)),
                    target_id: id,
                    attach,
                };
                let link = Link::attach(&self.pins, name, wanted)?.link;
                self.node_links.insert(name, link);
            }
        }
        Ok(())
    }

    /// Reads what an earlier agent left about its workloads.
    fn recall(&mut self) {
        let guarded: HashMap<u32, _> = self.maps.guarded.entries().into_iter().collect();
        for (id, memory) in register::read(&self.pins) {
            let guard = memory
                .pairs
                .iter()
                .find_map(|pair| guarded.get(&pair.outside));
            let captured = self.is_captured(memory.key);
            self.workloads.insert(
                id,
                Enrolled {
                    stage: Stage::Remembered,
                    place: None,
                    mode: match guard {
                        Some(guard) if guard.mode == Mode::Permissive as u32 => {
                            GuardMode::Permissive
                        }
                        _ => GuardMode::Strict,
                    },
                    udp: match guard {
                        Some(guard) if guard.udp == 0 => Udp::Allow,
                        _ => Udp::Deny,
                    },
                    listeners: Vec::new(),
                    links: Vec::new(),
                    adopted: captured,
                    memory,
                },
            );
        }
    }

    /// Gives the workloads' and interfaces' links the new programs, and collects pins whose target is gone.
    fn adopt_links(&mut self) -> Result<(), KernelError> {
        for name in Pins::names(&self.pins.links()) {
            if self.node_links.contains_key(name.as_str()) {
                continue;
            }
            let (Some(program), Ok(link)) =
                (Programs::of_pin(&name), Link::open(&self.pins, &name))
            else {
                continue;
            };
            let target = link.info().map_or(0, |info| info.target);
            let workload = owner_of_pin(&name).and_then(|id| self.workloads.get_mut(&id));
            if target == 0 {
                link.remove()?;
            } else if let Some(workload) = workload {
                link.update(self.programs.fd(program))?;
                workload.links.push(link);
            } else if program == program::INGRESS_HOST {
                link.update(self.programs.fd(program))?;
                self.host_links.insert(target as u32, link);
            } else {
                // A link without a memory: an enrolment was cut short before or after it existed.
                link.remove()?;
            }
        }
        Ok(())
    }

    /// Whether the connect hooks capture this target now.
    pub(crate) fn is_captured(&self, key: Key) -> bool {
        match key {
            Key::Namespace(cookie) => self.maps.enrolled.get(&cookie),
            Key::Cgroup { id, .. } => self.maps.enrolled_cgroups.get(&id),
        }
        .is_ok_and(|entry| entry.is_some())
    }

    /// Whether an agent of a later generation has taken over. This one must leave the kernel alone then: [`Self::verify`]
    /// finds nothing, [`Self::maintain`] does nothing, and un-enrolling would take workloads from the other.
    pub fn is_superseded(&self) -> bool {
        cgroup::id(&self.options.mesh_cgroup.join("agent"))
            .and_then(|id| self.maps.mesh_cgroups.get(&id))
            .is_ok_and(|found| found.is_some_and(|found| found > self.options.generation))
    }

    /// The cgroup of a worker generation, made and registered. Put the worker there before it makes any socket.
    ///
    /// # Errors
    /// The cgroup cannot be made, or the map of generations is full.
    pub fn worker_cgroup(&mut self, generation: u64) -> Result<PathBuf, KernelError> {
        let path = self.worker_path(generation);
        cgroup::make(&path)?;
        self.maps
            .mesh_cgroups
            .set(&cgroup::id(&path)?, &generation)?;
        if !self.generations.contains(&generation) {
            self.generations.push(generation);
        }
        Ok(path)
    }

    pub(crate) fn worker_path(&self, generation: u64) -> PathBuf {
        self.options
            .mesh_cgroup
            .join(format!("worker-{generation}"))
    }

    /// The number under which a target is enrolled already (by an earlier agent, too).
    ///
    /// # Errors
    /// The target cannot be opened.
    pub fn known_id(&self, target: &Target) -> Result<Option<WorkloadId>, KernelError> {
        let key = self.key_of(target)?;
        Ok(self.find(key))
    }

    pub(crate) fn find(&self, key: Key) -> Option<WorkloadId> {
        self.workloads
            .iter()
            .find(|(_, workload)| workload.memory.key == key)
            .map(|(id, _)| *id)
    }

    /// Every number in use: enrolled, leaving, or left by an earlier agent and not enrolled again yet. Un-enrol and
    /// release those of the last kind that the configuration no longer names.
    pub fn known(&self) -> Vec<WorkloadId> {
        self.workloads.keys().copied().collect()
    }

    /// Fresh duplicates of a workload's listeners, for a new worker.
    ///
    /// # Errors
    /// The workload is not enrolled by this agent, or no descriptor is left.
    pub fn listeners(&self, id: WorkloadId) -> Result<Vec<Listener>, KernelError> {
        let workload = self.prepared(id)?;
        sockets::duplicate(&workload.listeners).map_err(|source| KernelError::Namespace {
            step: format!("duplicate the listeners of workload {id}"),
            source,
        })
    }

    /// Unconnected sockets in the workload's namespace, non-blocking. Deliveries to host services are plain sockets.
    ///
    /// # Errors
    /// The workload is not enrolled by this agent, or the kernel refuses a socket.
    pub fn sockets(
        &self,
        id: WorkloadId,
        purpose: Purpose,
        ipv6: bool,
        count: usize,
    ) -> Result<Vec<OwnedFd>, KernelError> {
        let workload = self.prepared(id)?;
        let transparent = !workload.is_host();
        let place = workload
            .place
            .as_ref()
            .ok_or(KernelError::NotPrepared { id })?;
        place
            .visit(|| sockets::unconnected(purpose, transparent, ipv6, count))
            .map_err(|source| KernelError::Namespace {
                step: format!("make sockets for workload {id}"),
                source,
            })
    }

    /// A workload that this agent enrolled.
    pub(crate) fn prepared(&self, id: WorkloadId) -> Result<&Enrolled, KernelError> {
        match self.workloads.get(&id) {
            None => Err(KernelError::Unknown { id }),
            Some(workload) if workload.place.is_none() => Err(KernelError::NotPrepared { id }),
            Some(workload) => Ok(workload),
        }
    }

    /// Makes the destinations in the kernel these: adds and changes first, then removes.
    ///
    /// # Errors
    /// The map is full; nothing was removed then.
    pub fn set_destinations(
        &mut self,
        destinations: &BTreeMap<IpNet, Class>,
    ) -> Result<(), KernelError> {
        self.maps.destinations.apply(destinations)
    }

    /// Tells the programs which cgroup is kubelet's, whose probes reach applications directly; `None`: none is.
    ///
    /// # Errors
    /// It is not a cgroup, or the map cannot be written.
    pub fn set_kubelet(&mut self, cgroup: Option<&Path>) -> Result<(), KernelError> {
        let kubelet_cgroup = cgroup.map_or(Ok(0), cgroup::id)?;
        let now = self.maps.config.get()?;
        if now.kubelet_cgroup == kubelet_cgroup {
            return Ok(());
        }
        self.maps.config.set(&NodeConfig {
            kubelet_cgroup,
            ..now
        })
    }

    /// The stream of drops and refusals. Call it within a tokio runtime with I/O; each call makes a stream, and streams
    /// share the events, so keep one.
    ///
    /// # Errors
    /// The ring buffer cannot be mapped.
    pub fn events(&mut self) -> Result<EventStream, KernelError> {
        EventStream::open(&self.events)
    }

    /// The programs' own lines, once, if the object was built with them.
    pub fn program_log(&mut self) -> Option<ProgramLog> {
        self.log.take()
    }

    /// Counters, summed over the CPUs; workload 0 stands for none.
    pub fn counters(&self) -> Vec<(WorkloadId, Reason, u64)> {
        self.maps.counters.read()
    }
}
