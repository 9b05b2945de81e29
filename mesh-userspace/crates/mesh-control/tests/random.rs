//! Ten thousand files made by chance: good ones with bytes changed, and ones put together from good and bad pieces. None
//! may panic, all are read in bounded time, every object applies whole or not at all, and nothing becomes more open by
//! a mistake.

mod clock;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use mesh_control::objects::Objects;
use mesh_control::reconcile::Discovered;
use mesh_control::{Evaluated, Kind, evaluate};

use clock::cost;

/// SplitMix64: the same files in every run, other ones with `WARREN_SEED`.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound.max(1) as u64) as usize
    }

    fn one_of<'t, T>(&mut self, items: &'t [T]) -> &'t T {
        &items[self.below(items.len())]
    }
}

fn seed() -> u64 {
    std::env::var("WARREN_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1)
}

/// More than a file of a few kilobytes may cost: a hundred times what the example does in a debug build.
const DEAR: Duration = Duration::from_millis(500);

fn read(text: &[u8], previous: Option<&Objects>) -> Evaluated {
    let begun = Instant::now();
    let evaluated = evaluate(Path::new("random.yaml"), text, Some("a"), previous);
    // Only what looks dear is measured.
    if begun.elapsed() > DEAR {
        let cost = cost(|| {
            drop(evaluate(
                Path::new("random.yaml"),
                text,
                Some("a"),
                previous,
            ))
        });
        assert!(
            cost < DEAR,
            "{cost:?} for {:?}",
            String::from_utf8_lossy(text)
        );
    }
    hold(&evaluated, text);
    evaluated
}

/// What is true of every file.
fn hold(evaluated: &Evaluated, text: &[u8]) {
    let Evaluated { objects, report } = evaluated;
    let shown = || String::from_utf8_lossy(text).into_owned();
    assert_eq!(objects.is_some(), report.usable, "{}", shown());
    let printed = report.to_string();
    let harmful = |character: char| character.is_control() && character != '\n';
    assert!(!printed.contains(harmful), "{printed:?}");
    // Every error is of a rejected object, or of a file that is rejected.
    if report.usable && report.more == 0 {
        for mistake in &report.mistakes {
            let error = mistake.severity == mesh_control::mistake::Severity::Error;
            let owned = report.rejected.iter().any(|rejected| {
                mistake.path.starts_with(&format!("{}.", rejected.path))
                    || mistake.path.starts_with(&format!("{}[", rejected.path))
                    || mistake.path == rejected.path
            });
            assert!(!error || owned, "{mistake} in {}", shown());
        }
    }
    for rejected in &report.rejected {
        let reason = report
            .mistakes
            .iter()
            .any(|mistake| mistake.path.starts_with(&rejected.path));
        assert!(
            reason || report.more > 0,
            "{rejected:?} without a reason in {}",
            shown()
        );
    }
    if let Some(objects) = objects {
        whole(objects, &shown());
    }
}

/// What applies is consistent in itself: linking it loses nothing and finds nothing twice.
fn whole(objects: &Objects, shown: &str) {
    let mut names = BTreeSet::new();
    for workload in &objects.workloads {
        assert!(
            names.insert(&workload.name),
            "{} twice in {shown}",
            workload.name
        );
    }
    let mut names = BTreeSet::new();
    for service in &objects.services {
        assert!(
            names.insert(&service.name),
            "{} twice in {shown}",
            service.name
        );
    }
    let world = objects.world(1, "a", &Discovered::new());
    assert_eq!(world.workloads.len(), objects.workloads.len(), "{shown}");
    assert_eq!(world.services.len(), objects.services.len(), "{shown}");
    assert_eq!(world.policies.len(), objects.policies.len(), "{shown}");
    for workload in &world.workloads {
        for address in &workload.addresses {
            assert!(
                !mesh_core::addr::is_forbidden_destination(*address),
                "{shown}"
            );
        }
    }
    for service in &world.services {
        for endpoint in &service.endpoints {
            let ip = endpoint.address;
            assert!(!mesh_core::addr::is_forbidden_destination(ip), "{shown}");
            let of_the_mesh = world
                .workloads
                .iter()
                .any(|item| item.addresses.contains(&ip));
            assert!(
                endpoint.workload.is_some() || !of_the_mesh,
                "in clear: {shown}"
            );
        }
    }
    drop(mesh_core::snapshot::Snapshot::new(world));
}

fn example() -> Vec<u8> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../deploy/examples/two-nodes.yaml");
    std::fs::read(file).expect("the example")
}

