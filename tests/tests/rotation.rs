//! Certificates and roots are replaced under load, and nobody notices; what is no longer proven is cut, and somebody does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::place::Pace;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::eventually::until;
use mesh_tests::impostor::caller::{Answer, Caller};
use mesh_tests::impostor::papers::{Papers, Signer};
use mesh_tests::probe::pace::{Paced, Plan};
use mesh_tests::story::story;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// 500 requests per second over kept connections, and 50 new connections per second.
const LOAD: Plan = Plan {
    requests: 500,
    kept: 10,
    age: None,
    connections: 50,
    time: Duration::from_secs(100),
};

/// Nodes look at the authority's folder every second, and the machine may be busy.
const SEEN: Duration = Duration::from_secs(15);

/// How long an open connection may live after the configuration no longer allows it.
const TWO_SECONDS: Duration = Duration::from_secs(2);

/// How long until connections that are no longer proven are cut: nodes look every second, and cut within two.
const CUT: Duration = Duration::from_secs(3);

/// A certificate that a node holds.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Held {
    issuer: String,
}

fn certificates(node: &Node) -> Result<Vec<Held>> {
    let output = node.cli(&["get", "certs", "-o", "json"])?;
    ensure!(output.code == 0, "{output:?}");
    let json: Value = serde_json::from_str(&output.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(json["items"]
        .as_array()
        .context("a list of certificates")?
        .iter()
        .map(|item| Held {
            issuer: text(&item["issuer"]),
        })
        .collect())
}

/// Agents and workers of both nodes: the same before and after, or something was restarted.
fn processes(shop: &Shop) -> Result<Vec<i32>> {
    let agents = vec![shop.a.agent_id()?, shop.b.agent_id()?];
    Ok([agents, shop.a.worker_ids(), shop.b.worker_ids()].concat())
}

/// Ends the load. Nothing may have failed, and enough must have been asked to prove it on a busy machine.
fn nothing_failed(load: Pace, shop: &Shop) -> Result<Paced> {
    let paced = load.stop()?;
    eprintln!("{paced:?}");
    let failures: Vec<String> = [&shop.a, &shop.b]
        .iter()
        .flat_map(|node| node.flows(&["--verdict", "failed"]))
        .flatten()
        .map(|flow| format!("{flow:?}"))
        .take(10)
        .collect();
    ensure!(paced.failed() == 0, "failed: {paced:?}\n{failures:#?}");
    let planned = paced.millis / 1_000 * u64::from(LOAD.requests);
    ensure!(
        paced.requests > planned / 3 && paced.connections > planned / 30,
        "too little to prove anything: {paced:?}"
    );
    Ok(paced)
}

#[test]
fn certificates_of_ten_seconds_under_load_for_a_minute() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        let outsider = cluster.outsider()?;
        let authority = cluster.folder().join("authority");
        cluster.configuration().set(
            "identity",
            json!({"directory": authority, "certificateLifetime": "10s"}),
        );
        cluster.start(&[&shop.client, &shop.server])?;
        let before = processes(&shop)?;
        let watcher = Signer::of_mesh(&authority, "signer")?.good("client")?;
        let mut session = shop.client.session(shop.web6())?;
        let load = shop.client.pace(shop.web4(), LOAD)?;

        let began = Instant::now();
        let (mut serials, mut least) = (BTreeSet::new(), i64::MAX);
        while began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(300));
            session.echo("alive")?;
            // What is on the wire, whatever the node says of itself.
            let (serial, left) = shown(&outsider, &shop, &watcher)?;
            ensure!(left > 0, "an expired certificate is on the wire: {left} s");
            serials.insert(serial);
            least = least.min(left);
        }
        let paced = nothing_failed(load, &shop)?;
        session.echo("still the same connection")?;
        ensure!(before == processes(&shop)?, "something was restarted");
        eprintln!(
            "{} requests and {} connections with {} certificates, never less than {least} s before their end",
            paced.requests,
            paced.connections,
            serials.len()
        );
        // Renewed at 4 to 6 tenths of their life: ten to fifteen in a minute.
        ensure!(serials.len() >= 8, "too few renewals: {serials:?}");
        Ok(())
    })
}

/// Serial number of the certificate that the server's node shows, and the seconds for which it is still valid.
fn shown(
    from: &mesh_tests::cluster::place::Place,
    shop: &Shop,
    papers: &Papers,
) -> Result<(String, i64)> {
    let caller = Caller::dial(from.namespace(), shop.server.at(0), Some(papers))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let leaf = caller.shown()?;
    let (_, certificate) = X509Certificate::from_der(&leaf)?;
    let end = certificate.validity().not_after.timestamp();
    Ok((certificate.raw_serial_as_string(), end - now as i64))
}

