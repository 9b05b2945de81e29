use super::*;
use crate::testing::{addr, labels, shop, split, workload};

fn check(world: crate::snapshot::World, destination: &str, expected: &str) {
    let snapshot = Snapshot::new(world);
    let source = Arc::clone(&snapshot.world.workloads[0]);
    let told = match decide(&snapshot, &source, OrigDst(addr(destination))) {
        Decision::Outside => "outside".to_owned(),
        Decision::Workload(workload) => format!("workload {}", workload.name),
        Decision::Refuse { reason, detail } => format!("{}: {detail}", reason.label()),
        Decision::Service(route) => {
            let backends: Vec<String> = route
                .backends
                .iter()
                .map(|backend| {
                    let endpoints: Vec<String> = backend
                        .endpoints
                        .iter()
                        .map(|endpoint| endpoint.socket_addr(&backend.port).to_string())
                        .collect();
                    format!(
                        "{}*{} [{}]",
                        backend.name,
                        backend.weight,
                        endpoints.join(" ")
                    )
                })
                .collect();
            format!(
                "{} via {}: {}",
                route.service.name,
                route.describe_rule().as_deref().unwrap_or("no route"),
                backends.join(", ")
            )
        }
    };
    assert_eq!(told, expected, "dial to {destination}");
}

#[test]
fn a_dial_leads_to_a_service_a_workload_or_outside() {
    check(
        shop(),
        "10.200.0.9:80",
        "web.shop via no route: web.shop*1 [10.2.0.3:8080 10.2.0.4:8080]",
    );
    check(shop(), "10.2.0.3:9999", "workload web-v1.shop");
    check(shop(), "[::ffff:10.2.0.4]:80", "workload web-v2.shop");
    check(shop(), "192.0.2.1:80", "outside");
    check(
        shop(),
        "10.200.0.9:81",
        "no_route: service web.shop has no port 81; it offers 80",
    );
}

#[test]
fn forbidden_destinations_are_refused_not_passed_through() {
    for destination in [
        "127.0.0.1:80",
        "[::1]:80",
        "169.254.169.254:80",
        "[fe80::1]:80",
        "224.0.0.1:80",
        "0.0.0.0:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        let canonical = canonical(addr(destination));
        let expected = format!("wrong_destination: {canonical} is never a destination of the mesh");
        check(shop(), destination, &expected);
    }
}

#[test]
fn a_route_splits_among_subsets() {
    let routed = |backends: &[(&str, u32)]| {
        let mut world = shop();
        world.routes = vec![split(backends)];
        world
    };
    check(
        routed(&[("v1", 90), ("v2", 10)]),
        "10.200.0.9:80",
        "web.shop via route web-canary.shop rule split: web.shop/v1*90 [10.2.0.3:8080], web.shop/v2*10 [10.2.0.4:8080]",
    );
    check(
        routed(&[("v1", 0), ("v2", 1)]),
        "10.200.0.9:80",
        "web.shop via route web-canary.shop rule split: web.shop/v2*1 [10.2.0.4:8080]",
    );
    check(
        routed(&[("v1", 0), ("v2", 0)]),
        "10.200.0.9:80",
        "no_route: route web-canary.shop rule split has no backend with a weight above 0",
    );
    check(
        routed(&[("v1", 1), ("v9", 1)]),
        "10.200.0.9:80",
        "web.shop via route web-canary.shop rule split: web.shop/v1*1 [10.2.0.3:8080], web.shop/v9*1 []",
    );
}

#[test]
fn a_rule_for_another_port_leaves_the_service_as_it_is() {
    let mut world = shop();
    let mut route = (*split(&[("v1", 1)])).clone();
    route.rules[0].port = Some(443);
    world.routes = vec![Arc::new(route)];
    check(
        world,
        "10.200.0.9:80",
        "web.shop via no route: web.shop*1 [10.2.0.3:8080 10.2.0.4:8080]",
    );
}

