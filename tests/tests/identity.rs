//! Identities: nobody gets in, or is spoken to, without the right one. How they are renewed is told in `rotation`.

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::impostor::caller::{Answer, Caller};
use mesh_tests::impostor::papers::{Bad, Papers, Signer};
use mesh_tests::impostor::server::Impostor;
use mesh_tests::story::story;
use serde_json::json;

/// Words that no record and no application may ever see.
const WORDS: &str = "let me in";

#[test]
fn an_impostor_who_dials_is_refused_for_what_is_wrong_with_it() -> Result<()> {
    story(&[], |cluster| {
        let mut shop = Shop::open(cluster, &[])?;
        let outsider = cluster.outsider()?;
        let mesh = Signer::of_mesh(&cluster.folder().join("authority"), "signer")?;
        let dial = |papers: Option<&Papers>, to| -> Result<Answer> {
            let mut caller = Caller::dial(outsider.namespace(), to, papers)?;
            let answer = caller.open(to, WORDS);
            if answer == Answer::Taken {
                caller.expect(WORDS)?;
            }
            Ok(answer)
        };

        // With good papers it gets through, in both families; so nothing else is wrong with it.
        for to in shop.server.both(8080) {
            let answer = dial(Some(&mesh.good("client")?), to)?;
            ensure!(answer == Answer::Taken, "with good papers: {answer:?}");
            let seen = shop.application.accepted()?;
            ensure!(seen.ip() == outsider.beside(to), "{seen}");
            shop.application.closed()?;
        }

        let mut last = last_flow(&shop.b)?;
        for (number, Bad { what, says, papers }) in mesh.bad("client")?.into_iter().enumerate() {
            let to = shop.server.both(8080)[number % 2];
            let answer = dial(papers.as_ref(), to)?;
            ensure!(matches!(answer, Answer::Ended(_)), "{what}: {answer:?}");
            let flow = shop
                .b
                .wait_flow(&format!("that refuses {what}"), &[], |flow| {
                    flow.id > last && flow.direction == "inbound" && flow.reason == "peer_identity"
                })?;
            ensure!(
                flow.verdict == "denied"
                    && flow.bytes_sent == 0
                    && flow.destination.workload.as_deref() == Some("server.shop")
                    && flow
                        .detail
                        .as_deref()
                        .is_some_and(|words| words.contains(says)),
                "{what}: the record must say {says:?}: {flow:?}"
            );
            eprintln!("{what}: {}", flow.detail.unwrap_or_default());
            last = flow.id;
        }

        // A good name of somebody who may not: refused by policy, as that name.
        cluster.configuration().policy(
            "callers",
            json!({"workload": "server"}),
            json!([{"name": "client-only", "action": "allow", "from": [{"serviceAccount": "shop/client"}]}]),
        );
        cluster.apply()?;
        let to = shop.server.at(8080);
        let answer = dial(Some(&mesh.good("stranger")?), to)?;
        ensure!(
            matches!(answer, Answer::Refused(..)),
            "the wrong name: {answer:?}"
        );
        ensure!(dial(Some(&mesh.good("client")?), to)? == Answer::Taken);
        // A good name, but for another workload than the one that it dialled.
        let mut caller = Caller::dial(outsider.namespace(), to, Some(&mesh.good("client")?))?;
        let answer = caller.open(shop.client.at(8080), WORDS);
        ensure!(
            matches!(answer, Answer::Refused(..)),
            "through the wrong door: {answer:?}"
        );

        // Of all these the application saw one: the one that may.
        ensure!(shop.application.accepted()?.ip() == outsider.v4);
        shop.application.closed()?;
        shop.client.session(to)?.echo("hello")?;
        ensure!(shop.application.accepted()?.ip() == shop.client.v4);
        Ok(())
    })
}

#[test]
fn an_impostor_who_is_dialled_gets_no_byte() -> Result<()> {
    story(&[], |cluster| {
        // The server is in the configuration, but on its node nothing runs except the impostor.
        let shop = Shop::build(cluster, &[])?;
        cluster
            .configuration()
            .enrol(&shop.client)
            .enrol(&shop.server);
        cluster.write()?;
        shop.a.start()?;
        shop.a.wait_ready()?;
        let mesh = Signer::of_mesh(&cluster.folder().join("authority"), "signer")?;
        let impostor = Impostor::listen(shop.server.namespace(), mesh.good("server")?)?;

        // With good papers it is believed, in both families; so nothing else is wrong with it.
        for to in shop.web {
            let report = shop.client.dial(to, "plain", WORDS)?;
            ensure!(report.received == WORDS, "with good papers: {report:?}");
        }

        let mut bad = mesh.bad("server")?;
        bad.retain(|bad| bad.papers.is_some());
        bad.push(Bad {
            what: "the wrong name",
            says: "expected",
            papers: Some(mesh.good("other")?),
        });
        let mut last = last_flow(&shop.a)?;
        for (number, Bad { what, says, papers }) in bad.into_iter().enumerate() {
            impostor.show(papers.context("an impostor shows something")?);
            let to = shop.web[number % 2];
            let report = shop.client.dial(to, "plain", WORDS)?;
            ensure!(
                report.error.is_some() && report.received.is_empty(),
                "{what}: {report:?}"
            );
            let met = impostor.met()?;
            ensure!(
                met.frames.is_empty(),
                "{what}: the client spoke to it: {met:?}"
            );
            let flow = shop
                .a
                .wait_flow(&format!("that refuses {what}"), &[], |flow| {
                    flow.id > last && flow.reason == "peer_identity"
                })?;
            ensure!(
                flow.verdict == "denied"
                    && flow.direction == "outbound"
                    && flow.source.workload.as_deref() == Some("client.shop")
                    && flow
                        .detail
                        .as_deref()
                        .is_some_and(|words| words.contains(says)),
                "{what}: the record must say {says:?}: {flow:?}"
            );
            eprintln!("{what}: {}", flow.detail.unwrap_or_default());
            last = flow.id;
        }

        impostor.show(mesh.good("server")?);
        let report = shop.client.dial(shop.web4(), "plain", WORDS)?;
        ensure!(
            report.received == WORDS,
            "with good papers again: {report:?}"
        );
        Ok(())
    })
}

/// The newest flow of a node.
fn last_flow(node: &Node) -> Result<u64> {
    Ok(node.flows(&[])?.last().map_or(0, |flow| flow.id))
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
