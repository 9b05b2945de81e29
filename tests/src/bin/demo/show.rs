//! What is printed.

#![expect(clippy::print_stdout, reason = "a demo is there to be read")]

use anyhow::Result;
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::observe::Flow;
use mesh_tests::host::binary;

use crate::scene::Scene;

/// A heading.
pub(crate) fn step(text: &str) {
    println!("\n\u{1b}[1m▶ {text}\u{1b}[0m");
}

/// A line.
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// A flow with its identities.
pub(crate) fn flow_line(flow: &Flow) -> String {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
    let mut line = format!(
        "  {:7} {} → {}\n          {} → {}\n          {}",
        flow.verdict,
        known(&flow.source.workload),
        known(
            &flow
                .destination
                .service
                .clone()
                .or_else(|| flow.destination.workload.clone())
        ),
        known(&flow.source.identity),
        known(&flow.destination.identity),
        flow.reason,
    );
    let further = [
        ("", &flow.tls),
        ("", &flow.route),
        ("backend ", &flow.backend),
        ("endpoint ", &flow.destination.endpoint),
        ("rule ", &flow.rule),
    ];
    for (name, value) in further {
        if let Some(value) = value {
            line += &format!(" · {name}{value}");
        }
    }
    line + &format!(
        " · {} bytes out, {} in",
        flow.bytes_sent, flow.bytes_received
    )
}

/// Commands to try.
pub(crate) fn keep(cluster: &Cluster, scene: &Scene) -> Result<()> {
    let warren = binary::warren()?;
    let enter = binary::helper("warren-enter")?;
    let probe = binary::helper("warren-probe")?;
    step("Left running, to play with; Ctrl-C removes it");
    println!(
        "The configuration, read again whenever it changes (try other weights):\n  {}\n",
        cluster.file().display()
    );
    for node in [&scene.a, &scene.b] {
        println!("Node {}:", node.name());
        let verb = format!(
            "  {} --socket {}",
            warren.display(),
            node.socket().display()
        );
        for words in [
            "flows --follow",
            "status",
            "get workloads -o wide",
            "explain stranger.shop web.shop:80",
        ] {
            println!("{verb} {words}");
        }
    }
    for place in [&scene.client, &scene.stranger] {
        println!("\nInside {}:", place.name());
        println!(
            "  {} --namespace {} --cgroup {} -- \\\n    {} dial --to {} --send $'GET /\\r\\n'",
            enter.display(),
            place.namespace().name(),
            place.cgroup().path().display(),
            probe.display(),
            scene.web()
        );
    }
    println!(
        "\nBetween the nodes:\n  {} --namespace {} -- tcpdump -n -A -i any port 15008",
        enter.display(),
        cluster.wire().name()
    );
    Ok(())
}