#[test]
fn a_backend_service_is_reached_on_the_port_that_stands_for_the_dialled_one() {
    let mut other = (*shop().services[0]).clone();
    other.name = Name::new("shop", "other");
    other.addresses.clear();
    let mut route = (*split(&[("v1", 1)])).clone();
    route.rules[0].backends[0].service = other.name.clone();
    let with_ports = |ports: &[(u16, u16)]| {
        let mut world = shop();
        let mut other = other.clone();
        other.ports = ports
            .iter()
            .map(|(port, target_port)| ServicePort {
                port: *port,
                target_port: *target_port,
            })
            .collect();
        world.services.push(Arc::new(other));
        world.routes = vec![Arc::new(route.clone())];
        world
    };
    let told = |endpoints: &str| {
        format!("web.shop via route web-canary.shop rule split: other.shop/v1*1 [{endpoints}]")
    };
    check(
        with_ports(&[(80, 1), (81, 2)]),
        "10.200.0.9:80",
        &told("10.2.0.3:1"),
    );
    check(with_ports(&[(99, 3)]), "10.200.0.9:80", &told("10.2.0.3:3"));
    check(with_ports(&[(81, 1), (82, 2)]), "10.200.0.9:80", &told(""));
    // A backend that names its port gets that one or none.
    let named = |ports: &[(u16, u16)]| {
        let mut world = with_ports(ports);
        let mut route = route.clone();
        route.rules[0].backends[0].port = Some(82);
        world.routes = vec![Arc::new(route)];
        world
    };
    check(
        named(&[(80, 1), (82, 2)]),
        "10.200.0.9:80",
        &told("10.2.0.3:2"),
    );
    check(named(&[(80, 1)]), "10.200.0.9:80", &told(""));
}

#[test]
fn an_endpoint_may_have_a_port_of_its_own_for_a_service_port_or_none() {
    let mut world = shop();
    let service = Arc::make_mut(&mut world.services[0]);
    service.ports.push(ServicePort {
        port: 81,
        target_port: 8181,
    });
    let own: [&[(u16, Option<u16>)]; 2] = [&[(80, Some(9000))], &[(81, None)]];
    for (endpoint, own) in service.endpoints.iter_mut().zip(own) {
        Arc::make_mut(endpoint).ports = own.iter().copied().collect();
    }
    check(
        world.clone(),
        "10.200.0.9:80",
        "web.shop via no route: web.shop*1 [10.2.0.3:9000 10.2.0.4:8080]",
    );
    check(
        world,
        "10.200.0.9:81",
        "web.shop via no route: web.shop*1 [10.2.0.3:8181]",
    );
}

#[test]
fn a_workload_with_both_families_is_reached_by_the_dialled_one() {
    let mut world = shop();
    let mut both = (*world.workloads[1]).clone();
    both.addresses.push("fd02::3".parse().expect("an address"));
    let both = Arc::new(both);
    let mut service = (*world.services[0]).clone();
    service
        .addresses
        .push("fd00::9".parse().expect("an address"));
    let mut endpoint = (*service.endpoints[0]).clone();
    endpoint.workload = Some(Arc::clone(&both));
    service.endpoints[0] = Arc::new(endpoint);
    world.workloads[1] = both;
    world.services = vec![Arc::new(service)];
    check(
        world.clone(),
        "10.200.0.9:80",
        "web.shop via no route: web.shop*1 [10.2.0.3:8080 10.2.0.4:8080]",
    );
    // The second version has only IPv4, and is better than nothing.
    check(
        world,
        "[fd00::9]:80",
        "web.shop via no route: web.shop*1 [[fd02::3]:8080 10.2.0.4:8080]",
    );
}

#[test]
fn endpoints_with_weight_zero_take_nothing() {
    let mut world = shop();
    let mut service = (*world.services[0]).clone();
    let mut endpoint = (*service.endpoints[0]).clone();
    endpoint.weight = 0;
    service.endpoints[0] = Arc::new(endpoint);
    world.services = vec![Arc::new(service)];
    check(
        world,
        "10.200.0.9:80",
        "web.shop via no route: web.shop*1 [10.2.0.4:8080]",
    );
}

#[test]
fn a_shared_address_belongs_to_whoever_lists_the_port() {
    let mut world = shop();
    let mut database = (*workload("database.shop", "10.9.0.1", &[])).clone();
    database.ports = vec![5432];
    world.workloads.push(Arc::new(database));
    check(world.clone(), "10.9.0.1:5432", "workload database.shop");
    check(world, "10.9.0.1:22", "outside");
}

#[test]
fn labels_select_by_exact_equality() {
    let cases: &[(&[(&str, &str)], bool)] = &[
        (&[], true),
        (&[("app", "web")], true),
        (&[("app", "web"), ("version", "v1")], true),
        (&[("app", "we")], false),
        (&[("app", "web"), ("zone", "")], false),
    ];
    let own = labels(&[("app", "web"), ("version", "v1")]);
    for (wanted, expected) in cases {
        assert_eq!(selects(&labels(wanted), &own), *expected, "{wanted:?}");
    }
}
