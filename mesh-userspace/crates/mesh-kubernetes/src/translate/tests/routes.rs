//! Routes of the Gateway API: weights that are programmed, what is said of the rest, whose services they may touch.

use super::Cluster;

/// Services `web`, `web-v2` and `other` of `shop`, and `bank` of namespace `plain`.
fn services() -> Cluster {
    let mut cluster = Cluster::new();
    for (name, namespace, ip, ports) in [
        (
            "web",
            "shop",
            "10.96.0.1",
            "[{port: 80}, {name: admin, port: 81}]",
        ),
        ("web-v2", "shop", "10.96.0.2", "[{port: 8080}]"),
        ("headless", "shop", "None", "[{port: 80}]"),
        ("bank", "plain", "10.96.0.3", "[{port: 80}]"),
    ] {
        cluster.apply(&format!(
            "{{kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{clusterIP: {ip}, ports: {ports}}}}}"
        ));
    }
    cluster
}

/// A route for the clients of `web`.
fn route(kind: &str, rules: &str) -> String {
    format!(
        "{{kind: {kind}, metadata: {{name: split, generation: 1, creationTimestamp: '2026-01-01T00:00:00Z'}}, spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{rules}]}}}}"
    )
}

const SPLIT: &str = "backendRefs: [{name: web, port: 80, weight: 9}, {name: web-v2, port: 8080}]";

#[track_caller]
fn check(manifests: &[&str], told: &[&str], object: &str, said: &[&str]) {
    let mut cluster = services();
    for manifest in manifests {
        cluster.apply(manifest);
    }
    assert_eq!(cluster.told(&["route"]), told, "{manifests:?}");
    assert_eq!(cluster.said(object), said, "{manifests:?}");
}

#[test]
fn weights_are_programmed_for_every_kind() {
    for (kind, word, rule) in [
        ("TCPRoute", "tcproute", format!("{{{SPLIT}}}")),
        // What the API server writes where no match is given.
        (
            "HTTPRoute",
            "httproute",
            format!("{{matches: [{{path: {{type: PathPrefix, value: /}}}}], {SPLIT}}}"),
        ),
        ("HTTPRoute", "httproute", format!("{{{SPLIT}}}")),
        (
            "GRPCRoute",
            "grpcroute",
            format!("{{matches: [{{}}], {SPLIT}}}"),
        ),
    ] {
        check(
            &[&route(kind, &rule)],
            &[&format!(
                "{word}/split.shop of web.shop: 0 for 80 [web.shop:80*9, web-v2.shop:8080*1]"
            )],
            &format!("{kind} split.shop"),
            &["Accepted; ResolvedRefs; whole"],
        );
    }
}

#[test]
fn what_is_not_programmed_is_said_rule_by_rule() {
    let rules = format!(
        "{{name: v2, matches: [{{path: {{type: PathPrefix, value: /v2}}}}], {SPLIT}}},
         {{filters: [{{type: RequestRedirect}}]}},
         {{name: rest, timeouts: {{request: 1s}}, {SPLIT}}},
         {{{SPLIT}}},
         {{backendRefs: [{{name: web, port: 80, filters: [{{type: RequestHeaderModifier}}]}}]}}"
    );
    check(
        &[&route("HTTPRoute", &rules)],
        &["httproute/split.shop of web.shop: rest for 80 [web.shop:80*9, web-v2.shop:8080*1]"],
        "HTTPRoute split.shop",
        &[
            "Accepted; ResolvedRefs; !NotYetProgrammed (rule rest splits connections by weight; not programmed yet: rule v2: matches; rule 1: filter RequestRedirect; rule rest: timeouts; rule 3: an earlier rule takes every connection already; rule 4: filters of backend web)",
        ],
    );
    check(
        &[&route(
            "GRPCRoute",
            &format!("{{matches: [{{method: {{service: a.B}}}}], {SPLIT}}}"),
        )],
        &[],
        "GRPCRoute split.shop",
        &[
            "Accepted; ResolvedRefs; !NotYetProgrammed (no rule takes connections; not programmed yet: rule 0: matches)",
        ],
    );
}

