//! The configuration of a running node: changes are picked up, mistakes are told all at once and break nothing.
//! (The corpus of broken files is with the reader itself; here it is what a running node makes of a few.)

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::cluster::shop::Shop;
use mesh_tests::host::binary;
use mesh_tests::host::process::Launch;
use mesh_tests::story::story;
use serde_json::json;

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_change_is_picked_up_and_its_generation_shown() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let before = shop.a.status()?.configuration;
        ensure!(before.applied_generation == before.generation, "{before:?}");
        let report = shop
            .client
            .dial("10.200.0.9:80".parse()?, "plain", "hello")?;
        ensure!(
            report.received.is_empty(),
            "there is no such service yet: {report:?}"
        );

        cluster.configuration().service(
            "late",
            ["10.200.0.9".parse()?, "fd00:200::9".parse()?],
            (80, 8080),
            &[&shop.server],
        );
        cluster.apply()?;
        shop.client
            .session("10.200.0.9:80".parse()?)?
            .echo("found")?;
        shop.client
            .session("[fd00:200::9]:80".parse()?)?
            .echo("found")?;
        let after = shop.a.status()?.configuration;
        ensure!(
            after.generation > before.generation,
            "{before:?}, then {after:?}"
        );
        Ok(())
    })
}

#[test]
fn a_broken_file_changes_nothing() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let before = shop.a.status()?.configuration;
        let mut open = shop.client.session(shop.web4())?;
        open.echo("before")?;
        for broken in [
            "apiVersion: [",
            "",
            "services: 7\nworkloads: {}\n",
            "\u{0}\u{1}\u{2}",
            "&a [*a]",
        ] {
            cluster.write_text(broken)?;
            let status = shop.a.wait_status("the mistake is shown", SOON, |status| {
                !status.configuration.problems.is_empty()
            })?;
            ensure!(
                status.configuration.applied_generation == before.applied_generation,
                "the last good configuration stays: {status:?}"
            );
            ensure!(
                status.configuration.problems[0]
                    .message
                    .contains("warren.yaml"),
                "the mistake names the file: {status:?}"
            );
            ensure!(
                status.workloads.enrolled == 1,
                "nobody is thrown out: {status:?}"
            );
            shop.client.session(shop.web4())?.echo("works on")?;
            // Back to a good one, so that the next mistake is a new one.
            let good = cluster_text(cluster);
            cluster.write_text(&good)?;
            shop.a
                .wait_status("the good one is taken again", SOON, |status| {
                    status.configuration.problems.is_empty()
                })?;
        }
        open.echo("after")?;
        Ok(())
    })
}

fn cluster_text(cluster: &mut mesh_tests::cluster::Cluster) -> String {
    cluster.configuration().text()
}

#[test]
fn one_bad_object_rejects_only_itself() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        cluster
            .configuration()
            .put(
                "services",
                json!({
                    "name": "broken", "namespace": "shop", "addresses": ["10.200.0.300"],
                    "ports": [{"port": 80}], "endpoints": [{"workload": "server"}],
                }),
            )
            .service(
                "good",
                ["10.200.0.8".parse()?, "fd00:200::8".parse()?],
                (80, 8080),
                &[&shop.server],
            );
        cluster.apply()?;
        let status = shop.a.wait_status("the mistake is shown", SOON, |status| {
            !status.configuration.problems.is_empty()
        })?;
        ensure!(
            status
                .configuration
                .problems
                .iter()
                .any(|problem| problem.message.contains("10.200.0.300")),
            "{:?}",
            status.configuration
        );
        shop.client
            .session("10.200.0.8:80".parse()?)?
            .echo("the good one works")?;
        shop.client
            .session(shop.web4())?
            .echo("and so does what was there")?;
        Ok(())
    })
}

#[test]
fn a_file_replaced_or_rewritten_in_place_is_noticed() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        for (number, in_place) in [(11, true), (12, false), (13, true)] {
            let before = shop.a.status()?.configuration.generation;
            cluster.configuration().service(
                "moving",
                [
                    format!("10.200.0.{number}").parse()?,
                    format!("fd00:200::{number}").parse()?,
                ],
                (80, 8080),
                &[&shop.server],
            );
            let text = cluster_text(cluster);
            if in_place {
                fs::write(cluster.file(), text)?;
            } else {
                cluster.write_text(&text)?;
            }
            shop.a.wait_status("it is noticed", SOON, |status| {
                status.configuration.applied_generation > before
            })?;
            shop.client
                .session(format!("10.200.0.{number}:80").parse()?)?
                .echo("found")?;
        }
        Ok(())
    })
}

/// Runs `warren config validate` on a text; gives exit code and everything it said.
fn validate(text: &str) -> Result<(i32, String)> {
    let folder = std::env::temp_dir().join(format!("warren-validate-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let file = folder.join("warren.yaml");
    fs::write(&file, text)?;
    let output = std::process::Command::new(binary::warren()?)
        .args(["config", "validate", "--name", "a"])
        .arg(&file)
        .output()?;
    fs::remove_dir_all(&folder)?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[test]
fn validate_tells_every_mistake_with_its_place() -> Result<()> {
    let good = "apiVersion: warren.dev/v1alpha1\n\
        trustDomain: demo.warren\n\
        identity: {directory: /etc/warren/ca}\n\
        workloads:\n\
        \x20 - {name: client, node: a, addresses: [10.1.0.2], select: {networkNamespace: /run/netns/client}}\n";
    let (code, said) = validate(good)?;
    ensure!(code == 0, "a good file: {code}: {said}");

    let bad = "apiVersion: warren.dev/v1alpha1\n\
        trustDomain: demo.warren\n\
        identity: {directory: /etc/warren/ca}\n\
        workloads:\n\
        \x20 - {name: client, node: a, adresses: [10.1.0.2], select: {networkNamespace: /run/netns/client}}\n\
        services:\n\
        \x20 - name: web\n\
        \x20   addresses: [10.200.0.9]\n\
        \x20   ports: [{port: 70000}]\n\
        \x20   endpoints: [{workload: cleint}]\n";
    let (code, said) = validate(bad)?;
    ensure!(code == 1, "a bad file: {code}: {said}");
    for (what, line) in [("adresses", 5), ("70000", 9), ("cleint", 10)] {
        ensure!(said.contains(what), "{what:?} is not told of: {said}");
        ensure!(
            said.contains(&format!(":{line}:")),
            "line {line} is not named: {said}"
        );
    }
    ensure!(
        said.contains("addresses") && said.contains("client"),
        "it suggests what was meant: {said}"
    );
    Ok(())
}

#[test]
fn validate_of_a_missing_file_says_what_to_do() -> Result<()> {
    let (status, _) = Launch::new(binary::warren()?)
        .args(["config", "validate", "/nonexistent/warren.yaml"])
        .output()?;
    ensure!(status.code() == Some(1), "{status}");
    Ok(())
}

#[test]
fn a_node_without_a_good_first_configuration_says_so() -> Result<()> {
    story(&[], |cluster| {
        let node = cluster.node("a")?;
        cluster.write_text("apiVersion: [")?;
        node.start()?;
        mesh_tests::eventually::until(
            "the log says what is wrong",
            Duration::from_secs(15),
            || Ok(node.log_text().contains("warren.yaml")),
        )
    })
}
