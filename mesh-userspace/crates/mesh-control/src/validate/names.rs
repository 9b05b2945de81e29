//! What a file declares, good or bad: for references, doubles and suggestions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use mesh_core::workload::Name;

use crate::located::At;
use crate::mistake::did_you_mean;
use crate::raw::{Configuration, ObjectName, Reference, Service, Workload};

use super::{Kind, full_name};

/// Names and addresses of a file.
pub(super) struct Names {
    /// Position in its list and line of the first object of each name.
    first: HashMap<(Kind, Name), (usize, u32)>,
    /// Full names by kind, for suggestions.
    by_kind: HashMap<Kind, BTreeSet<String>>,
    /// Who claims an address.
    pub(super) addresses: BTreeMap<IpAddr, Vec<Claim>>,
    /// Namespace and service account of every workload.
    pub(super) accounts: BTreeSet<(String, String)>,
    /// Namespaces that some object is in.
    pub(super) namespaces: BTreeSet<String>,
    /// Positions of the services of each name, doubles included.
    pub(super) services: HashMap<Name, Vec<usize>>,
}

/// One claim to an address.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) kind: Kind,
    pub(super) index: usize,
    /// In words, for messages.
    pub(super) owner: String,
    pub(super) line: u32,
    pub(super) ports: Vec<u16>,
}

impl Names {
    pub(super) fn of(configuration: &Configuration) -> Self {
        let Configuration {
            api_version: _,
            node: _,
            trust_domain: _,
            identity: _,
            mtls,
            workloads,
            services,
            routes,
            policies,
        } = configuration;
        let mut names = Self {
            first: HashMap::new(),
            by_kind: HashMap::new(),
            addresses: BTreeMap::new(),
            accounts: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            services: HashMap::new(),
        };
        for (index, item) in workloads.iter().enumerate() {
            if let Some(workload) = item.get() {
                names.add(
                    Kind::Workload,
                    index,
                    &workload.name,
                    workload.namespace.as_ref(),
                );
                names.add_workload(index, workload);
            }
        }
        for (index, item) in services.iter().enumerate() {
            if let Some(service) = item.get() {
                names.add(
                    Kind::Service,
                    index,
                    &service.name,
                    service.namespace.as_ref(),
                );
                names.add_service(index, service);
            }
        }
        for (index, item) in routes.iter().enumerate() {
            if let Some(route) = item.get() {
                names.add(Kind::Route, index, &route.name, route.namespace.as_ref());
            }
        }
        for (index, item) in policies.iter().enumerate() {
            if let Some(policy) = item.get() {
                names.add(Kind::Policy, index, &policy.name, policy.namespace.as_ref());
            }
        }
        let exceptions = mtls.as_ref().and_then(At::get).map(|mtls| &mtls.exceptions);
        for (index, item) in exceptions.into_iter().flatten().enumerate() {
            if let Some(exception) = item.get() {
                let namespace = exception.namespace.as_ref();
                names.add(Kind::MtlsException, index, &exception.name, namespace);
            }
        }
        names
    }

    /// The first object of this name: its position and line.
    pub(super) fn first(&self, kind: Kind, name: &Name) -> Option<(usize, u32)> {
        // The key owns its name; one clone per lookup at load time is cheaper than a second index.
        self.first.get(&(kind, name.clone())).copied()
    }

    /// What a name that refers to nothing was probably meant to be.
    pub(super) fn suggest(&self, kind: Kind, wanted: &Name) -> Option<String> {
        let declared = self.by_kind.get(&kind)?;
        let own = format!(".{}", wanted.namespace);
        let nearby = declared.iter().filter_map(|full| full.strip_suffix(&own));
        did_you_mean(&wanted.name, nearby).or_else(|| {
            let elsewhere = format!("{}.", wanted.name);
            match declared.iter().find(|full| full.starts_with(&elsewhere)) {
                Some(full) => Some(format!("did you mean \"{full}\"?")),
                None => did_you_mean(&wanted.to_string(), declared.iter().map(String::as_str)),
            }
        })
    }

    fn add(
        &mut self,
        kind: Kind,
        index: usize,
        name: &At<ObjectName>,
        namespace: Option<&At<ObjectName>>,
    ) {
        let Some(full) = full_name(name, namespace) else {
            return;
        };
        if !self.namespaces.contains(&full.namespace) {
            self.namespaces.insert(full.namespace.clone());
        }
        if kind == Kind::Service {
            self.services.entry(full.clone()).or_default().push(index);
        }
        self.by_kind
            .entry(kind)
            .or_default()
            .insert(full.to_string());
        self.first
            .entry((kind, full))
            .or_insert((index, name.at.line));
    }

    fn add_workload(&mut self, index: usize, workload: &Workload) {
        let Some(name) = full_name(&workload.name, workload.namespace.as_ref()) else {
            return;
        };
        let account = match &workload.service_account {
            None => Some(name.name.clone()),
            Some(account) => account.get().map(|account| account.0.clone()),
        };
        if let Some(account) = account {
            self.accounts.insert((name.namespace.clone(), account));
        }
        let ports: Vec<u16> = workload
            .ports
            .iter()
            .filter_map(|port| Some(port.get()?.0))
            .collect();
        for address in &workload.addresses {
            if let Some(ip) = address.get() {
                self.addresses.entry(ip.0).or_default().push(Claim {
                    kind: Kind::Workload,
                    index,
                    owner: format!("workload {name}"),
                    line: address.at.line,
                    ports: ports.clone(),
                });
            }
        }
    }

    fn add_service(&mut self, index: usize, service: &Service) {
        let Some(name) = full_name(&service.name, service.namespace.as_ref()) else {
            return;
        };
        for address in &service.addresses {
            if let Some(ip) = address.get() {
                self.addresses.entry(ip.0).or_default().push(Claim {
                    kind: Kind::Service,
                    index,
                    owner: format!("service {name}"),
                    line: address.at.line,
                    ports: Vec::new(),
                });
            }
        }
    }
}

/// The name that a reference means in a namespace.
pub(super) fn referred(reference: &Reference, namespace: &str) -> Name {
    let (name, own) = &reference.0;
    Name::new(own.as_deref().unwrap_or(namespace), name.as_str())
}