#[test]
fn a_route_without_a_port_is_about_every_port_of_the_service() {
    let all = route("TCPRoute", &format!("{{{SPLIT}}}")).replace(", port: 80}]", "}]");
    check(
        &[&all],
        &[
            "tcproute/split.shop of web.shop: 0 for 80 [web.shop:80*9, web-v2.shop:8080*1], 0 for 81 [web.shop:80*9, web-v2.shop:8080*1]",
        ],
        "TCPRoute split.shop",
        &["Accepted; ResolvedRefs; whole"],
    );
}

#[test]
fn several_parents_are_judged_each() {
    let parents = "parentRefs: [{kind: Gateway, name: gw}, {group: '', kind: Service, name: web, port: 81}, {group: '', kind: Service, name: web-v2}, {group: '', kind: Service, name: gone}, {group: '', kind: Service, name: web, port: 82}, {group: '', kind: Service, name: headless}]";
    let route = route("TCPRoute", "{backendRefs: [{name: web, port: 80}]}").replace(
        "parentRefs: [{group: '', kind: Service, name: web, port: 80}]",
        parents,
    );
    check(
        &[&route],
        &[
            "tcproute/split.shop of web.shop: 0 for 81 [web.shop:80*1]",
            "tcproute/split:web-v2.shop of web-v2.shop: 0 for 8080 [web.shop:80*1]",
        ],
        "TCPRoute split.shop",
        &[
            "Accepted; ResolvedRefs; whole",
            "Accepted; ResolvedRefs; whole",
            "!NoMatchingParent (there is no service gone in namespace shop); ResolvedRefs; !NotAccepted",
            "!NoMatchingParent (service web has no TCP port 82; its TCP ports are 80, 81); ResolvedRefs; !NotAccepted",
            "!NoMatchingParent (service headless has no cluster IP: clients dial its pods, past every route); ResolvedRefs; !NotAccepted",
        ],
    );
}

#[test]
fn a_namespace_cannot_decide_for_clients_of_another_ones_service() {
    let foreign = route("TCPRoute", "{backendRefs: [{name: web, port: 80}]}")
        .replace("name: web, port: 80}],", "name: bank, namespace: plain}],");
    let mut cluster = services();
    cluster.apply(&foreign);
    assert_eq!(cluster.told(&["route"]), [""; 0]);
    assert_eq!(
        cluster.told(&["service"]),
        ["web.shop at [10.96.0.1] 80->80, 81->81: "],
        "bank is left alone"
    );
    assert_eq!(
        cluster.said("TCPRoute split.shop"),
        [
            "!UnsupportedValue (a route of namespace shop cannot decide for clients of service bank.plain; put it into namespace plain); ResolvedRefs; !NotAccepted"
        ]
    );
}

#[test]
fn backends_elsewhere_need_a_grant() {
    let across = route(
        "TCPRoute",
        "{backendRefs: [{name: web, port: 80}, {name: bank, namespace: plain, port: 80, weight: 3}]}",
    );
    let alone = ["tcproute/split.shop of web.shop: 0 for 80 [web.shop:80*1]"];
    let both = ["tcproute/split.shop of web.shop: 0 for 80 [web.shop:80*1, bank.plain:80*3]"];
    let mut cluster = services();
    cluster.apply(&across);
    assert_eq!(cluster.told(&["route"]), alone);
    assert_eq!(
        cluster.said("TCPRoute split.shop"),
        [
            "Accepted; !RefNotPermitted (no ReferenceGrant of namespace plain lets TCPRoute of namespace shop lead to service bank); whole"
        ]
    );
    let grant = |from: &str, to: &str| {
        format!(
            "{{kind: ReferenceGrant, metadata: {{name: g, namespace: plain}}, spec: {{from: [{{group: gateway.networking.k8s.io, {from}}}], to: [{{group: '', kind: Service{to}}}]}}}}"
        )
    };
    for (from, to, granted) in [
        ("kind: TCPRoute, namespace: shop", "", true),
        ("kind: TCPRoute, namespace: shop", ", name: bank", true),
        ("kind: TCPRoute, namespace: shop", ", name: other", false),
        ("kind: HTTPRoute, namespace: shop", "", false),
        ("kind: TCPRoute, namespace: elsewhere", "", false),
    ] {
        cluster.apply(&grant(from, to));
        assert_eq!(
            cluster.told(&["route"]),
            if granted { both } else { alone },
            "{from} {to}"
        );
        let services = cluster.told(&["service"]);
        assert_eq!(
            services.iter().any(|line| line.starts_with("bank.plain")),
            granted,
            "{from} {to}"
        );
    }
    cluster.apply(&grant("kind: TCPRoute, namespace: shop", ""));
    cluster.delete(&grant("", ""));
    assert_eq!(cluster.told(&["route"]), alone);
    // A grant in the route's own namespace is none.
    cluster.apply(
        &grant("kind: TCPRoute, namespace: shop", "")
            .replace("namespace: plain}", "namespace: shop}"),
    );
    assert_eq!(cluster.told(&["route"]), alone);
}