fn mutated(random: &mut Random, good: &[u8]) -> Vec<u8> {
    const PIECES: [&str; 16] = [
        ": ", "\n", "- ", "{", "}", "[", "]", "*a", "&a ", "\"", "'", "#", "|", "\t", "!!",
        "\u{202e}",
    ];
    let mut bytes = good.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.bits() as u8,
            1 => {
                bytes.remove(at);
            }
            2 => {
                let piece = random.one_of(&PIECES).bytes();
                bytes.splice(at..at, piece);
            }
            3 => {
                let end = (at + random.below(60)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + random.below(200)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => bytes.truncate(at.max(1)),
        }
        if bytes.is_empty() {
            bytes.push(b'x');
        }
    }
    bytes
}

#[test]
fn changed_bytes() {
    let good = example();
    let mut random = Random(seed());
    let previous = read(&good, None).objects.expect("good");
    let (mut usable, mut clean) = (0, 0);
    for round in 0..5000 {
        let text = mutated(&mut random, &good);
        let before = (round % 2 == 0).then_some(&previous);
        let evaluated = read(&text, before);
        usable += usize::from(evaluated.report.usable);
        clean += usize::from(evaluated.report.errors() == 0);
    }
    // Otherwise the changes only ever hit the syntax, and nothing behind it was tried.
    assert!(
        usable > 500 && clean < 4500,
        "{usable} usable, {clean} clean"
    );
}

const NAMES: [&str; 9] = [
    "web",
    "api",
    "client",
    "web",
    "Web_1",
    "1.5",
    "\"\"",
    "[x]",
    "\"a\\e[0m\"",
];
const NAMESPACES: [&str; 5] = ["shop", "shop", "ops", "{}", "S"];
const ADDRESSES: [&str; 10] = [
    "10.1.0.1",
    "10.1.0.2",
    "10.1.0.3",
    "fd01::1",
    "10.1.0.4",
    "127.0.0.1",
    "::ffff:10.1.0.1",
    "web",
    "5",
    "0.0.0.0",
];
const PORTS: [&str; 8] = ["80", "8080", "443", "0", "70000", "http", "15008", "-1"];
const WEIGHTS: [&str; 6] = ["1", "50", "0", "-1", "2000000", "1.5"];
const TARGETS: [&str; 9] = [
    "{service: web}",
    "{workload: web}",
    "{labels: {app: web}}",
    "{service: nobody}",
    "{}",
    "5",
    "{labels: {}}",
    "{service: web, workload: web}",
    "{labels: {app: 5}}",
];
const ACTIONS: [&str; 5] = ["allow", "deny", "allow", "permit", "5"];
const SOURCES: [&str; 9] = [
    "{serviceAccount: shop/client}",
    "{namespace: shop}",
    "{network: 10.0.0.0/8}",
    "{authenticated: true}",
    "{identity: \"spiffe://cluster.local/ns/shop/sa/web\"}",
    "{}",
    "{network: 10.0.0.1/8}",
    "{serviceAccount: client}",
    "{authenticated: no}",
];

