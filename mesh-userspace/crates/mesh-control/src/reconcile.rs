//! Checked objects → what is applied: the place of each rejected object is filled on the closed side, then everything is
//! linked into a world. It knows objects and worlds; it knows no file, no text and no mistakes.
//!
//! One bad object rejects only itself:
//! * a workload, service or route keeps its last good version, if it had one (a workload that is taken out of the mesh
//!   by mistake would speak in clear);
//! * a policy is replaced by one that denies, for its target if that can be told, else for its namespace;
//! * an exception from mutual TLS is left out when it could only have opened something, else it is replaced by a strict one.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::addr::is_forbidden_destination;
use mesh_core::identity::SpiffeId;
use mesh_core::policy::{AuthorizationPolicy, MtlsRule, Target};
use mesh_core::service::{Endpoint, Service};
use mesh_core::snapshot::World;
use mesh_core::workload::{Name, Workload};
use serde::Serialize;

use crate::objects::{
    EndpointSpec, LocalWorkloadSpec, Objects, Place, Selector, ServiceSpec, TargetSpec,
    WorkloadSpec,
};
use crate::validate::{Bad, Checked, Fallback, Kind};

/// An object that was rejected, and what became of its place.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// What it is.
    pub kind: Kind,
    /// Where it is in the file, e.g. `policies[1]`.
    pub path: String,
    /// Its name, if that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// What applies instead, as a sentence.
    pub consequence: String,
}

/// Addresses that this node found for its own workloads.
pub type Discovered = BTreeMap<Name, Vec<IpAddr>>;

/// Fills the places of the rejected objects. `previous` is what was applied before.
pub(crate) fn settle(checked: Checked, previous: Option<&Objects>) -> (Objects, Vec<Rejected>) {
    let Checked {
        mut objects,
        unusable: _,
        bad,
    } = checked;
    let nothing = Objects::default();
    let previous = previous.unwrap_or(&nothing);
    keep_unnamed(&mut objects, previous, &bad);
    let mut rejected = Vec::with_capacity(bad.len());
    for bad in bad {
        let consequence = match bad.kind {
            Kind::Workload => keep_workload(&mut objects, previous, bad.name.as_ref()),
            Kind::Service => keep_service(&mut objects, previous, bad.name.as_ref()),
            Kind::Route => keep_route(&mut objects, previous, bad.name.as_ref()),
            Kind::Policy | Kind::MtlsException => stand_in(&mut objects, bad.fallback.as_ref()),
        };
        let Bad {
            kind,
            path,
            name,
            fallback: _,
        } = bad;
        rejected.push(Rejected {
            kind,
            path,
            name,
            consequence,
        });
    }
    (objects, rejected)
}

const LEFT_OUT: &str = "it is left out";
const KEPT: &str = "its last good version stays";
const ANOTHER: &str = "the other one of its name applies";

fn keep_workload(objects: &mut Objects, previous: &Objects, name: Option<&Name>) -> String {
    if objects
        .workloads
        .iter()
        .any(|item| Some(&item.name) == name)
    {
        return ANOTHER.to_owned();
    }
    let Some(old) = previous
        .workloads
        .iter()
        .find(|item| Some(&item.name) == name)
    else {
        return LEFT_OUT.to_owned();
    };
    let taken = claimed(objects);
    let clash = old.addresses.iter().any(|ip| {
        taken.get(ip).is_some_and(|ports| {
            ports.is_empty()
                || old.ports.is_empty()
                || old.ports.iter().any(|port| ports.contains(port))
        })
    });
    let same_select = objects
        .workloads
        .iter()
        .any(|item| item.select.is_some() && item.select == old.select && item.node == old.node);
    if clash || same_select {
        return "it is left out: another object has its addresses or its place now".to_owned();
    }
    objects.workloads.push(old.clone());
    KEPT.to_owned()
}

/// A rejected workload without a readable name may be any of those that are gone: all of these stay.
fn keep_unnamed(objects: &mut Objects, previous: &Objects, bad: &[Bad]) {
    let unnamed = |bad: &Bad| bad.kind == Kind::Workload && bad.name.is_none();
    if !bad.iter().any(unnamed) {
        return;
    }
    for old in &previous.workloads {
        let named = bad.iter().any(|bad| bad.name.as_ref() == Some(&old.name));
        if !named {
            keep_workload(objects, previous, Some(&old.name));
        }
    }
}

fn keep_service(objects: &mut Objects, previous: &Objects, name: Option<&Name>) -> String {
    if objects.services.iter().any(|item| Some(&item.name) == name) {
        return ANOTHER.to_owned();
    }
    let Some(old) = previous
        .services
        .iter()
        .find(|item| Some(&item.name) == name)
    else {
        return LEFT_OUT.to_owned();
    };
    let taken = claimed(objects);
    if old.addresses.iter().any(|ip| taken.contains_key(ip)) {
        return "it is left out: another object has its addresses now".to_owned();
    }
    objects.services.push(old.clone());
    KEPT.to_owned()
}