#[test]
fn backends_that_are_not_there_have_no_share_until_they_are() {
    let rule = "{backendRefs: [{name: later, port: 80}, {name: web, port: 99}, {name: web}, {kind: Bucket, group: x, name: b}]}";
    let mut cluster = services();
    cluster.apply(&route("TCPRoute", rule));
    assert_eq!(
        cluster.told(&["route"]),
        ["tcproute/split.shop of web.shop: 0 for 80 []"]
    );
    assert_eq!(
        cluster.said("TCPRoute split.shop"),
        [
            "Accepted; !BackendNotFound (there is no service later.shop; service web.shop has no TCP port 99; its TCP ports are 80, 81; backend web.shop needs a port: it is a Service; backend b is a Bucket; only a Service can be one); whole"
        ]
    );
    cluster.apply("{kind: Service, metadata: {name: later}, spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}}");
    assert_eq!(
        cluster.told(&["route"]),
        ["tcproute/split.shop of web.shop: 0 for 80 [later.shop:80*1]"]
    );
}

#[test]
fn a_port_is_decided_by_the_more_specific_kind_then_by_the_older_route() {
    let tcp = route("TCPRoute", "{backendRefs: [{name: web, port: 80}]}");
    let all = tcp.replace(", port: 80}], rules", "}], rules");
    let younger = all
        .replace("name: split", "name: a-younger")
        .replace("2026-01-01", "2026-01-02");
    let http =
        route("HTTPRoute", "{backendRefs: [{name: web-v2, port: 8080}]}").replace("2026", "2027");
    for order in [[&tcp, &younger, &http], [&http, &younger, &tcp]] {
        let mut cluster = services();
        for manifest in order {
            cluster.apply(manifest);
        }
        assert_eq!(
            cluster.told(&["route"]),
            [
                "httproute/split.shop of web.shop: 0 for 80 [web-v2.shop:8080*1]",
                "tcproute/a-younger.shop of web.shop: 0 for 81 [web.shop:80*1]",
            ]
        );
        assert_eq!(
            cluster.said("TCPRoute split.shop"),
            ["Accepted; ResolvedRefs; !Conflicted (port 80 is decided by HTTPRoute split)"]
        );
        cluster.delete(&http);
        assert_eq!(
            cluster.told(&["route"]),
            [
                "tcproute/a-younger.shop of web.shop: 0 for 81 [web.shop:80*1]",
                "tcproute/split.shop of web.shop: 0 for 80 [web.shop:80*1]",
            ]
        );
    }
}

#[test]
fn services_of_a_route_are_told_even_outside_the_mesh() {
    let mut cluster = services();
    assert_eq!(cluster.told(&["service"]), [""; 0]);
    let route = route("TCPRoute", "{backendRefs: [{name: headless, port: 80}]}");
    cluster.apply(&route);
    assert_eq!(
        cluster.told(&["service"]),
        [
            "headless.shop at [] 80->80: ",
            "web.shop at [10.96.0.1] 80->80, 81->81: "
        ]
    );
    cluster.delete(&route);
    assert_eq!(cluster.told(&["service"]), [""; 0]);
    assert_eq!(cluster.said("TCPRoute split.shop"), [""; 0]);
}

#[test]
fn a_route_that_cannot_be_read_says_so_and_others_go_on() {
    let good = route("TCPRoute", &format!("{{{SPLIT}}}")).replace("2026-01-01", "2026-01-09");
    check(
        &[
            &route("TCPRoute", "{backendRefs: 7}").replace("name: split", "name: bad"),
            &good,
        ],
        &["tcproute/split.shop of web.shop: 0 for 80 [web.shop:80*9, web-v2.shop:8080*1]"],
        "TCPRoute bad.shop",
        &[
            "!UnsupportedValue (the route cannot be read: invalid type: integer `7`, expected a sequence); ResolvedRefs; !NotAccepted",
        ],
    );
}