/// A file put together from pieces, mostly good ones. Every value here is one token of YAML, so the syntax holds.
fn assembled(random: &mut Random) -> String {
    let mut text = String::from("apiVersion: warren.dev/v1alpha1\nworkloads:\n");
    let badness = 1 + random.below(12);
    let pick = |random: &mut Random, items: &[&'static str], good: usize| -> &'static str {
        let items = if random.below(badness) == 0 {
            items
        } else {
            &items[..good]
        };
        items[random.below(items.len())]
    };
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        text.write_fmt(arguments)
            .expect("a String takes everything");
    };
    for _ in 0..random.below(5) {
        let name = pick(random, &NAMES, 4);
        let namespace = pick(random, &NAMESPACES, 3);
        let address = pick(random, &ADDRESSES, 5);
        let port = pick(random, &PORTS, 3);
        let ports = if random.below(3) == 0 {
            format!("ports: [{port}], ")
        } else {
            String::new()
        };
        let place = random.one_of(&[
            "node: b",
            "select: {container: c}",
            "select: {cgroup: /x}",
            "node: a",
            "udp: x",
        ]);
        line(format_args!(
            "  - {{name: {name}, namespace: {namespace}, addresses: [{address}], {ports}{place}, labels: {{app: {name}}}}}\n"
        ));
    }
    line(format_args!("services:\n"));
    for _ in 0..random.below(3) {
        let (name, namespace) = (pick(random, &NAMES, 4), pick(random, &NAMESPACES, 3));
        let (address, port) = (pick(random, &ADDRESSES, 5), pick(random, &PORTS, 3));
        let (endpoint, weight) = (pick(random, &NAMES, 4), pick(random, &WEIGHTS, 3));
        let place = if random.below(4) == 0 {
            format!("address: {}", pick(random, &ADDRESSES, 5))
        } else {
            format!("workload: {endpoint}")
        };
        line(format_args!(
            "  - {{name: {name}, namespace: {namespace}, addresses: [{address}], ports: [{{port: {port}}}], endpoints: [{{{place}, weight: {weight}}}], subsets: {{v1: {{app: {name}}}}}}}\n"
        ));
    }
    line(format_args!("routes:\n"));
    for _ in 0..random.below(3) {
        let (name, namespace) = (pick(random, &NAMES, 4), pick(random, &NAMESPACES, 3));
        let (service, weight) = (pick(random, &NAMES, 4), pick(random, &WEIGHTS, 3));
        let subset = random.one_of(&["v1", "v1", "v2"]);
        line(format_args!(
            "  - {{name: {name}, namespace: {namespace}, service: {service}, rules: [{{backends: [{{subset: {subset}, weight: {weight}}}]}}]}}\n"
        ));
    }
    line(format_args!("policies:\n"));
    for _ in 0..random.below(4) {
        let (name, namespace) = (pick(random, &NAMES, 4), pick(random, &NAMESPACES, 3));
        let target = pick(random, &TARGETS, 3);
        let (action, source) = (pick(random, &ACTIONS, 3), pick(random, &SOURCES, 5));
        let dry_run = random.one_of(&["false", "false", "false", "true"]);
        line(format_args!(
            "  - {{name: {name}, namespace: {namespace}, target: {target}, dryRun: {dry_run}, rules: [{{action: {action}, from: [{source}]}}]}}\n"
        ));
    }
    text
}

#[test]
fn assembled_pieces() {
    let mut random = Random(seed() ^ 0xa55e);
    let mut previous: Option<Objects> = None;
    let mut rejected = [0_usize; 5];
    let mut usable = 0;
    for round in 0..5000 {
        let text = assembled(&mut random);
        let before = previous.as_ref().filter(|_| round % 2 == 0);
        let evaluated = read(text.as_bytes(), before);
        closed(&text, &evaluated);
        for object in &evaluated.report.rejected {
            rejected[match object.kind {
                Kind::Workload => 0,
                Kind::Service => 1,
                Kind::Route => 2,
                Kind::Policy => 3,
                Kind::MtlsException => 4,
            }] += 1;
        }
        usable += usize::from(evaluated.report.usable);
        if let Some(objects) = evaluated.objects {
            previous = Some(objects);
        }
    }
    assert!(
        rejected[..4].iter().all(|count| *count > 200),
        "{rejected:?}"
    );
    assert!(usable > 2000, "{usable}");
}

/// Every policy that is rejected is there in a closed form: no enforced policy is lost.
fn closed(text: &str, evaluated: &Evaluated) {
    let Some(objects) = &evaluated.objects else {
        return;
    };
    let enforced = text
        .lines()
        .filter(|line| line.contains("dryRun: false"))
        .count();
    let applied = objects
        .policies
        .iter()
        .filter(|policy| !policy.dry_run)
        .count();
    assert_eq!(applied, enforced, "{text}\n{}", evaluated.report);
    for rejected in &evaluated.report.rejected {
        if rejected.kind == Kind::Policy && rejected.name.is_some() {
            let stand_in = objects
                .policies
                .iter()
                .filter(|policy| Some(&policy.name) == rejected.name.as_ref() && !policy.dry_run)
                .any(|policy| {
                    policy.rules.is_empty()
                        || policy
                            .rules
                            .iter()
                            .any(|rule| rule.name == "rejected-policy-denies-all")
                });
            let dry = rejected.consequence == "it is left out";
            assert!(stand_in || dry, "{rejected:?} in {text}");
        }
    }
}