fn keep_route(objects: &mut Objects, previous: &Objects, name: Option<&Name>) -> String {
    if objects.routes.iter().any(|item| Some(&item.name) == name) {
        return ANOTHER.to_owned();
    }
    match previous.routes.iter().find(|item| Some(&item.name) == name) {
        None => LEFT_OUT.to_owned(),
        Some(old) => {
            objects.routes.push(old.clone());
            KEPT.to_owned()
        }
    }
}

fn stand_in(objects: &mut Objects, fallback: Option<&Fallback>) -> String {
    match fallback {
        Some(Fallback::Policy(policy)) => {
            let who = match &policy.target {
                TargetSpec::Namespace => {
                    format!("every workload of namespace {}", policy.name.namespace)
                }
                TargetSpec::Workload(name) => format!("workload {name}"),
                TargetSpec::Labels(_) => "the workloads with its labels".to_owned(),
                TargetSpec::Service { name, .. } => format!("the workloads of service {name}"),
            };
            let what = if policy.rules.is_empty() {
                "until it is mended, only other policies let anybody reach"
            } else {
                "until it is mended, nobody may reach"
            };
            objects.policies.push(policy.clone());
            format!("{what} {who}")
        }
        Some(Fallback::Strict(exception)) => {
            objects.mtls.push(exception.clone());
            "until it is mended, mutual TLS is required in its place".to_owned()
        }
        Some(Fallback::Nothing) => LEFT_OUT.to_owned(),
        Some(Fallback::Impossible) | None => "the whole file is rejected".to_owned(),
    }
}

/// Addresses in use, with the ports where they are shared (none for a whole address).
fn claimed(objects: &Objects) -> HashMap<IpAddr, Vec<u16>> {
    let mut taken: HashMap<IpAddr, Vec<u16>> = HashMap::new();
    for service in &objects.services {
        for ip in &service.addresses {
            taken.insert(*ip, Vec::new());
        }
    }
    for workload in &objects.workloads {
        for ip in &workload.addresses {
            if workload.ports.is_empty() {
                taken.insert(*ip, Vec::new());
            } else {
                taken.entry(*ip).or_default().extend(&workload.ports);
            }
        }
    }
    taken
}

impl Objects {
    /// Links everything into a world, as the node `node` sees it. `discovered` adds the addresses that it found for its
    /// own workloads.
    pub fn world(&self, generation: u64, node: &str, discovered: &Discovered) -> World {
        let taken = claimed(self);
        let mut found: BTreeSet<IpAddr> = BTreeSet::new();
        let workloads: Vec<Arc<Workload>> = self
            .workloads
            .iter()
            .filter_map(|spec| {
                let mut workload = self.workload(spec, node)?;
                if is_here(spec, node) {
                    let candidates = discovered.get(&spec.name).map(Vec::as_slice);
                    for ip in usable(spec, candidates.unwrap_or_default()) {
                        // Whoever names an address in the file has it; so does who was found first.
                        if !taken.contains_key(&ip) && (found.insert(ip) || !spec.ports.is_empty())
                        {
                            workload.addresses.push(ip);
                        }
                    }
                    workload.addresses.sort_by_key(IpAddr::is_ipv6);
                }
                Some(Arc::new(workload))
            })
            .collect();
        let index = WorkloadIndex::of(&workloads);
        let services: Vec<Arc<Service>> = self
            .services
            .iter()
            .map(|spec| Arc::new(service(spec, &index)))
            .collect();
        let policies = self.policies.iter().map(|spec| {
            Arc::new(AuthorizationPolicy {
                name: spec.name.clone(),
                target: target(&spec.target, &spec.name.namespace, &services),
                dry_run: spec.dry_run,
                rules: spec.rules.clone(),
            })
        });
        let mtls = self.mtls.iter().map(|spec| MtlsRule {
            name: spec.name.clone(),
            target: target(&spec.target, &spec.name.namespace, &services),
            ports: spec.ports.clone(),
            mode: spec.mode,
        });
        World {
            generation,
            trust_domain: self.settings.trust_domain.clone(),
            policies: policies.collect(),
            mtls: mtls.collect(),
            default_mtls: self.default_mtls,
            routes: self.routes.iter().cloned().map(Arc::new).collect(),
            workloads,
            services,
        }
    }

    /// The workloads that the node `node` is to enrol.
    pub fn local(&self, node: &str) -> Vec<LocalWorkloadSpec> {
        self.workloads
            .iter()
            .filter(|spec| is_here(spec, node))
            .filter_map(|spec| {
                Some(LocalWorkloadSpec {
                    name: spec.name.clone(),
                    identity: self.identity(spec)?,
                    addresses: spec.addresses.clone(),
                    ports: spec.ports.clone(),
                    labels: spec.labels.clone(),
                    select: spec.select.clone()?,
                    udp: spec.udp,
                })
            })
            .collect()
    }

