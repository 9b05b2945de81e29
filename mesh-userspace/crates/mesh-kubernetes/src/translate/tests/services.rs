//! Which services are told, with which endpoints and ports.

use super::Cluster;

/// Two meshed pods, one outside the mesh, and a service in front of them.
fn shop() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.apply(
        "
        {kind: Pod, metadata: {name: web-0, uid: u0}, spec: {nodeName: a}, status: {podIP: 10.1.0.5}}
        ---
        {kind: Pod, metadata: {name: web-1, uid: u1}, spec: {nodeName: b}, status: {podIP: 10.1.1.5}}
        ---
        {kind: Pod, metadata: {name: old, uid: u2, labels: {warren.dev/mesh: disabled}}, spec: {nodeName: b}, status: {podIP: 10.1.1.6}}
        ",
    );
    cluster
}

const WEB: &str = "{kind: Service, metadata: {name: web}, spec: {selector: {app: web}, clusterIP: 10.96.0.9, ports: [{port: 80, targetPort: 8080}]}}";

/// A slice of service `web` with one TCP port.
fn slice(name: &str, port: u16, endpoints: &[&str]) -> String {
    format!(
        "{{kind: EndpointSlice, metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}, ports: [{{name: '', port: {port}, protocol: TCP}}], endpoints: [{}]}}",
        endpoints.join(", ")
    )
}

const WEB_0: &str = "{addresses: [10.1.0.5], conditions: {ready: true}, targetRef: {kind: Pod, name: web-0, namespace: shop, uid: u0}}";
const WEB_1: &str = "{addresses: [10.1.1.5], targetRef: {kind: Pod, name: web-1, uid: u1}}";
const OLD: &str = "{addresses: [10.1.1.6], conditions: {ready: true}, targetRef: {kind: Pod, name: old, uid: u2}}";

fn not_ready(endpoint: &str, conditions: &str) -> String {
    let plain = endpoint.replace("conditions: {ready: true}, ", "");
    plain.replace(
        "targetRef",
        &format!("conditions: {{ready: false, {conditions}}}, targetRef"),
    )
}

#[track_caller]
fn check(manifests: &[&str], expected: &[&str]) {
    let mut cluster = shop();
    for manifest in manifests {
        cluster.apply(manifest);
    }
    assert_eq!(cluster.told(&["service"]), expected, "{manifests:?}");
}

#[test]
fn endpoints_are_workloads_where_they_are_of_the_mesh_and_addresses_elsewhere() {
    check(
        &[WEB, &slice("web-x", 8080, &[OLD, WEB_1, WEB_0])],
        &["web.shop at [10.96.0.9] 80->8080: web-0.shop, web-1.shop, outside 10.1.1.6"],
    );
    // In whichever order they are seen.
    check(
        &[&slice("web-x", 8080, &[WEB_0]), WEB],
        &["web.shop at [10.96.0.9] 80->8080: web-0.shop"],
    );
}

#[test]
fn core_endpoints_serve_where_slices_are_absent() {
    check(
        &[
            WEB,
            "{kind: Endpoints, metadata: {name: web}, subsets: [{addresses: [{ip: 10.1.0.5, targetRef: {kind: Pod, name: web-0, uid: u0}}], notReadyAddresses: [{ip: 10.1.1.5, targetRef: {kind: Pod, name: web-1, uid: u1}}], ports: [{port: 8080}]}]}",
        ],
        &["web.shop at [10.96.0.9] 80->8080: web-0.shop"],
    );
}

#[test]
fn what_takes_no_connections_is_left_out() {
    let ending = not_ready(WEB_1, "serving: true, terminating: true");
    check(
        &[WEB, &slice("web-x", 8080, &[WEB_0, &ending])],
        &["web.shop at [10.96.0.9] 80->8080: web-0.shop"],
    );
    // Where there is no other, one that ends but serves is better than none.
    let broken = not_ready(WEB_0, "serving: false, terminating: false");
    check(
        &[WEB, &slice("web-x", 8080, &[&broken, &ending])],
        &["web.shop at [10.96.0.9] 80->8080: web-1.shop"],
    );
    let ended = not_ready(WEB_1, "serving: false, terminating: true");
    check(
        &[WEB, &slice("web-x", 8080, &[&broken, &ended])],
        &["web.shop at [10.96.0.9] 80->8080: "],
    );
}

#[test]
fn an_endpoint_is_not_dialled_before_it_is_known_what_it_is() {
    // A pod that was not seen yet, and one that took the name of another.
    let unseen = WEB_0.replace("web-0", "web-7");
    let replaced = WEB_1.replace("u1", "u8");
    check(&[WEB, &slice("web-x", 8080, &[&unseen, &replaced])], &[]);
    let mut cluster = shop();
    cluster.apply(WEB);
    cluster.apply(&slice("web-x", 8080, &[&unseen]));
    cluster.apply("{kind: Pod, metadata: {name: web-7, uid: u0}, spec: {nodeName: a}}");
    assert_eq!(
        cluster.told(&["service"]),
        ["web.shop at [10.96.0.9] 80->8080: web-7.shop"]
    );
}

#[test]
fn nobody_can_call_an_endpoint_a_pod_of_another_namespace() {
    let foreign = WEB_0.replace("namespace: shop", "namespace: plain");
    check(
        &[WEB, &slice("web-x", 8080, &[&foreign, WEB_1])],
        &["web.shop at [10.96.0.9] 80->8080: web-1.shop, outside 10.1.0.5"],
    );
    // Nor something that must never be dialled.
    let metadata_server = "{addresses: [169.254.169.254]}";
    let itself = "{addresses: [127.0.0.1]}";
    let cluster = &[
        WEB,
        &slice("web-x", 8080, &[metadata_server, itself, WEB_1]),
    ];
    check(cluster, &["web.shop at [10.96.0.9] 80->8080: web-1.shop"]);
}

