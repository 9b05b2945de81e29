//! Enrolling a network namespace, while whatever runs in it goes on.
//!
//! ```text
//! cookie → interfaces → memory → guard, closed (older connections let through) → sysctls, rule, route
//!        → listeners → ingress                                     … then the worker accepts, and `activate` captures
//! ```
//! The guard comes first: from then on nothing new leaves past the mesh, whatever else happens. Each step notes how to take
//! it back; on error the workload is as it was.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use mesh_common::guard::GuardMode as Mode;
use mesh_common::inbound::Inbound;
use mesh_common::names::program;
use mesh_core::workload::WorkloadId;

use crate::bpf::{AttachType, LinkTarget};
use crate::cgroup;
use crate::error::KernelError;
use crate::exits::{Exit, exits};
use crate::kernel::Kernel;
use crate::link::{Attached, Link, Wanted};
use crate::namespace::{self, Place};
use crate::netlink::delivery;
use crate::register::{self, Key, Memory, Pair};
use crate::sockets;
use crate::sysctls;
use crate::types::{
    EnrolRequest, GuardPlacement, GuardedInterface, Listener, ListenerKind, Prepared, Target,
};
use crate::undo::Undo;
use crate::workload::{Enrolled, Stage, families, guard, guard_pin, ingress_pin, listener_key};

impl Kernel {
    /// Prepares a workload: guard, delivery, listeners, ingress. It is not captured before [`Self::activate`], unless an
    /// earlier agent captured it; then capture goes on as it is. Listeners exist in the families of its addresses, IPv4
    /// before IPv6, in the order outbound, tunnel, plaintext; host services have no tunnel listener of their own.
    ///
    /// # Errors
    /// Names the step and the kernel's answer; everything done so far was taken back.
    pub fn enrol(&mut self, request: EnrolRequest) -> Result<Prepared, KernelError> {
        let key = self.key_of(&request.target)?;
        let id = request.id;
        self.check_number(id, key)?;
        let mut undo = Undo::default();
        let result = match (&request.target, key) {
            (Target::NetworkNamespace(_), Key::Namespace(_)) => {
                self.prepare_namespace(request, key, &mut undo)
            }
            _ => self.prepare_host(request, key, &mut undo),
        };
        let (workload, guard) = match result {
            Ok(done) => done,
            Err(error) => {
                undo.run(self);
                return Err(error);
            }
        };
        let prepared = sockets::duplicate(&workload.listeners).map(|listeners| Prepared {
            id,
            host: workload.is_host(),
            adopted: workload.adopted,
            addresses: workload.memory.addresses.clone(),
            listeners,
            guard,
        });
        match prepared {
            Ok(prepared) => {
                self.workloads.insert(id, workload);
                Ok(prepared)
            }
            Err(source) => {
                undo.run(self);
                Err(step_failed(id, "duplicate the listeners", source))
            }
        }
    }

    /// How a target is recognised.
    pub(crate) fn key_of(&self, target: &Target) -> Result<Key, KernelError> {
        match target {
            Target::NetworkNamespace(fd) => namespace::cookie_of(fd.as_fd())
                .map(Key::Namespace)
                .map_err(|source| KernelError::Namespace {
                    step: "enter the workload's network namespace".to_owned(),
                    source,
                }),
            Target::Cgroup { path, .. } => Ok(Key::Cgroup {
                id: cgroup::id(path)?,
                depth: cgroup::depth(path)?,
            }),
        }
    }

    fn check_number(&self, id: WorkloadId, key: Key) -> Result<(), KernelError> {
        if key == Key::Namespace(self.node_cookie) {
            return Err(KernelError::NodeNamespace { id });
        }
        if let Some(known) = self.find(key).filter(|known| *known != id) {
            return Err(KernelError::OtherId { known, asked: id });
        }
        match self.workloads.get(&id) {
            Some(other) if other.memory.key != key => Err(KernelError::IdTaken { id }),
            _ if id.0 == 0 => Err(KernelError::IdTaken { id }),
            _ => Ok(()),
        }
    }

