//! Large files: those made to exhaust the reader are refused at once, honest ones cost what their size costs.

mod clock;

use std::fmt::Write;
use std::path::Path;

use mesh_control::reconcile::Discovered;
use mesh_control::{Evaluated, evaluate};

use clock::cost;

#[test]
fn files_made_to_exhaust_are_refused_at_once() {
    let head = "apiVersion: warren.dev/v1alpha1\n";
    let mut bomb = format!("{head}x0: &x0 [a, a, a, a, a, a, a, a, a, a]\n");
    for level in 1..30 {
        let items = vec![format!("*x{}", level - 1); 10].join(", ");
        writeln!(bomb, "x{level}: &x{level} [{items}]").expect("a String takes everything");
    }
    let merges: String = (0..5000).fold(format!("{head}a: &a {{x: 1}}\nb:\n"), |text, _| {
        text + "  <<: *a\n"
    });
    let rules: String = (0..10_000).fold(
        format!("{head}policies:\n  - name: many\n    rules:\n"),
        |text, index| text + &format!("      - {{name: r{index}, action: allow}}\n"),
    );
    let blocks: String = (0..10_000).fold(head.to_owned(), |text, depth| {
        text + &" ".repeat(depth.min(2000)) + "a:\n"
    });
    let files = [
        ("aliases", bomb),
        ("merges", merges),
        (
            "flow nesting",
            format!("{head}node: {}", "[".repeat(10_000)),
        ),
        (
            "map nesting",
            format!("{head}node: {}", "{a: ".repeat(10_000)),
        ),
        ("block nesting", blocks),
        ("rules", rules),
        (
            "one long scalar",
            format!("{head}trustDomain: {}\n", "a".repeat(1 << 20)),
        ),
        (
            "one long key",
            format!("{head}{}: 1\n", "a".repeat(1 << 20)),
        ),
        (
            "anchors",
            (0..20_000).fold(head.to_owned(), |text, index| {
                text + &format!("k{index}: &a{index} 1\n")
            }),
        ),
        (
            "unknown keys",
            (0..20_000).fold(head.to_owned(), |text, index| {
                text + &format!("k{index}: 1\n")
            }),
        ),
    ];
    let honest = honest(5000);
    let yardstick = cost(|| drop(read(&honest)));
    println!("an honest file: {yardstick:?}");
    for (what, text) in files {
        let report = read(&text).report;
        assert!(report.errors() > 0, "{what} is not refused");
        let took = cost(|| drop(read(&text)));
        assert!(took < yardstick, "{what}: {took:?} of {yardstick:?}");
        println!("{what}: {took:?}, {}", report.summary());
    }
    let large = vec![b'#'; (16 << 20) + 1];
    let evaluated = evaluate(Path::new("large.yaml"), &large, Some("a"), None);
    assert!(evaluated.report.to_string().contains("larger than 16 MiB"));
}

#[test]
fn a_large_file_is_read_in_time_that_grows_with_its_size_only() {
    let costs = [1000, 5000].map(|workloads| {
        let text = honest(workloads);
        let evaluated = read(&text);
        assert_eq!(
            evaluated.report.mistakes,
            [],
            "{}",
            evaluated.report.summary()
        );
        let objects = evaluated.objects.expect("good");
        let reading = cost(|| drop(read(&text)));
        // Several times: once is not much more than the kernel's clock ticks.
        let linking = cost(|| {
            for _ in 0..8 {
                let world = objects.world(1, "a", &Discovered::new());
                drop(mesh_core::snapshot::Snapshot::new(world));
            }
        });
        println!(
            "{} KiB: read in {reading:?}, linked eight times in {linking:?}",
            text.len() >> 10
        );
        [reading, linking]
    });
    // Five times the objects: what looks at every pair of them would take twenty-five times as long.
    let [few, many] = costs;
    for (few, many) in few.into_iter().zip(many) {
        assert!(many < few * 12, "{many:?} instead of {few:?}");
    }
}

fn read(text: &str) -> Evaluated {
    evaluate(Path::new("large.yaml"), text.as_bytes(), Some("a"), None)
}

/// What a large mesh could well have: a fifth as many services, and a policy for each.
fn honest(workloads: usize) -> String {
    let mut text = String::from("apiVersion: warren.dev/v1alpha1\nworkloads:\n");
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        text.write_fmt(arguments)
            .expect("a String takes everything");
    };
    for index in 0..workloads {
        let (high, low) = (index / 250, index % 250 + 1);
        line(format_args!(
            "  - {{name: w{index}, namespace: n{high}, node: b, addresses: [10.{high}.0.{low}, \"fd00::{high}:{low}\"], labels: {{app: a{low}, version: v1}}}}\n"
        ));
    }
    line(format_args!("services:\n"));
    for index in 0..workloads / 5 {
        let (high, low) = (index / 50, index % 250 + 1);
        let first = high * 250 + index % 50 * 5;
        line(format_args!(
            "  - {{name: s{index}, namespace: n{high}, addresses: [10.200.{high}.{low}], ports: [{{port: 80}}], endpoints: [{{workload: w{first}}}, {{workload: w{}}}], subsets: {{v1: {{version: v1}}}}}}\n",
            first + 1
        ));
    }
    line(format_args!("policies:\n"));
    for index in 0..workloads / 5 {
        let high = index / 50;
        line(format_args!(
            "  - {{name: p{index}, namespace: n{high}, target: {{service: s{index}}}, rules: [{{action: allow, from: [{{namespace: n{high}}}]}}]}}\n"
        ));
    }
    text
}
