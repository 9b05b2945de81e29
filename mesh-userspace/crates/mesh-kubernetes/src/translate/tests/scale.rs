//! Twenty thousand pods: what one pod's change costs, and what all of them hold.

use std::collections::BTreeSet;

use mesh_core::workload::Name;
use serde_json::{Value, json};

use super::Cluster;
use super::cluster::observation;
use crate::translate::Unit;

const SERVICES: usize = 200;
const PODS_EACH: usize = 100;

fn pod(service: usize, index: usize, generation: u8) -> Value {
    let number = service * PODS_EACH + index;
    json!({
        "kind": "Pod",
        "metadata": {
            "name": format!("app-{service}-5d9c7b6f4-{index:05}"), "uid": format!("6f1c0e8e-0000-4000-8000-{number:012}"),
            "labels": { "app": format!("app-{service}"), "pod-template-hash": "5d9c7b6f4", "app.kubernetes.io/part-of": "shop", "version": generation.to_string() },
        },
        "spec": { "nodeName": format!("node-{}", number % 1000), "serviceAccountName": format!("app-{service}") },
        "status": { "phase": "Running", "podIP": format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255) },
    })
}

fn service(service: usize) -> Value {
    json!({
        "kind": "Service", "metadata": { "name": format!("app-{service}") },
        "spec": { "selector": { "app": format!("app-{service}") }, "clusterIP": format!("10.96.{}.{}", service >> 8, service & 255), "ports": [{ "port": 80, "targetPort": 8080 }] },
    })
}

fn slice(service: usize) -> Value {
    let endpoints: Vec<Value> = (0..PODS_EACH)
        .map(|index| {
            let pod = pod(service, index, 0);
            json!({
                "addresses": [pod["status"]["podIP"]], "conditions": { "ready": true },
                "targetRef": { "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"] },
            })
        })
        .collect();
    json!({
        "kind": "EndpointSlice",
        "metadata": { "name": format!("app-{service}-x"), "labels": { "kubernetes.io/service-name": format!("app-{service}") } },
        "ports": [{ "name": "", "port": 8080 }], "endpoints": endpoints,
    })
}

#[test]
fn one_pods_change_costs_its_own_fact_and_its_services_however_many_there_are() {
    let mut cluster = Cluster::new();
    rss("before");
    for number in 0..SERVICES {
        for index in 0..PODS_EACH {
            cluster
                .translator
                .observe(observation(pod(number, index, 0), false));
        }
        cluster
            .translator
            .observe(observation(service(number), false));
        cluster
            .translator
            .observe(observation(slice(number), false));
    }
    rss("observed");
    let t = std::time::Instant::now();
    let (_, change) = cluster.translator.settle();
    println!("settle {:?}", t.elapsed());
    rss("settled, with facts");
    assert_eq!(change.set.len(), SERVICES * PODS_EACH + SERVICES);

    drop(change);
    rss("settled");
    let name = |manifest: &Value| {
        Name::new(
            "shop",
            manifest["metadata"]["name"].as_str().expect("a name"),
        )
    };
    let marked = |cluster: &Cluster| cluster.translator.dirty.clone();
    let relabelled = pod(7, 3, 1);
    cluster
        .translator
        .observe(observation(relabelled.clone(), false));
    let own = Unit::Workload(name(&relabelled));
    assert_eq!(
        marked(&cluster),
        BTreeSet::from([own.clone()]),
        "labels are none of the service's business"
    );
    assert_eq!(cluster.settle_unknown(), (1, 0));

    cluster.translator.observe(observation(relabelled, true));
    let service = Unit::Service(Name::new("shop", "app-7"));
    assert_eq!(marked(&cluster), BTreeSet::from([own, service]));
    assert_eq!(cluster.settle_unknown(), (1, 1));

    // The same again, listed as a whole: nothing differs.
    let again = (0..SERVICES).map(|number| observation(slice(number), false));
    again.for_each(|seen| assert!(!cluster.translator.observe(seen)));
    assert_eq!(marked(&cluster), BTreeSet::new());
}

fn rss(what: &str) {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    println!(
        "{what}: {}",
        s.lines().find(|l| l.starts_with("VmRSS")).unwrap()
    );
}