    fn prepare_namespace(
        &mut self,
        request: EnrolRequest,
        key: Key,
        undo: &mut Undo,
    ) -> Result<(Enrolled, GuardPlacement), KernelError> {
        let EnrolRequest {
            id,
            target: Target::NetworkNamespace(fd),
            mode,
            udp,
        } = request
        else {
            return Err(KernelError::Unknown { id: request.id });
        };
        self.step("interfaces")?;
        let exits = exits(id, &fd)?;
        let place = Place::Namespace(fd);
        let adopted = self.is_captured(key);
        let memory = self.remember(id, key, &exits, &place, undo)?;
        let mut workload = Enrolled {
            memory,
            stage: Stage::Prepared,
            place: Some(place),
            mode,
            udp,
            listeners: Vec::new(),
            links: Vec::new(),
            adopted,
        };
        self.close_guard(id, &mut workload, &exits, undo)?;
        self.open_delivery(id, &workload, undo)?;
        self.listen(id, &mut workload)?;
        self.offer_listeners(id, &workload, undo)?;
        self.offer_addresses(id, &workload, undo)?;
        self.attach_ingress(id, &mut workload, undo)?;
        let interfaces = exits.into_iter().map(|exit| GuardedInterface {
            index: exit.pair.outside,
            name: exit.name,
            inside: exit.pair.inside,
        });
        Ok((
            workload,
            GuardPlacement::HostInterfaces(interfaces.collect()),
        ))
    }

    /// Writes down what will be changed, before anything is: an agent that dies on the way is cleaned up after.
    pub(crate) fn remember(
        &mut self,
        id: WorkloadId,
        key: Key,
        exits: &[Exit],
        place: &Place,
        undo: &mut Undo,
    ) -> Result<Memory, KernelError> {
        self.step("memory")?;
        let previous = self.workloads.get(&id).map(|known| known.memory.clone());
        // What the namespace was like before us is known from the first time only.
        let sysctls = match previous.as_ref().and_then(|memory| memory.sysctls.clone()) {
            Some(saved) => saved,
            None => place
                .visit(sysctls::read)
                .map_err(|source| step_failed(id, "read the sysctls", source))?,
        };
        let mut addresses: Vec<IpAddr> = exits
            .iter()
            .flat_map(|exit| exit.addresses.clone())
            .collect();
        addresses.sort_by_key(IpAddr::is_ipv6);
        let memory = Memory {
            key,
            addresses,
            ports: Vec::new(),
            pairs: exits.iter().map(|exit| exit.pair).collect(),
            sysctls: Some(sysctls),
        };
        self.write_memory(id, &memory, previous, undo)?;
        Ok(memory)
    }

    pub(crate) fn write_memory(
        &mut self,
        id: WorkloadId,
        memory: &Memory,
        previous: Option<Memory>,
        undo: &mut Undo,
    ) -> Result<(), KernelError> {
        register::write(&self.pins, id, memory)?;
        undo.note("memory", move |kernel| match &previous {
            Some(previous) => register::write(&kernel.pins, id, previous),
            None => register::forget(&kernel.pins, id),
        });
        Ok(())
    }

    /// Puts the guard in place. A workload that is captured already keeps the mode that its guard has.
    fn close_guard(
        &mut self,
        id: WorkloadId,
        workload: &mut Enrolled,
        exits: &[Exit],
        undo: &mut Undo,
    ) -> Result<(), KernelError> {
        self.step("guard")?;
        // Before the guard, so that no packet of an older connection is held up; and after it, for those that were made
        // in between.
        self.let_older_pass(id, workload)?;
        for exit in exits {
            let index = exit.pair.outside;
            let known = self.maps.guarded.get(&index)?;
            if !(workload.adopted && known.is_some_and(|known| known.workload == id.0)) {
                let closed = guard(id, Mode::Closed, workload.udp, &exit.addresses);
                self.maps.guarded.set(&index, &closed)?;
                undo.note("guard entry", move |kernel| match known {
                    Some(known) => kernel.maps.guarded.set(&index, &known),
                    None => kernel.maps.guarded.remove(&index),
                });
            }
            let wanted = Wanted {
                program: self.programs.fd(program::GUARD),
                target: LinkTarget::Interface(index),
                target_id: u64::from(index),
                attach: AttachType::TcxIngress,
            };
            let name = guard_pin(id, exit.pair);
            let attached = Link::attach(&self.pins, &name, wanted)?;
            self.keep(workload, attached, undo);
        }
        self.step("established")?;
        self.let_older_pass(id, workload)?;
        let pairs = workload.memory.pairs.clone();
        if !workload.adopted {
            undo.note("established connections", move |kernel| {
                kernel.forget_established(&pairs)
            });
        }
        Ok(())
    }