/// A step of a rotation, as an operator takes it.
fn rotate(cluster: &Cluster, shop: &Shop, step: &str) -> Result<()> {
    let directory = cluster.folder().join("authority");
    let output = shop.a.cli(&[
        "ca",
        "rotate",
        step,
        "--directory",
        &directory.to_string_lossy(),
    ])?;
    ensure!(output.code == 0, "{step}: {output:?}");
    Ok(())
}

#[test]
fn the_root_is_replaced_three_times_under_load() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let before = processes(&shop)?;
        // Clients that keep connections for a while, as clients do: none may be older than the new root's certificates
        // when the old root goes.
        let age = Duration::from_secs(2);
        let plan = Plan {
            age: Some(age),
            ..LOAD
        };
        let load = shop.client.pace(shop.web4(), plan)?;
        // Nodes do not look at the same moment. Each is late once: what the other one makes meanwhile must not outlive the
        // old root's certificates either.
        for late in [None, Some(&shop.b), Some(&shop.a)] {
            let old = [certificates(&shop.a)?, certificates(&shop.b)?].concat();
            rotate(cluster, &shop, "stage")?;
            every_node_trusts(&shop, 2)?;
            if let Some(late) = late {
                late.pause_agent()?;
            }
            rotate(cluster, &shop, "activate")?;
            if let Some(late) = late {
                std::thread::sleep(Duration::from_secs(2));
                late.resume_agent()?;
            }
            every_certificate_is_new(&shop, &old)?;
            std::thread::sleep(age + Duration::from_secs(1));
            rotate(cluster, &shop, "finish")?;
            every_node_trusts(&shop, 1)?;
        }
        std::thread::sleep(Duration::from_secs(2));
        nothing_failed(load, &shop)?;
        ensure!(before == processes(&shop)?, "something was restarted");
        Ok(())
    })
}

/// Waits until both nodes hold certificates of another root only.
fn every_certificate_is_new(shop: &Shop, old: &[Held]) -> Result<()> {
    until("every certificate is of the new root", SEEN, || {
        Ok([certificates(&shop.a)?, certificates(&shop.b)?]
            .concat()
            .iter()
            .all(|held| old.iter().all(|old| old.issuer != held.issuer)))
    })
}

/// Waits until both nodes trust so many roots.
fn every_node_trusts(shop: &Shop, roots: u64) -> Result<()> {
    for node in [&shop.a, &shop.b] {
        node.wait_status(&format!("{roots} roots are trusted"), SEEN, |status| {
            status.trusted_roots == roots
        })?;
    }
    Ok(())
}

#[test]
fn what_only_the_removed_root_proves_is_cut() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let outsider = cluster.outsider()?;
        let authority = cluster.folder().join("authority");
        let to = shop.server.at(8080);
        let call = |papers: &Papers| -> Result<Caller> {
            let mut caller = Caller::dial(outsider.namespace(), to, Some(papers))?;
            let answer = caller.open(to, "");
            ensure!(answer == Answer::Taken, "{answer:?}");
            caller.echo("hello")?;
            Ok(caller)
        };
        let old = Signer::of_mesh(&authority, "signer")?.good("client")?;
        rotate(cluster, &shop, "stage")?;
        every_node_trusts(&shop, 2)?;
        // Both roots are good now, whichever signed.
        let new = Signer::of_mesh(&authority, "next")?.good("client")?;
        let (mut of_old, mut of_new) = (call(&old)?, call(&new)?);
        let mut before = shop.client.session(shop.web4())?;
        before.echo("hello")?;
        let held = [certificates(&shop.a)?, certificates(&shop.b)?].concat();
        rotate(cluster, &shop, "activate")?;
        every_certificate_is_new(&shop, &held)?;
        let mut after = shop.client.session(shop.web6())?;
        for session in [&mut before, &mut after] {
            session.echo("both roots are trusted")?;
        }
        of_old.echo("both roots are trusted")?;

        rotate(cluster, &shop, "finish")?;
        let finished = Instant::now();
        of_old.ended(CUT)?;
        let answer = before.tell_within("end 5000", Duration::from_secs(8))?;
        ensure!(
            answer.error.as_deref() == Some("ECONNRESET"),
            "what only the old root proves is reset: {answer:?}"
        );
        eprintln!("cut after {} ms", finished.elapsed().as_millis());
        ensure!(finished.elapsed() < CUT, "{:?}", finished.elapsed());
        // The node that looks first says why; the other one may only see the tunnel end.
        shop.b
            .wait_flow("that says so", &["--verdict", "denied"], |flow| {
                flow.reason == "identity_revoked"
                    && flow
                        .detail
                        .as_deref()
                        .is_some_and(|words| words.contains("no longer trusted"))
            })?;
        of_new.echo("the new root goes on")?;
        after.echo("the new root goes on")?;
        call(&new)?;
        shop.client.session(shop.web4())?.echo("hello")?;

        // And the old root's papers are worth nothing any more.
        let mut caller = Caller::dial(outsider.namespace(), to, Some(&old))?;
        let answer = caller.open(to, "hello");
        ensure!(matches!(answer, Answer::Ended(_)), "{answer:?}");
        shop.b
            .wait_flow("that refuses the old root", &[], |flow| {
                flow.reason == "peer_identity"
                    && flow
                        .detail
                        .as_deref()
                        .is_some_and(|words| words.contains("none of the 1 trusted roots"))
            })
            .map(drop)
    })
}

