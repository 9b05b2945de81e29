use std::sync::Arc;

use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::policy::MtlsMode;
use mesh_core::snapshot::World;

use super::*;
use crate::api::flow::Verdict;

fn workload(namespace: &str, name: &str, address: &str) -> Arc<Workload> {
    Arc::new(Workload {
        name: Name::new(namespace, name),
        identity: SpiffeId::new(TrustDomain::default(), namespace, "default").expect("an identity"),
        node: "a".to_owned(),
        addresses: vec![address.parse().expect("an address")],
        labels: Default::default(),
        ports: vec![80],
    })
}

fn snapshot() -> Snapshot {
    Snapshot::new(World {
        workloads: vec![
            workload("shop", "client", "10.0.0.1"),
            workload("shop", "web.v1", "10.0.0.2"),
            workload("ops", "client", "10.0.0.3"),
            workload("ops", "secret-db", "10.0.0.4"),
            workload("lab", "probe", "10.0.0.5"),
            workload("bench", "probe", "10.0.0.6"),
            Arc::new(Workload {
                ports: Vec::new(),
                ..Workload::clone(&workload("shop", "open.ended", "10.0.0.7"))
            }),
        ],
        default_mtls: MtlsMode::Strict,
        ..World::default()
    })
}

fn check(scope: Option<&str>, source: &str, destination: &str, expected: &str) {
    let said = match explain(&snapshot(), scope, source, destination) {
        Ok(explanation) => {
            assert_eq!(explanation.verdict, Verdict::Allowed);
            format!("{} → {}", explanation.source, explanation.destination)
        }
        Err(problem) => problem.message,
    };
    assert!(said.contains(expected), "{said}");
}

#[test]
fn names_are_those_of_the_namespace_that_is_asked_about() {
    let shop = Some("shop");
    check(shop, "client", "pod/web.v1", "client.shop → 10.0.0.2:80");
    check(shop, "pod/web.v1", "client", "web.v1.shop → 10.0.0.1:80");
    check(
        shop,
        "client.shop",
        "client.ops",
        "client.shop → 10.0.0.3:80",
    );
    check(
        Some("ops"),
        "client",
        "client.shop:80",
        "client.ops → 10.0.0.1:80",
    );
    check(
        None,
        "client.ops",
        "10.0.0.2:80",
        "client.ops → 10.0.0.2:80",
    );
}

#[test]
fn one_end_is_in_the_namespace_that_is_asked_about() {
    check(
        Some("shop"),
        "client.ops",
        "web.v1.shop",
        "client.ops → 10.0.0.2:80",
    );
    check(
        Some("shop"),
        "client.ops",
        "secret-db.ops",
        "neither client.ops nor secret-db.ops",
    );
    check(
        Some("shop"),
        "client.ops",
        "10.0.0.4:80",
        "neither client.ops nor 10.0.0.4:80",
    );
}

#[test]
fn names_of_other_namespaces_are_not_told() {
    let told = |scope, source, destination| {
        explain(&snapshot(), scope, source, destination)
            .expect_err("a mistake")
            .message
    };
    assert!(!told(Some("shop"), "client", "secret-d").contains("secret-db"));
    assert!(told(Some("ops"), "client", "secret-d").contains("did you mean secret-db?"));
    let several = told(Some("shop"), "probe", "client");
    assert!(
        !several.contains("lab") && !several.contains("bench"),
        "{several}"
    );
    assert!(told(None, "probe", "client").contains("probe.lab"));
    assert!(told(Some("shop"), "clien", "web.v1").contains("did you mean client?"));
    let which = told(Some("shop"), "client", "open.ended");
    assert!(!which.contains("did you mean"), "{which}");
}