    /// Keeps a link, and notes how to take it back if it is new.
    fn keep(&self, workload: &mut Enrolled, attached: Attached, undo: &mut Undo) {
        if attached.new {
            let name = attached.link.name().to_owned();
            undo.note("link", move |kernel| {
                match Link::open(&kernel.pins, &name) {
                    Ok(link) => link.remove(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    Err(source) => Err(KernelError::Bpf {
                        operation: "open the pin of",
                        object: format!("program {name}"),
                        source,
                    }),
                }
            });
        }
        workload.links.push(attached.link);
    }

    fn open_delivery(
        &mut self,
        id: WorkloadId,
        workload: &Enrolled,
        undo: &mut Undo,
    ) -> Result<(), KernelError> {
        self.step("delivery")?;
        let Some(Place::Namespace(fd)) = &workload.place else {
            return Err(KernelError::NotPrepared { id });
        };
        // A workload that was here before had its delivery already, which must survive a failed attempt.
        if !self.workloads.contains_key(&id) {
            let fd = duplicate(id, fd)?;
            let saved = workload.memory.sysctls.clone();
            undo.note("delivery", move |_| {
                close_delivery(&Place::Namespace(fd), saved.as_ref())
                    .map_err(|source| step_failed(id, "take back the delivery", source))
            });
        }
        let families = workload.families();
        namespace::visit(fd.as_fd(), || {
            sysctls::set()?;
            delivery::add(families)
        })
        .map_err(|source| step_failed(id, "set sysctls, delivery rule and route", source))
    }

    fn listen(&mut self, id: WorkloadId, workload: &mut Enrolled) -> Result<(), KernelError> {
        self.step("listeners")?;
        let kinds = if workload.is_host() {
            [ListenerKind::Outbound, ListenerKind::Plaintext].as_slice()
        } else {
            [
                ListenerKind::Outbound,
                ListenerKind::Tunnel,
                ListenerKind::Plaintext,
            ]
            .as_slice()
        };
        let families = families(&workload.memory.addresses);
        let place = workload
            .place
            .as_ref()
            .ok_or(KernelError::NotPrepared { id })?;
        workload.listeners = place
            .visit(|| {
                [(families.ipv4, false), (families.ipv6, true)]
                    .into_iter()
                    .filter(|(used, _)| *used)
                    .flat_map(|(_, ipv6)| kinds.iter().map(move |kind| (*kind, ipv6)))
                    .map(|(kind, ipv6)| sockets::listener(kind, ipv6))
                    .collect::<io::Result<Vec<Listener>>>()
            })
            .map_err(|source| step_failed(id, "make the listeners", source))?;
        Ok(())
    }

    /// Lets arriving connections queue at the listeners until the worker accepts. One that is captured already goes on to
    /// the old ones until `activate`.
    fn offer_listeners(
        &mut self,
        id: WorkloadId,
        workload: &Enrolled,
        undo: &mut Undo,
    ) -> Result<(), KernelError> {
        self.step("listener entries")?;
        if workload.adopted {
            return Ok(());
        }
        for listener in &workload.listeners {
            let Some(key) = listener_key(id, listener) else {
                continue;
            };
            self.maps.listeners.set(key, listener.socket.as_fd())?;
            undo.note("listener entry", move |kernel| {
                kernel.maps.listeners.remove(key)
            });
        }
        Ok(())
    }

    fn offer_addresses(
        &mut self,
        id: WorkloadId,
        workload: &Enrolled,
        undo: &mut Undo,
    ) -> Result<(), KernelError> {
        self.step("inbound entries")?;
        for key in workload.inbound_keys() {
            let known = self.maps.inbound.get(&key)?;
            match known.map(|known| WorkloadId(known.workload)) {
                Some(owner) if owner == id => continue,
                Some(other) if self.is_alive(other) => {
                    let address = crate::address::from_bytes(key.address);
                    return Err(KernelError::AddressTaken {
                        address: match key.port {
                            0 => address.to_string(),
                            port => std::net::SocketAddr::new(address, port).to_string(),
                        },
                        other,
                    });
                }
                _ => {}
            }
            let value = Inbound {
                workload: id.0,
                flags: 0,
            };
            self.maps.inbound.set(&key, &value)?;
            undo.note("inbound entry", move |kernel| match &known {
                Some(known) => kernel.maps.inbound.set(&key, known),
                None => kernel.maps.inbound.remove(&key),
            });
        }
        Ok(())
    }

    fn attach_ingress(
        &mut self,
        id: WorkloadId,
        workload: &mut Enrolled,
        undo: &mut Undo,
    ) -> Result<(), KernelError> {
        for pair in workload.memory.pairs.clone() {
            self.step("ingress")?;
            let attached = self.attach_ingress_to(id, workload, pair)?;
            self.keep(workload, attached, undo);
        }
        self.step("end")
    }

    pub(crate) fn attach_ingress_to(
        &self,
        id: WorkloadId,
        workload: &Enrolled,
        pair: Pair,
    ) -> Result<Attached, KernelError> {
        let place = workload
            .place
            .as_ref()
            .ok_or(KernelError::NotPrepared { id })?;
        let wanted = Wanted {
            program: self.programs.fd(program::INGRESS),
            target: LinkTarget::Interface(pair.inside),
            target_id: u64::from(pair.inside),
            attach: AttachType::TcxIngress,
        };
        let name = ingress_pin(id, pair);
        let pins = &self.pins;
        place
            .visit(|| Ok(Link::attach(pins, &name, wanted)))
            .map_err(|source| step_failed(id, "attach the ingress program", source))?
    }

    /// Parts of an enrolment that host services share.
    pub(crate) fn listen_and_offer(
        &mut self,
        id: WorkloadId,
        workload: &mut Enrolled,
        undo: &mut Undo,
    ) -> Result<(), KernelError> {
        self.listen(id, workload)?;
        self.offer_listeners(id, workload, undo)?;
        self.offer_addresses(id, workload, undo)
    }

    /// Fails when a test asked for it.
    pub(crate) fn step(&mut self, name: &'static str) -> Result<(), KernelError> {
        if self.fail_at == Some(name) {
            self.fail_at = None;
            return Err(KernelError::Namespace {
                step: name.to_owned(),
                source: io::Error::other("a failure that was asked for"),
            });
        }
        Ok(())
    }

    /// The names of the steps at which [`Self::fail_at`] can make an enrolment fail.
    #[doc(hidden)]
    pub const STEPS: [&str; 9] = [
        "interfaces",
        "memory",
        "guard",
        "established",
        "delivery",
        "listeners",
        "listener entries",
        "inbound entries",
        "ingress",
    ];

    /// Makes the next enrolment fail at a step, to test the way back.
    #[doc(hidden)]
    pub fn fail_at(&mut self, step: &'static str) {
        self.fail_at = Some(step);
    }
}

/// Removes rule and route, then puts the sysctls back.
pub(crate) fn close_delivery(place: &Place, saved: Option<&sysctls::Saved>) -> io::Result<()> {
    place.visit(|| {
        delivery::remove()?;
        saved.map_or(Ok(()), sysctls::restore)
    })
}

fn duplicate(id: WorkloadId, fd: &OwnedFd) -> Result<OwnedFd, KernelError> {
    fd.try_clone()
        .map_err(|source| step_failed(id, "duplicate a namespace", source))
}

/// An error of a step of a workload's.
pub(crate) fn step_failed(id: WorkloadId, step: &str, source: io::Error) -> KernelError {
    KernelError::Namespace {
        step: format!("{step} of workload {id}"),
        source,
    }
}