#[test]
fn an_identity_that_is_denied_loses_its_connections() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        let other = shop.a.pod("other")?;
        let outsider = cluster.outsider()?;
        cluster.start(&[&shop.client, &shop.server, &other])?;
        let mut kept = other.session(shop.web6())?;
        let mut cut = shop.client.session(shop.web4())?;
        // A stolen certificate: good, and used from somewhere else.
        let papers = Signer::of_mesh(&cluster.folder().join("authority"), "signer")?;
        let stolen = papers.good("client")?;
        let to = shop.server.at(8080);
        let mut thief = Caller::dial(outsider.namespace(), to, Some(&stolen))?;
        ensure!(thief.open(to, "") == Answer::Taken);
        thief.echo("open")?;
        for session in [&mut kept, &mut cut] {
            session.echo("open")?;
        }

        cluster.configuration().policy(
            "revoked",
            json!({"workload": "server"}),
            json!([
                {"name": "stolen", "action": "deny", "from": [{"serviceAccount": "shop/client"}]},
                {"name": "rest", "action": "allow", "from": [{"authenticated": true}]},
            ]),
        );
        cut.begin("end 10000")?;
        let changed = Instant::now();
        cluster.write()?;
        let answer = cut.answer(TWO_SECONDS)?;
        ensure!(
            answer.error.as_deref() == Some("ECONNRESET"),
            "cut means reset: {answer:?}"
        );
        let refused = thief.reset(TWO_SECONDS)?;
        eprintln!("cut after {} ms ({refused})", changed.elapsed().as_millis());
        ensure!(changed.elapsed() < TWO_SECONDS, "{:?}", changed.elapsed());
        kept.echo("not touched")?;
        let mut again = Caller::dial(outsider.namespace(), to, Some(&stolen))?;
        let answer = again.open(to, "hello");
        ensure!(matches!(answer, Answer::Refused(..)), "{answer:?}");
        for from in [outsider.v4, shop.client.v4] {
            let flow = shop
                .b
                .wait_flow("that says so", &["--verdict", "denied"], |flow| {
                    flow.reason == "policy_revoked"
                        && flow
                            .source
                            .address
                            .as_deref()
                            .is_some_and(|address| address.starts_with(&format!("{from}:")))
                })?;
            ensure!(
                flow.rule
                    .as_deref()
                    .is_some_and(|rule| rule.contains("stolen")),
                "{flow:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_server_that_becomes_somebody_else_loses_its_clients() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let mut cut = shop.client.session(shop.web4())?;
        cut.echo("open")?;
        cluster
            .configuration()
            .enrol_with(&shop.server, json!({"serviceAccount": "another"}));
        cut.begin("end 10000")?;
        let changed = Instant::now();
        cluster.write()?;
        let answer = cut.answer(TWO_SECONDS)?;
        eprintln!("cut after {} ms", changed.elapsed().as_millis());
        ensure!(
            answer.error.as_deref() == Some("ECONNRESET"),
            "cut means reset: {answer:?}"
        );
        let flow = shop
            .a
            .wait_flow("that says so", &["--verdict", "denied"], |flow| {
                flow.reason == "identity_revoked"
            })?;
        ensure!(
            flow.detail
                .as_deref()
                .is_some_and(|words| words.contains("sa/another")),
            "{flow:?}"
        );
        until("it is reached under its new name", SEEN, || {
            let report = shop.client.dial(shop.web6(), "plain", "hello")?;
            Ok(report.received == "hello")
        })
    })
}