#[test]
fn services_without_the_mesh_behind_them_are_none_of_its_business() {
    let outside = WEB.replace("shop", "plain");
    // Only endpoints outside.
    check(&[&outside, &slice("web-x", 8080, &[OLD])], &[]);
    // Of a namespace that is not meshed, without pods.
    check(
        &[&WEB.replace("name: web}", "name: web, namespace: plain}")],
        &[],
    );
    // Of a meshed one: the first connection to its first pod must not pass the mesh by.
    check(&[WEB], &["web.shop at [10.96.0.9] 80->8080: "]);
    // Without a selector, its endpoints are made by hand: there are none to wait for.
    check(&[&WEB.replace("selector: {app: web}, ", "")], &[]);
    // A name of something outside.
    check(
        &[
            "{kind: Service, metadata: {name: out}, spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}}",
        ],
        &[],
    );
    // Without an address of its own: its clients dial pods.
    let headless = WEB.replace("10.96.0.9", "None");
    check(&[&headless, &slice("web-x", 8080, &[WEB_0])], &[]);
}

#[test]
fn a_service_stays_while_its_pods_are_not_ready() {
    let broken = not_ready(WEB_0, "serving: false");
    check(
        &[
            WEB,
            &slice("web-x", 8080, &[WEB_0]),
            &slice("web-x", 8080, &[&broken]),
        ],
        &["web.shop at [10.96.0.9] 80->8080: "],
    );
}

#[test]
fn named_ports_may_differ_from_pod_to_pod() {
    let named = WEB.replace("targetPort: 8080", "targetPort: http");
    check(
        &[
            &named,
            &slice("web-x", 8081, &[WEB_0, OLD]),
            &slice("web-y", 8082, &[WEB_1]),
        ],
        &["web.shop at [10.96.0.9] 80->8081: web-0.shop, web-1.shop (80->8082), outside 10.1.1.6"],
    );
    // Several ports, of which one pod lacks one.
    let two = "{kind: Service, metadata: {name: web}, spec: {selector: {app: web}, clusterIP: 10.96.0.9, ports: [{name: http, port: 80, targetPort: http}, {name: metrics, port: 9090, targetPort: metrics}, {name: dns, port: 53, protocol: UDP}]}}";
    let slice = |name: &str, ports: &str, endpoint: &str| {
        format!(
            "{{kind: EndpointSlice, metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}, ports: [{ports}], endpoints: [{endpoint}]}}"
        )
    };
    check(
        &[
            two,
            &slice(
                "web-x",
                "{name: http, port: 8080}, {name: metrics, port: 9100}, {name: dns, port: 5353, protocol: UDP}",
                WEB_0,
            ),
            &slice("web-y", "{name: http, port: 8080}", WEB_1),
        ],
        &["web.shop at [10.96.0.9] 80->8080, 9090->9100: web-0.shop, web-1.shop (not 9090)"],
    );
}

#[test]
fn a_port_without_endpoints_leads_where_its_author_says() {
    check(&[WEB], &["web.shop at [10.96.0.9] 80->8080: "]);
    check(
        &[&WEB.replace(", targetPort: 8080", "")],
        &["web.shop at [10.96.0.9] 80->80: "],
    );
}

#[test]
fn a_service_of_both_families_has_each_workload_once() {
    let dual = WEB.replace(
        "clusterIP: 10.96.0.9",
        "clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9, 'fd00::9']",
    );
    let six = WEB_0.replace("10.1.0.5", "'fd00:1::5'");
    check(
        &[
            &dual,
            &slice("web-4", 8080, &[WEB_0]),
            &slice("web-6", 8080, &[&six]),
        ],
        &["web.shop at [10.96.0.9, fd00::9] 80->8080: web-0.shop"],
    );
}

#[test]
fn an_annotation_says_who_is_told_of_it() {
    for (value, expected) in [
        ("'*'", ""),
        ("shop, '*'", ""),
        ("'.'", " for []"),
        ("''", " for []"),
        ("'., bank,,  plain '", " for [bank, plain]"),
    ] {
        let value = if value == "shop, '*'" {
            "'shop, *'"
        } else {
            value
        };
        let annotated = WEB.replace(
            "name: web}",
            &format!("name: web, annotations: {{warren.dev/export-to: {value}}}}}"),
        );
        check(
            &[&annotated],
            &[&format!("web.shop at [10.96.0.9] 80->8080: {expected}")],
        );
    }
}

#[test]
fn a_pods_change_concerns_its_services_only_when_they_ask_for_it() {
    let mut cluster = shop();
    cluster.apply(WEB);
    cluster.apply(&slice("web-x", 8080, &[WEB_0, WEB_1]));
    let address = "{kind: Pod, metadata: {name: web-0, uid: u0}, spec: {nodeName: a}, status: {podIP: 10.1.0.77}}";
    let change = cluster.apply(address);
    assert_eq!(change.set.len(), 1, "its own fact: {change:?}");
    let change =
        cluster.apply(&address.replace("uid: u0", "uid: u0, labels: {warren.dev/mesh: disabled}"));
    assert_eq!(
        (change.set.len(), change.removed.len()),
        (1, 1),
        "{change:?}"
    );
    assert_eq!(
        cluster.told(&["service"]),
        ["web.shop at [10.96.0.9] 80->8080: web-1.shop, outside 10.1.0.5"]
    );
}
