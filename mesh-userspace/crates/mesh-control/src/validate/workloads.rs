//! Workloads: names, addresses that nobody else has, and a way to find them.

use std::collections::HashMap;
use std::path::{Component, Path};

use mesh_core::identity::SpiffeId;
use mesh_core::workload::Name;

use crate::located::At;
use crate::objects::{Selector, Settings, WorkloadSpec};
use crate::raw::{Address, Select, Udp, Workload};

use super::{Bad, Checker, Kind};

/// Services of one host that may share an address.
const MOST_SHARING: usize = 512;

impl Checker<'_> {
    pub(super) fn workloads(
        &mut self,
        settings: &Settings,
        bad: &mut Vec<Bad>,
    ) -> Vec<WorkloadSpec> {
        let mut selected: HashMap<Selector, u32> = HashMap::new();
        let mut good = Vec::new();
        let configuration = self.configuration;
        for (index, item) in configuration.workloads.iter().enumerate() {
            let spec = item
                .get()
                .and_then(|workload| self.workload(index, item, workload, settings));
            if let Some(spec) = &spec
                && let Some(select) = &spec.select
                && self.is_here(spec.node.as_deref())
            {
                if let Some(line) = selected.get(select) {
                    let message = format!(
                        "selects the same as the workload at line {line}; one program has one identity"
                    );
                    let path = format!("{}.select", item.path);
                    self.error(item.at, &path, message, None);
                } else {
                    selected.insert(select.clone(), item.at.line);
                }
            }
            match spec {
                Some(spec) if !self.is_broken(&item.path) => good.push(spec),
                _ => bad.push(Bad {
                    kind: Kind::Workload,
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

    fn workload(
        &mut self,
        index: usize,
        item: &At<Workload>,
        workload: &Workload,
        settings: &Settings,
    ) -> Option<WorkloadSpec> {
        let Workload {
            name,
            namespace,
            service_account,
            node,
            addresses,
            labels,
            ports,
            select,
            udp,
        } = workload;
        let full = self.name(name, namespace.as_ref());
        self.unique(Kind::Workload, full.as_ref(), index, name);
        let node = node
            .as_ref()
            .map(|node| node.get().map(|node| node.0.clone()));
        let ips = self.addresses(Kind::Workload, index, addresses);
        let labels = self.labels(labels);
        let mut port_numbers = self.ports(ports);
        for port in ports {
            self.not_the_tunnel_port(port, settings);
        }
        let select = select.as_ref().map(|at| self.select(at));
        self.findable(item, workload, node.as_ref().and_then(Option::as_deref));
        match &select {
            Some(Some(Selector::Cgroup(_))) if !ips.is_empty() && port_numbers.is_empty() => {
                let message = "a workload selected by control group shares its addresses with the whole node; list the ports that are its own";
                let path = format!("{}.ports", item.path);
                self.error(item.at, &path, message.to_owned(), None);
            }
            Some(Some(Selector::Cgroup(_))) => {}
            Some(Some(_)) if !port_numbers.is_empty() => {
                let message = "ports matter only to a workload selected by control group; this one owns every port of its addresses";
                let path = format!("{}.ports", item.path);
                let at = ports.first().map_or(item.at, |port| port.at);
                self.warn(at, &path, message.to_owned(), None);
                port_numbers.clear();
            }
            _ => {}
        }
        let full = full?;
        let account = match service_account {
            None => full.name.clone(),
            Some(account) => account.get()?.0.clone(),
        };
        self.identity(item, &full, &account, settings);
        Some(WorkloadSpec {
            name: full,
            service_account: account,
            node: match node {
                None => None,
                Some(node) => Some(node?),
            },
            addresses: ips,
            labels,
            ports: port_numbers,
            select: match select {
                None => None,
                Some(select) => Some(select?),
            },
            udp: udp.as_ref().and_then(At::get) == Some(&Udp::Allow),
        })
    }

    /// A workload without a node is one of whoever reads the file.
    pub(super) fn is_here(&self, node: Option<&str>) -> bool {
        match (node, &self.own_node) {
            (None, _) => true,
            (Some(node), Some(own)) => node == own,
            (Some(_), None) => false,
        }
    }

    fn identity(&mut self, item: &At<Workload>, name: &Name, account: &str, settings: &Settings) {
        if let Err(invalid) = SpiffeId::new(settings.trust_domain.clone(), &name.namespace, account)
        {
            self.error(item.at, &item.path, invalid.to_string(), None);
        }
    }

    /// This node must be able to find it; all others need its addresses.
    fn findable(&mut self, item: &At<Workload>, workload: &Workload, node: Option<&str>) {
        let here = self.is_here(node);
        match node {
            _ if here && workload.select.is_none() => {
                let message = match node {
                    None => "neither `node` nor `select` is given: it is of no node".to_owned(),
                    Some(_) => "`select` is missing: how is it found on this node?".to_owned(),
                };
                let next = "give networkNamespace, container or cgroup";
                let path = format!("{}.select", item.path);
                self.error(item.at, &path, message, Some(next.to_owned()));
            }
            Some(node) if !here && self.own_node.is_some() && workload.addresses.is_empty() => {
                let message = format!("it runs on node {node:?}, so `addresses` is needed here");
                let path = format!("{}.addresses", item.path);
                self.error(item.at, &path, message, None);
            }
            _ => {}
        }
    }

    fn select(&mut self, at: &At<Select>) -> Option<Selector> {
        let Select {
            network_namespace,
            container,
            cgroup,
        } = at.get()?;
        let given = [
            network_namespace.as_ref().map(|_| "networkNamespace"),
            container.as_ref().map(|_| "container"),
            cgroup.as_ref().map(|_| "cgroup"),
        ];
        let given: Vec<&str> = given.into_iter().flatten().collect();
        if given.len() != 1 {
            self.exactly_one(
                at.at,
                &at.path,
                &given,
                "networkNamespace, container and cgroup",
            );
            return None;
        }
        if let Some(path) = network_namespace {
            return Some(Selector::NetworkNamespace(path.get()?.0.clone()));
        }
        if let Some(container) = container {
            return Some(Selector::Container(container.get()?.0.clone()));
        }
        let cgroup = cgroup.as_ref()?;
        let path = tidy(&cgroup.get()?.0);
        if path == Path::new("/") {
            let message = "the root control group has every program of the node in it";
            let next = "name a service's, e.g. /system.slice/payments.service";
            self.error(
                cgroup.at,
                &cgroup.path,
                message.to_owned(),
                Some(next.to_owned()),
            );
        }
        Some(Selector::Cgroup(path))
    }

    pub(super) fn exactly_one(
        &mut self,
        at: crate::mistake::Location,
        path: &str,
        given: &[&str],
        of: &str,
    ) {
        // A misspelled key says it better.
        let misspelled = |mistake: &crate::mistake::Mistake| {
            mistake.path.starts_with(&format!("{path}."))
                && mistake.message.starts_with("unknown key")
        };
        if given.is_empty() && self.is_broken_within(path) && self.mistakes.iter().any(misspelled) {
            return;
        }
        let message = match given {
            [] => format!("exactly one of {of} is needed"),
            several => format!(
                "exactly one of {of} is needed, but there are {}",
                several.join(" and ")
            ),
        };
        self.error(at, path, message, None);
    }

    /// The readable addresses, IPv4 first. Doubles, and addresses that an earlier object has, are noted.
    pub(super) fn addresses(
        &mut self,
        kind: Kind,
        index: usize,
        addresses: &[At<Address>],
    ) -> Vec<std::net::IpAddr> {
        if let Some(first) = addresses.first() {
            let path = first.path.trim_end_matches("[0]").to_owned();
            self.at_most(addresses.len(), 16, first.at, &path, "addresses");
        }
        let mut ips = Vec::new();
        for address in addresses {
            let Some(Address(ip)) = address.get() else {
                continue;
            };
            if ips.contains(ip) {
                let message = format!("{ip} is given twice");
                self.error(address.at, &address.path, message, None);
                continue;
            }
            ips.push(*ip);
            if let Some(owner) = self.earlier_owner(kind, index, *ip) {
                let message = format!("{ip} is the address of {owner} already");
                self.error(address.at, &address.path, message, None);
            }
        }
        ips.sort_by_key(std::net::IpAddr::is_ipv6);
        ips
    }

    /// The object before this one that has an address. Workloads that share an address must each list other ports.
    fn earlier_owner(&self, kind: Kind, index: usize, ip: std::net::IpAddr) -> Option<String> {
        let claims = self.names.addresses.get(&ip)?;
        // Keeps the comparison below from becoming quadratic in the file.
        let crowded = claims.len() > MOST_SHARING;
        let own = claims
            .iter()
            .find(|claim| claim.kind == kind && claim.index == index)?;
        let earlier = claims
            .iter()
            .take_while(|claim| claim.kind != kind || claim.index != index)
            .find(|claim| {
                let shared = !crowded
                    && claim.kind == Kind::Workload
                    && own.kind == Kind::Workload
                    && !claim.ports.is_empty()
                    && !own.ports.is_empty()
                    && claim.ports.iter().all(|port| !own.ports.contains(port));
                !shared
            })?;
        Some(format!("{} (line {})", earlier.owner, earlier.line))
    }
}

/// One spelling for one control group.
fn tidy(path: &Path) -> std::path::PathBuf {
    path.components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect()
}