    fn workload(&self, spec: &WorkloadSpec, node: &str) -> Option<Workload> {
        Some(Workload {
            name: spec.name.clone(),
            identity: self.identity(spec)?,
            node: spec.node.clone().unwrap_or_else(|| node.to_owned()),
            addresses: spec.addresses.clone(),
            labels: spec.labels.clone(),
            ports: spec.ports.clone(),
        })
    }

    /// `None` cannot be: the parts were checked with the trust domain of their file.
    fn identity(&self, spec: &WorkloadSpec) -> Option<SpiffeId> {
        let domain = self.settings.trust_domain.clone();
        SpiffeId::new(domain, &spec.name.namespace, &spec.service_account).ok()
    }
}

fn is_here(spec: &WorkloadSpec, node: &str) -> bool {
    spec.node.as_deref().is_none_or(|own| own == node)
}

/// What was found for a workload, as far as it can be its own.
fn usable(spec: &WorkloadSpec, found: &[IpAddr]) -> Vec<IpAddr> {
    // A control group shares the node's addresses: without ports of its own, none of them is the workload's, and where
    // the file names addresses, these are meant.
    let shared = matches!(spec.select, Some(Selector::Cgroup(_)));
    if shared && (spec.ports.is_empty() || !spec.addresses.is_empty()) {
        return Vec::new();
    }
    found
        .iter()
        .map(IpAddr::to_canonical)
        .filter(|ip| !is_forbidden_destination(*ip) && !spec.addresses.contains(ip))
        .collect()
}

/// Workloads as endpoints refer to them.
struct WorkloadIndex<'w> {
    by_name: HashMap<&'w Name, &'w Arc<Workload>>,
    by_address: HashMap<IpAddr, Vec<&'w Arc<Workload>>>,
}

impl<'w> WorkloadIndex<'w> {
    fn of(workloads: &'w [Arc<Workload>]) -> Self {
        let mut by_address: HashMap<IpAddr, Vec<&Arc<Workload>>> = HashMap::new();
        for workload in workloads {
            for ip in &workload.addresses {
                by_address.entry(*ip).or_default().push(workload);
            }
        }
        Self {
            by_name: workloads.iter().map(|item| (&item.name, item)).collect(),
            by_address,
        }
    }
}

fn service(spec: &ServiceSpec, index: &WorkloadIndex<'_>) -> Service {
    Service {
        name: spec.name.clone(),
        addresses: spec.addresses.clone(),
        ports: spec.ports.clone(),
        endpoints: spec
            .endpoints
            .iter()
            .filter_map(|endpoint| Some(Arc::new(self::endpoint(endpoint, index)?)))
            .collect(),
        subsets: spec.subsets.clone(),
    }
}

/// `None` for a workload that was rejected, or whose address is not known yet.
fn endpoint(spec: &EndpointSpec, index: &WorkloadIndex<'_>) -> Option<Endpoint> {
    let (address, workload) = match &spec.place {
        Place::Workload(name) => {
            let workload = *index.by_name.get(name)?;
            (*workload.addresses.first()?, Some(Arc::clone(workload)))
        }
        // The file does not have it, but an address may turn out to be a workload's: by being found, or by a last good
        // version that stays. Then it is reached as that workload. Where several share it, nothing is guessed.
        Place::Address(address) => match index.by_address.get(address).map(Vec::as_slice) {
            None => (*address, None),
            Some([only]) if only.ports.is_empty() => (*address, Some(Arc::clone(only))),
            Some(_) => return None,
        },
    };
    let mut labels = workload
        .as_ref()
        .map(|workload| workload.labels.clone())
        .unwrap_or_default();
    labels.extend(spec.labels.clone());
    Some(Endpoint {
        address,
        port: spec.port,
        ports: spec.ports.clone(),
        weight: spec.weight,
        labels,
        workload,
    })
}

/// A target by service is resolved here: to the workloads that the file gives it, and those of the version that applies.
fn target(spec: &TargetSpec, namespace: &str, services: &[Arc<Service>]) -> Target {
    match spec {
        TargetSpec::Namespace => Target::Namespace,
        TargetSpec::Workload(name) => Target::Workload(name.clone()),
        TargetSpec::Labels(labels) => Target::Labels(labels.clone()),
        TargetSpec::Service { name, workloads } => {
            let own = Name::new(namespace, name.as_str());
            let applied = services
                .iter()
                .filter(|service| service.name == own)
                .flat_map(|service| &service.endpoints)
                .filter_map(|endpoint| endpoint.workload.as_ref())
                .filter(|workload| workload.name.namespace == namespace)
                .map(|workload| workload.name.name.clone());
            let names: BTreeSet<String> = workloads.iter().cloned().chain(applied).collect();
            Target::Workloads {
                service: name.clone(),
                names: names.into_iter().collect(),
            }
        }
    }
}
