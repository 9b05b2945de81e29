//! Services: addresses, ports, endpoints that exist, subsets that select something.

use std::collections::{BTreeMap, HashSet};

use mesh_core::route::selects;
use mesh_core::service::ServicePort;
use mesh_core::workload::{Labels, Name};

use crate::located::At;
use crate::objects::{EndpointSpec, Place, ServiceSpec, Settings};
use crate::raw::{Address, Endpoint, Port, Reference, Service};

use super::names::referred;
use super::{Bad, Checker, Kind};

impl Checker<'_> {
    pub(super) fn services(&mut self, settings: &Settings, bad: &mut Vec<Bad>) -> Vec<ServiceSpec> {
        let labels_of = self.labels_of_workloads();
        let mut good = Vec::new();
        let configuration = self.configuration;
        for (index, item) in configuration.services.iter().enumerate() {
            let spec = item
                .get()
                .and_then(|service| self.service(index, item, service, settings, &labels_of));
            match spec {
                Some(spec) if !self.is_broken(&item.path) => good.push(spec),
                _ => bad.push(Bad {
                    kind: Kind::Service,
                    path: item.path.clone(),
                    name: item
                        .get()
                        .and_then(|item| self.name(&item.name, item.namespace.as_ref())),
                    fallback: None,
                }),
            }
        }
        good
    }

    fn service(
        &mut self,
        index: usize,
        item: &At<Service>,
        service: &Service,
        settings: &Settings,
        labels_of: &BTreeMap<Name, Labels>,
    ) -> Option<ServiceSpec> {
        let Service {
            name,
            namespace,
            addresses,
            ports,
            endpoints,
            subsets,
        } = service;
        let full = self.name(name, namespace.as_ref());
        self.unique(Kind::Service, full.as_ref(), index, name);
        let addresses = self.addresses(Kind::Service, index, addresses);
        let ports = self.service_ports(ports, settings);
        self.at_most(
            endpoints.len(),
            4096,
            item.at,
            &format!("{}.endpoints", item.path),
            "endpoints",
        );
        let full = full?;
        let mut specs: Vec<EndpointSpec> = Vec::new();
        let mut taken = HashSet::new();
        for at in endpoints {
            let Some(spec) = at
                .get()
                .and_then(|endpoint| self.endpoint(at, endpoint, &full, settings))
            else {
                continue;
            };
            if !taken.insert((spec.place.clone(), spec.port)) {
                let message = "this endpoint is given twice; use `weight` to send it more";
                self.error(at.at, &at.path, message.to_owned(), None);
            }
            specs.push(spec);
        }
        if endpoints.is_empty() {
            let message =
                format!("service {full} has no endpoint; every connection to it is refused");
            self.warn(item.at, &format!("{}.endpoints", item.path), message, None);
        }
        let mut selections = BTreeMap::new();
        for (key, labels) in &subsets.0 {
            let wanted = labels.get().map(|labels| self.labels(labels));
            if let (Some(key), Some(wanted)) = (key.get(), wanted) {
                self.subset(labels.at, &labels.path, &wanted, &specs, labels_of);
                selections.insert(key.0.clone(), wanted);
            }
        }
        Some(ServiceSpec {
            name: full,
            addresses,
            ports,
            endpoints: specs,
            subsets: selections,
            export_to: None,
        })
    }

    fn service_ports(
        &mut self,
        ports: &At<Vec<At<crate::raw::ServicePort>>>,
        settings: &Settings,
    ) -> Vec<ServicePort> {
        let Some(list) = ports.get() else {
            return Vec::new();
        };
        if list.is_empty() {
            let message = "a service without ports cannot be dialled";
            self.error(ports.at, &ports.path, message.to_owned(), None);
        }
        self.at_most(list.len(), 256, ports.at, &ports.path, "ports");
        let mut good: Vec<ServicePort> = Vec::new();
        for item in list {
            let Some(entry) = item.get() else {
                continue;
            };
            if let Some(target) = &entry.target_port {
                self.not_the_tunnel_port(target, settings);
            }
            let Some(Port(port)) = entry.port.get() else {
                continue;
            };
            if good.iter().any(|earlier| earlier.port == *port) {
                let message = format!("port {port} is given twice");
                self.error(entry.port.at, &entry.port.path, message, None);
            }
            if entry.target_port.is_none() {
                self.not_the_tunnel_port(&entry.port, settings);
            }
            let target = entry.target_port.as_ref().and_then(At::get);
            good.push(ServicePort {
                port: *port,
                target_port: target.map_or(*port, |target| target.0),
            });
        }
        good
    }

    /// Nothing but tunnels arrives at the port of the tunnels.
    pub(super) fn not_the_tunnel_port(&mut self, port: &At<Port>, settings: &Settings) {
        if let Some(Port(number)) = port.get()
            && *number == settings.tunnel_port
        {
            let message = format!(
                "port {number} is the port of the tunnels; no application is reached there"
            );
            self.error(port.at, &port.path, message, None);
        }
    }

    fn endpoint(
        &mut self,
        at: &At<Endpoint>,
        endpoint: &Endpoint,
        service: &Name,
        settings: &Settings,
    ) -> Option<EndpointSpec> {
        let Endpoint {
            workload,
            address,
            port,
            weight,
            labels,
        } = endpoint;
        if let Some(port) = port {
            self.not_the_tunnel_port(port, settings);
        }
        let labels = self.labels(labels);
        let place = match (workload, address) {
            (Some(workload), None) => Place::Workload(self.workload_named(workload, service)?),
            (None, Some(address)) => {
                self.outside(address);
                Place::Address(address.get()?.0)
            }
            (Some(_), Some(_)) => {
                self.exactly_one(
                    at.at,
                    &at.path,
                    &["workload", "address"],
                    "workload and address",
                );
                return None;
            }
            (None, None) => {
                self.exactly_one(at.at, &at.path, &[], "workload and address");
                return None;
            }
        };
        Some(EndpointSpec {
            place,
            port: match port {
                None => None,
                Some(port) => Some(port.get()?.0),
            },
            ports: BTreeMap::new(),
            weight: match weight {
                None => 1,
                Some(weight) => weight.get()?.0,
            },
            labels,
        })
    }

    fn workload_named(&mut self, at: &At<Reference>, service: &Name) -> Option<Name> {
        let wanted = referred(at.get()?, &service.namespace);
        self.must_exist(Kind::Workload, &wanted, at);
        Some(wanted)
    }

    /// Notes a reference to what the file does not have. What it has but is rejected is no mistake of the reference.
    pub(super) fn must_exist(&mut self, kind: Kind, wanted: &Name, at: &At<Reference>) -> bool {
        if self.names.first(kind, wanted).is_some() {
            return true;
        }
        let suggestion = self.names.suggest(kind, wanted);
        let message = format!("there is no {} {wanted}", kind.word());
        self.error(at.at, &at.path, message, suggestion);
        false
    }

    /// An address as an endpoint is reached in clear, so it must not be one of the mesh's.
    fn outside(&mut self, at: &At<Address>) {
        let Some(Address(ip)) = at.get() else {
            return;
        };
        let Some(claim) = self
            .names
            .addresses
            .get(ip)
            .and_then(|claims| claims.first())
        else {
            return;
        };
        let owner = claim.owner.clone();
        let (message, next) = match claim.kind {
            Kind::Workload => {
                let name = owner.trim_start_matches("workload ");
                (
                    format!("{ip} is the address of {owner}, and would be reached in clear"),
                    format!("write workload: {name}"),
                )
            }
            _ => (
                format!("{ip} is the address of {owner}; a service is no endpoint"),
                "name the workloads behind it".to_owned(),
            ),
        };
        self.error(at.at, &at.path, message, Some(next));
    }

    fn subset(
        &mut self,
        at: crate::mistake::Location,
        path: &str,
        wanted: &Labels,
        endpoints: &[EndpointSpec],
        labels_of: &BTreeMap<Name, Labels>,
    ) {
        let selected = endpoints.iter().any(|endpoint| {
            let mut labels = match &endpoint.place {
                Place::Workload(name) => labels_of.get(name).cloned().unwrap_or_default(),
                Place::Address(_) => Labels::new(),
            };
            labels.extend(endpoint.labels.clone());
            selects(wanted, &labels)
        });
        if wanted.is_empty() {
            let message = "a subset without labels selects every endpoint".to_owned();
            self.warn(at, path, message, None);
        } else if !selected {
            let message = "the subset selects no endpoint of the service".to_owned();
            self.warn(at, path, message, None);
        }
    }

    fn labels_of_workloads(&self) -> BTreeMap<Name, Labels> {
        self.configuration
            .workloads
            .iter()
            .filter_map(|item| {
                let workload = item.get()?;
                let name = self.name(&workload.name, workload.namespace.as_ref())?;
                let labels = workload.labels.0.iter().filter_map(|(key, value)| {
                    Some((key.get()?.0.clone(), value.get()?.0.clone()))
                });
                Some((name, labels.collect()))
            })
            .collect()
    }
}
