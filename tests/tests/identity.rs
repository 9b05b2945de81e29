//! Identities: certificates and roots are replaced while connections live, and nobody without one gets in.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::eventually::{always, until};
use mesh_tests::story::story;
use serde_json::{Value, json};

/// Serial numbers and issuers of the certificates that a node holds.
fn certificates(node: &Node) -> Result<Vec<(String, String)>> {
    let output = node.cli(&["get", "certs", "-o", "json"])?;
    ensure!(output.code == 0, "{output:?}");
    let json: Value = serde_json::from_str(&output.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(json["items"]
        .as_array()
        .context("a list of certificates")?
        .iter()
        .map(|item| (text(&item["serial"]), text(&item["issuer"])))
        .collect())
}

#[test]
fn certificates_are_renewed_while_connections_live() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        let authority = cluster.folder().join("authority");
        cluster.configuration().set(
            "identity",
            json!({"directory": authority, "certificateLifetime": "60s"}),
        );
        cluster.start(&[&shop.client, &shop.server])?;
        let mut session = shop.client.session(shop.web4())?;
        session.echo("before")?;
        let before = certificates(&shop.a)?;
        ensure!(!before.is_empty());
        // Renewed at half of their life.
        always("the connection lives", Duration::from_secs(45), || {
            std::thread::sleep(Duration::from_millis(200));
            session.echo("alive")?;
            let report = shop.client.dial(shop.web6(), "plain", "hello")?;
            Ok(report.received == "hello")
        })?;
        let after = certificates(&shop.a)?;
        ensure!(
            after
                .iter()
                .all(|certificate| !before.contains(certificate)),
            "not renewed: {before:?}, then {after:?}"
        );
        Ok(())
    })
}

#[test]
fn the_root_is_replaced_while_connections_live() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let directory = cluster.folder().join("authority");
        let directory = directory.to_string_lossy();
        let mut session = shop.client.session(shop.web4())?;
        session.echo("before")?;
        let before = certificates(&shop.a)?;
        let load = shop
            .client
            .load_for(shop.web6(), 2, Duration::from_secs(40))?;

        for step in ["stage", "activate", "finish"] {
            let output = shop
                .a
                .cli(&["ca", "rotate", step, "--directory", &directory])?;
            ensure!(output.code == 0, "{step}: {output:?}");
            if step == "activate" {
                until(
                    "every certificate is of the new root",
                    Duration::from_secs(25),
                    || {
                        let renewed = |node: &Node| -> Result<bool> {
                            Ok(certificates(node)?
                                .iter()
                                .all(|(_, issuer)| before.iter().all(|(_, old)| old != issuer)))
                        };
                        Ok(renewed(&shop.a)? && renewed(&shop.b)?)
                    },
                )?;
            } else {
                // Nodes look at the authority's folder; what they must not do is refuse each other meanwhile.
                always("connections are made", Duration::from_secs(4), || {
                    std::thread::sleep(Duration::from_millis(200));
                    Ok(shop.client.dial(shop.web4(), "plain", "hello")?.received == "hello")
                })?;
            }
        }
        let count = load.finish()?;
        ensure!(
            count.failed() == 0,
            "refused during the rotation: {count:?}"
        );
        Ok(())
    })
}

#[test]
fn a_node_with_another_authority_gets_nowhere() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        cluster
            .configuration()
            .enrol(&shop.client)
            .enrol(&shop.server);
        cluster.write()?;
        shop.a.start()?;
        shop.a.wait_ready()?;
        // The same trust domain and names, but another authority.
        let other = cluster.folder().join("another-authority");
        cluster.configuration().set(
            "identity",
            json!({"directory": other, "certificateLifetime": "24h"}),
        );
        let file = cluster.folder().join("other.yaml");
        std::fs::write(&file, cluster.configuration().text())?;
        shop.b.start_with(&file)?;
        shop.b.wait_ready()?;

        for to in [shop.web4(), shop.web6(), shop.server.at(8080)] {
            let report = shop.client.dial(to, "plain", "hello")?;
            ensure!(
                report.received.is_empty() && report.error.is_some(),
                "{to}: {report:?}"
            );
        }
        let flow = shop
            .a
            .wait_flow("that says why", &["--verdict", "denied"], |flow| {
                flow.reason == "peer_identity"
            })?;
        ensure!(flow.bytes_received == 0, "{flow:?}");
        Ok(())
    })
}

#[test]
fn keys_are_in_no_file_log_or_dump() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        shop.client.session(shop.web4())?.echo("hello")?;
        for node in [&shop.a, &shop.b] {
            ensure!(
                !node.log_text().contains("PRIVATE KEY"),
                "a key is in the log"
            );
        }
        let found = mesh_tests::host::command::run(
            "find",
            &[
                &cluster.folder().to_string_lossy(),
                "-xdev",
                "-path",
                "*/authority",
                "-prune",
                "-o",
                "-type",
                "f",
                "-size",
                "-1024k",
                "-print",
            ],
        )?;
        for file in found.lines() {
            let bytes = std::fs::read(file).unwrap_or_default();
            ensure!(
                !bytes.windows(11).any(|window| window == b"PRIVATE KEY"),
                "a key is in {file}"
            );
        }
        Ok(())
    })
}
