//! Publishing: configuration and found addresses → kernel destinations, then the worker's world, then what people see.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use jiff::Timestamp;
use mesh_core::record::{Party, Process};
use mesh_core::snapshot::Snapshot;
use mesh_core::workload::{Name, WorkloadId};
use mesh_kernel::Class;

use super::Node;
use crate::agent::config::{Change, Problems};
use crate::agent::enrol::Enrolments;
use crate::agent::flows::Parties;
use crate::agent::supervise::{Outgoing, chain};

impl Node {
    /// Takes a configuration that changed.
    pub(super) fn configure(&mut self, change: Change) {
        if self.state.opening.is_some() || self.state.ending.is_some() {
            return;
        }
        match change {
            Change::Applies(configuration) => {
                if !self.identities.is_of(
                    &configuration.identity_directory,
                    &configuration.trust_domain,
                ) {
                    tracing::warn!(
                        "trustDomain and identity.directory take effect when the agent is started again; going on with the old ones"
                    );
                }
                self.configuration = *configuration;
                self.apply();
                self.advance(Instant::now());
                self.tend_pods(Instant::now());
            }
            // The source logs it.
            Change::Said {
                problems,
                current,
                generation,
            } => {
                self.configuration.problems = problems;
                self.configuration.current = current;
                self.configuration.generation = generation;
                // Nothing in it is other than before, so that whoever has that has this.
                self.state.of_source.1 = generation;
                let applied = self.view.state().configuration.applied_generation;
                self.applied(applied);
                self.show_problems();
            }
        }
    }

    /// Applies the configuration as it is.
    pub(super) fn apply(&mut self) {
        self.write_namespaces();
        let wanted = self.configuration.wanted.clone();
        // Who leaves is told first: its connections go on, though the world to come does not know it.
        self.enrolling(|enrolments, cx| enrolments.want(wanted, cx));
        self.tend_identities();
        self.publish();
        self.state.of_source = (self.state.generation, self.configuration.generation);
        let now = Timestamp::now();
        self.metrics
            .config_last_success
            .set(now.as_duration().as_secs_f64());
        self.view.state().configuration.read_at = Some(now);
        self.show_problems();
        self.show_enrolments();
    }

    /// Makes the addresses of the world what the kernel captures. Until that succeeds the node is not ready, and it is
    /// tried again.
    fn capture(&mut self, snapshot: &Snapshot) -> usize {
        let destinations: BTreeMap<IpNet, Class> = snapshot
            .captured_addresses()
            .map(|address| (IpNet::from(address), Class::Capture))
            .collect();
        let uncaptured = match self.kernel.set_destinations(&destinations) {
            Ok(()) => None,
            Err(error) => {
                let why = chain(&error);
                tracing::error!(error = why, "the kernel does not capture every destination");
                Some(why)
            }
        };
        self.view.state().kernel.uncaptured = uncaptured;
        destinations.len()
    }

    /// Tries again what the kernel refused.
    pub(super) fn capture_again(&mut self) {
        if self.view.state().kernel.uncaptured.is_some() {
            let snapshot = self.view.snapshot.load_full();
            self.capture(&snapshot);
        }
    }

    /// Holds a certificate for every identity in use, and for no other.
    pub(super) fn tend_identities(&mut self) {
        let identities = self.state.enrolments.identities();
        self.identities
            .want(identities, self.configuration.certificate_lifetime);
        if let Some(identities) = self
            .identities
            .refresh(SystemTime::now(), self.control.as_ref())
        {
            self.state.identities_told_at = Some(self.state.generation);
            self.say(Outgoing::Identities(identities));
        }
    }

    fn show_problems(&self) {
        let Problems { list, rejected } = self.configuration.problems.clone();
        let rejected = i64::try_from(rejected).unwrap_or(i64::MAX);
        self.metrics.config_rejected_objects.set(rejected);
        self.view.state().configuration.problems = list;
    }

    /// Makes the configuration, with the addresses that workloads have, the world.
    ///
    /// The kernel first: a destination that is captured before the worker knows it is passed on as before; one that the
    /// worker knows before it is captured would leave in clear for no reason.
    pub(super) fn publish(&mut self) {
        self.state.generation += 1;
        let generation = self.state.generation;
        let world = self
            .configuration
            .world(generation, &self.state.enrolments.addresses());
        let snapshot = Arc::new(Snapshot::new(self.as_open(world)));
        let captured = self.capture(&snapshot);
        self.view.snapshot.store(Arc::clone(&snapshot));
        self.say(Outgoing::World(snapshot));
        self.metrics
            .config_generation
            .set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.view.state().configuration.generation = generation;
        tracing::info!(generation, destinations = captured, "published the world");
    }
}

/// What is known about the ends of a kernel drop.
pub(super) struct Known<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) enrolments: &'a Enrolments,
}

impl Parties for Known<'_> {
    fn local(&self, id: WorkloadId) -> Option<Party> {
        let workload = self.enrolments.workload(id)?;
        Some(Party {
            workload: Some(workload.name.clone()),
            identity: Some(workload.identity.clone()),
        })
    }

    fn at(&self, address: SocketAddr) -> (Party, Option<Name>) {
        let service = self
            .snapshot
            .service_at(address)
            .map(|(service, _)| service.name.clone());
        let party = self.snapshot.workload_at(address).map(|workload| Party {
            workload: Some(workload.name.clone()),
            // An address proves nothing: who would have answered is not known.
            identity: None,
        });
        (party.unwrap_or_default(), service)
    }

    fn process(&self, pid: u32) -> Option<Process> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let uid = uids.split_whitespace().next()?.parse().ok()?;
        Some(Process { pid, uid })
    }

    fn generation(&self) -> u64 {
        self.snapshot.world.generation
    }
}
