use std::fmt::Write;

use super::*;
use crate::policy::{Action, AuthorizationPolicy, Rule, Source, Target};
use crate::snapshot::World;
use crate::testing::{shop, split, workload as make};

fn routed(world: World) -> World {
    World {
        routes: vec![split(&[("v1", 90), ("v2", 10)])],
        policies: vec![Arc::new(AuthorizationPolicy {
            name: Name::new("shop", "no-v2"),
            target: Target::Workload("web-v2".to_owned()),
            dry_run: false,
            rules: vec![Rule {
                name: "ops-only".to_owned(),
                action: Action::Allow,
                from: vec![Source::Namespace("ops".to_owned())],
                ports: Vec::new(),
            }],
        })],
        ..world
    }
}

fn told(world: World, text: &str) -> String {
    let snapshot = Snapshot::new(world);
    let source = workload(&snapshot, "client").expect("the client");
    let dialled = match destination(&snapshot, source, text) {
        Ok(dialled) => dialled,
        Err(unresolved) => return unresolved.to_string(),
    };
    let explanation = explain(&snapshot, source, dialled);
    let mut told = format!("{}\n", explanation.verdict);
    for step in explanation.steps {
        let share = step
            .share
            .map(|share| format!(" {share}%"))
            .unwrap_or_default();
        let rule = step
            .rule
            .map(|rule| format!(" [{rule}]"))
            .unwrap_or_default();
        let refused = step
            .refused
            .map(|label| format!(" !{label}"))
            .unwrap_or_default();
        writeln!(
            told,
            "{:?}: {}{share}: {}{rule}{refused}",
            step.kind, step.subject, step.outcome
        )
        .expect("a String takes everything");
    }
    told
}

#[test]
fn every_step_names_its_rule() {
    let expected = "\
denied
Resolve: 10.200.0.9:80: service web.shop port 80
Route: web.shop:80: split by weight [route web-canary.shop rule split]
Split: web.shop/v1 90%: 1 endpoint
Policy: web-v1.shop 10.2.0.3:8080: allowed [no policy selects web-v1.shop]
Mtls: web-v1.shop 10.2.0.3:8080: mutual TLS, expecting spiffe://demo.warren/ns/shop/sa/web-v1 [mtls strict (default)]
Split: web.shop/v2 10%: 1 endpoint
Policy: web-v2.shop 10.2.0.4:8080: denied [policy no-v2.shop (no rule allows spiffe://demo.warren/ns/shop/sa/client)] !no_rule_allows
Mtls: web-v2.shop 10.2.0.4:8080: mutual TLS, expecting spiffe://demo.warren/ns/shop/sa/web-v2 [mtls strict (default)]
";
    for destination in [
        "web",
        "web:80",
        "web.shop",
        "web.shop:80",
        "10.200.0.9",
        "10.200.0.9:80",
    ] {
        assert_eq!(told(routed(shop()), destination), expected, "{destination}");
    }
}

#[test]
fn a_workload_and_the_outside_are_explained() {
    assert_eq!(
        told(shop(), "web-v1:22"),
        "allowed\nResolve: 10.2.0.3:22: workload web-v1.shop on node a\n\
         Policy: web-v1.shop 10.2.0.3:22: allowed [no policy selects web-v1.shop]\n\
         Mtls: web-v1.shop 10.2.0.3:22: mutual TLS, expecting spiffe://demo.warren/ns/shop/sa/web-v1 [mtls strict (default)]\n"
    );
    assert_eq!(
        told(shop(), "192.0.2.1:443"),
        "allowed\nResolve: 192.0.2.1:443: outside the mesh: passed through untouched, in clear\n"
    );
    assert_eq!(
        told(shop(), "web:81"),
        "failed\nResolve: 10.200.0.9:81: service web.shop has no port 81; it offers 80 !no_route\n"
    );
}

#[test]
fn a_service_without_endpoints_fails() {
    let mut world = shop();
    let mut service = (*world.services[0]).clone();
    service.endpoints.clear();
    world.services = vec![Arc::new(service)];
    assert_eq!(
        told(world, "web"),
        "failed\nResolve: 10.200.0.9:80: service web.shop port 80\n\
         Route: web.shop:80: no route: every endpoint of the service takes part\n\
         Split: web.shop 100%: no endpoint !nothing_healthy\n"
    );
}

#[test]
fn what_cannot_be_resolved_says_why() {
    let mut world = shop();
    world.workloads.push(make("web-v1.ops", "10.7.0.1", &[]));
    world.workloads.push(make("robot.ops", "10.7.0.2", &[]));
    world.workloads.push(make("robot.test", "10.7.0.3", &[]));
    let cases = [
        (
            "wep",
            "\"wep\" is not a service, a workload or an address; `warren get services` lists the services",
        ),
        (
            "robot:80",
            "\"robot\" is the name of several (robot.ops, robot.test); say which, as name.namespace",
        ),
        (
            "web:http",
            "\"http\" is not a port; a port is a number from 1 to 65535",
        ),
        (
            "web:0",
            "\"0\" is not a port; a port is a number from 1 to 65535",
        ),
        ("web-v1", "which port of web-v1? Say web-v1:PORT"),
    ];
    for (text, expected) in cases {
        assert_eq!(told(world.clone(), text), expected);
    }
    let snapshot = Snapshot::new(world);
    let unresolved = workload(&snapshot, "nobody").expect_err("nobody");
    assert_eq!(
        unresolved.to_string(),
        "no workload \"nobody\" in the mesh; `warren get workloads` lists them"
    );
    assert_eq!(
        workload(&snapshot, "robot.test")
            .expect("exact")
            .name
            .to_string(),
        "robot.test"
    );
}
