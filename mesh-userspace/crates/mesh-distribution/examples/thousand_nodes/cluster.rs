//! A cluster: which pods there are, where they run and what they reach.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use mesh_control::facts::{Fact, MeshSpec, NamespaceSpec};
use mesh_control::objects::{
    EndpointSpec, Place, PolicySpec, Selector, ServiceSpec, TargetSpec, WorkloadSpec,
};
use mesh_core::policy::{Action, Rule, Source};
use mesh_core::service::ServicePort;
use mesh_core::workload::Name;

/// Pods of a namespace, each on another node.
pub(crate) const PODS_OF_ONE: usize = 20;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) pods: usize,
}

impl Size {
    pub(crate) fn part(self, of: usize, whole: usize) -> Self {
        Self {
            nodes: self.nodes * of / whole,
            pods: self.pods * of / whole,
        }
    }

    fn namespaces(self) -> usize {
        self.pods / PODS_OF_ONE
    }

    /// Everything there is.
    pub(crate) fn facts(self) -> Vec<Fact> {
        let mut facts = vec![Fact::Mesh(MeshSpec::default())];
        for number in 0..self.namespaces() {
            facts.push(self.namespace(number));
            facts.push(service(number));
            facts.push(policy(number));
            facts.extend((0..PODS_OF_ONE).map(|pod| self.pod(number, pod, 0)));
        }
        facts
    }

    fn namespace(self, number: usize) -> Fact {
        // Neighbours' pods are on other nodes, so that nodes see namespaces that they do not run.
        let reach = [1, 2].map(|step| name_of((number + step * 7) % self.namespaces()));
        Fact::Namespace(NamespaceSpec {
            name: name_of(number),
            meshed: true,
            pods_opt_in: false,
            reach: Some(BTreeSet::from(reach)),
        })
    }

    /// A pod. Another version is another fact with the same key.
    pub(crate) fn pod(self, namespace: usize, pod: usize, version: usize) -> Fact {
        let number = namespace * PODS_OF_ONE + pod;
        let labels = [
            ("app.kubernetes.io/name", "server".to_owned()),
            ("app.kubernetes.io/part-of", name_of(namespace)),
            ("pod-template-hash", format!("{version:010x}")),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value));
        Fact::Workload(WorkloadSpec {
            name: pod_name(namespace, pod),
            service_account: "server".to_owned(),
            node: Some(node_name(number % self.nodes)),
            addresses: vec![address(10, number)],
            labels: BTreeMap::from(labels),
            ports: Vec::new(),
            select: Some(Selector::Pod {
                uid: format!("6f0f4c1e-3c3b-4c2a-9d57-{number:012x}"),
            }),
            udp: false,
        })
    }
}

pub(crate) fn node_name(number: usize) -> String {
    format!("node-{number:04}.example.internal")
}

fn name_of(namespace: usize) -> String {
    format!("namespace-{namespace:04}")
}

fn pod_name(namespace: usize, pod: usize) -> Name {
    let name = format!("server-7d9f8b6c5-{namespace:04}-{pod:02}");
    Name::new(name_of(namespace), name)
}

fn address(first: u8, number: usize) -> IpAddr {
    let bytes = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    Ipv4Addr::new(first, bytes[1], bytes[2], bytes[3]).into()
}

fn service(namespace: usize) -> Fact {
    let endpoints = (0..PODS_OF_ONE).map(|pod| EndpointSpec {
        place: Place::Workload(pod_name(namespace, pod)),
        port: None,
        ports: BTreeMap::new(),
        weight: 1,
        labels: BTreeMap::new(),
    });
    Fact::Service(ServiceSpec {
        name: Name::new(name_of(namespace), "server"),
        addresses: vec![address(11, namespace)],
        ports: vec![ServicePort {
            port: 80,
            target_port: 8080,
        }],
        endpoints: endpoints.collect(),
        subsets: BTreeMap::new(),
        export_to: None,
    })
}

fn policy(namespace: usize) -> Fact {
    Fact::Policy(PolicySpec {
        name: Name::new(name_of(namespace), "callers"),
        target: TargetSpec::Namespace,
        dry_run: false,
        rules: vec![Rule {
            name: "0".to_owned(),
            action: Action::Allow,
            from: vec![Source::Authenticated],
            ports: vec![8080],
        }],
    })
}
