//! Small worlds for the tests of the decisions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::identity::{SpiffeId, TrustDomain};
use crate::service::{Backend, Endpoint, Route, RouteRule, Service, ServicePort};
use crate::snapshot::World;
use crate::workload::{Labels, Name, Workload};

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("demo.warren").expect("a good domain")
}

pub(crate) fn identity(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::new(domain(), namespace, account).expect("a good identity")
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// `name.namespace`, its address, its labels; the service account has its name.
pub(crate) fn workload(name: &str, address: &str, pairs: &[(&str, &str)]) -> Arc<Workload> {
    let (name, namespace) = name.split_once('.').expect("name.namespace");
    Arc::new(Workload {
        name: Name::new(namespace, name),
        identity: identity(namespace, name),
        node: "a".to_owned(),
        addresses: vec![address.parse().expect("an address")],
        labels: labels(pairs),
        ports: Vec::new(),
    })
}

/// A service `web.shop` on 10.200.0.9:80 → 8080 with two versions, and the workloads behind it; `client.shop` dials.
pub(crate) fn shop() -> World {
    let client = workload("client.shop", "10.1.0.2", &[("app", "client")]);
    let versions = [
        workload(
            "web-v1.shop",
            "10.2.0.3",
            &[("app", "web"), ("version", "v1")],
        ),
        workload(
            "web-v2.shop",
            "10.2.0.4",
            &[("app", "web"), ("version", "v2")],
        ),
    ];
    let endpoints = versions.iter().map(|version| {
        Arc::new(Endpoint {
            address: version.addresses[0],
            port: None,
            ports: BTreeMap::new(),
            weight: 1,
            labels: version.labels.clone(),
            workload: Some(Arc::clone(version)),
        })
    });
    let service = Service {
        name: Name::new("shop", "web"),
        addresses: vec!["10.200.0.9".parse().expect("an address")],
        ports: vec![ServicePort {
            port: 80,
            target_port: 8080,
        }],
        endpoints: endpoints.collect(),
        subsets: [
            ("v1".to_owned(), labels(&[("version", "v1")])),
            ("v2".to_owned(), labels(&[("version", "v2")])),
        ]
        .into(),
    };
    let [first, second] = versions;
    World {
        generation: 7,
        trust_domain: domain(),
        workloads: vec![client, first, second],
        services: vec![Arc::new(service)],
        ..World::default()
    }
}

/// A route `web-canary.shop` with one rule `split` over subsets of `web.shop`.
pub(crate) fn split(backends: &[(&str, u32)]) -> Arc<Route> {
    Arc::new(Route {
        name: Name::new("shop", "web-canary"),
        service: Name::new("shop", "web"),
        rules: vec![RouteRule {
            name: "split".to_owned(),
            port: Some(80),
            backends: backends
                .iter()
                .map(|(subset, weight)| Backend {
                    service: Name::new("shop", "web"),
                    subset: Some((*subset).to_owned()),
                    port: None,
                    weight: *weight,
                })
                .collect(),
        }],
    })
}

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// SplitMix64: the tests' own stream of bits, the same in every run.
pub(crate) fn random_bits(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
