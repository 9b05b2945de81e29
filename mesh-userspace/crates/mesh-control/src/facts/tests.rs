use std::collections::BTreeMap;

use mesh_core::identity::SpiffeId;
use mesh_core::policy::{Action, Rule, Source};
use mesh_core::service::{Backend, RouteRule, ServicePort};
use serde_json::json;

use super::*;
use crate::objects::{EndpointSpec, Place, Selector, TargetSpec};
use crate::reconcile::Discovered;

fn name(name: &str) -> Name {
    Name::new("shop", name)
}

fn one_of_each() -> Vec<Fact> {
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    vec![
        Fact::Mesh(MeshSpec {
            trust_domain: TrustDomain::new("example.org").expect("a trust domain"),
            drain: Duration::from_secs(7),
            tunnel_port: 15999,
            certificate_lifetime: Duration::from_secs(600),
            default_mtls: MtlsMode::Permissive,
        }),
        Fact::Namespace(NamespaceSpec {
            name: "shop".to_owned(),
            meshed: true,
            pods_opt_in: true,
            reach: Some(BTreeSet::from(["bank".to_owned()])),
        }),
        Fact::Workload(WorkloadSpec {
            name: name("web-0"),
            service_account: "web".to_owned(),
            node: Some("n1".to_owned()),
            addresses: vec!["10.0.0.1".parse().expect("an address")],
            labels: labels.clone(),
            ports: Vec::new(),
            select: Some(Selector::Pod {
                uid: "0b1c".to_owned(),
            }),
            udp: true,
        }),
        Fact::Service(ServiceSpec {
            name: name("web"),
            addresses: vec!["10.96.0.1".parse().expect("an address")],
            ports: vec![ServicePort {
                port: 80,
                target_port: 8080,
            }],
            endpoints: vec![
                EndpointSpec {
                    place: Place::Workload(name("web-0")),
                    port: None,
                    ports: BTreeMap::from([(80, Some(8082)), (81, None)]),
                    weight: 1,
                    labels: BTreeMap::new(),
                },
                EndpointSpec {
                    place: Place::Address("10.0.0.9".parse().expect("an address")),
                    port: Some(8081),
                    ports: BTreeMap::new(),
                    weight: 2,
                    labels: labels.clone(),
                },
            ],
            subsets: BTreeMap::from([("v1".to_owned(), labels.clone())]),
            export_to: Some(BTreeSet::from(["bank".to_owned()])),
        }),
        Fact::Route(Route {
            name: name("split"),
            service: name("web"),
            rules: vec![RouteRule {
                name: "0".to_owned(),
                port: Some(80),
                backends: vec![Backend {
                    service: name("web"),
                    subset: Some("v1".to_owned()),
                    port: Some(8080),
                    weight: 9,
                }],
            }],
        }),
        Fact::Policy(PolicySpec {
            name: name("callers"),
            target: TargetSpec::Service {
                name: "web".to_owned(),
                workloads: vec!["web-0".to_owned()],
            },
            dry_run: true,
            rules: vec![Rule {
                name: "0".to_owned(),
                action: Action::Allow,
                from: vec![
                    Source::Authenticated,
                    Source::Identity("spiffe://a/ns/b/sa/c".parse().expect("an identity")),
                    Source::Network("10.0.0.0/8".parse().expect("a network")),
                ],
                ports: vec![8080],
            }],
        }),
        Fact::Mtls(MtlsSpec {
            name: name("metrics"),
            target: TargetSpec::Labels(labels),
            ports: vec![9090],
            mode: MtlsMode::Permissive,
        }),
    ]
}

#[test]
fn every_fact_survives_the_way() {
    let facts = one_of_each();
    let kinds: Vec<FactKind> = facts.iter().map(|fact| fact.key().kind).collect();
    assert_eq!(kinds, FactKind::ALL, "a kind is not tried here");
    for fact in facts {
        let text = serde_json::to_vec(&fact).expect("JSON");
        let back: Fact = serde_json::from_slice(&text).expect("a fact");
        assert_eq!(back, fact);
        let key = fact.key();
        let text = serde_json::to_vec(&key).expect("JSON");
        assert_eq!(
            serde_json::from_slice::<FactKey>(&text).expect("a key"),
            key
        );
    }
}

#[test]
fn what_a_later_release_adds_is_ignored() {
    for fact in one_of_each() {
        let mut value = serde_json::to_value(&fact).expect("JSON");
        let (_, spec) = value
            .as_object_mut()
            .and_then(|object| object.iter_mut().next())
            .expect("one variant");
        spec["notYetInvented"] = json!({"a": [1, 2]});
        let back: Fact = serde_json::from_value(value).expect("a fact");
        assert_eq!(back, fact);
    }
}

#[test]
fn what_an_earlier_release_leaves_out_has_a_default() {
    let read = |value| serde_json::from_value::<Fact>(value).expect("a fact");
    assert_eq!(read(json!({"mesh": {}})), Fact::Mesh(MeshSpec::default()));
    let Fact::Workload(workload) = read(json!({"workload": {
        "name": {"namespace": "shop", "name": "web-0"}, "serviceAccount": "web"
    }})) else {
        panic!("another kind");
    };
    assert_eq!((workload.node, workload.udp), (None, false));
    let Fact::Service(service) = read(json!({"service": {
        "name": {"namespace": "shop", "name": "web"}
    }})) else {
        panic!("another kind");
    };
    assert_eq!(service.export_to, None);
    let Fact::Namespace(namespace) = read(json!({"namespace": {"name": "shop"}})) else {
        panic!("another kind");
    };
    assert_eq!((namespace.meshed, namespace.reach), (false, None));
}

#[test]
fn objects_of_facts_make_a_world() {
    let facts = one_of_each();
    let objects = Objects::from_facts(&facts);
    let world = objects.world(3, "n1", &Discovered::default());
    assert_eq!(world.trust_domain.as_str(), "example.org");
    assert_eq!(world.default_mtls, MtlsMode::Permissive);
    assert_eq!(objects.settings.tunnel_port, 15999);
    assert_eq!(objects.settings.drain, Duration::from_secs(7));
    let [service] = world.services.as_slice() else {
        panic!("{:?}", world.services);
    };
    assert_eq!(service.endpoints.len(), 2);
    assert_eq!(world.routes.len(), 1);
    assert_eq!(world.policies.len(), 1);
    assert_eq!(world.mtls.len(), 1);
    let local = objects.local("n1");
    let [web] = local.as_slice() else {
        panic!("{local:?}");
    };
    let identity: SpiffeId = "spiffe://example.org/ns/shop/sa/web"
        .parse()
        .expect("an identity");
    assert_eq!(web.identity, identity);
    assert!(objects.local("n2").is_empty());
}

#[test]
fn keys_are_said_as_people_say_them() {
    let said: Vec<String> = one_of_each()
        .iter()
        .map(|fact| fact.key().to_string())
        .collect();
    assert_eq!(
        said,
        [
            "mesh",
            "namespace shop",
            "workload web-0.shop",
            "service web.shop",
            "route split.shop",
            "policy callers.shop",
            "mtls exception metrics.shop",
        ]
    );
}
