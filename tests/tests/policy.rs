//! Who may talk to whom, how fast a change counts, and that every answer names its rule.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::Cluster;
use mesh_tests::cluster::capture::MARKER;
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::observe::Flow;
use mesh_tests::cluster::place::Place;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::eventually::{eventually, until};
use mesh_tests::story::story;
use serde_json::{Value, json};

/// A shop with a second caller.
fn shop_with_other(cluster: &mut Cluster) -> Result<(Shop, Place)> {
    let shop = Shop::build(cluster, &[])?;
    let other = shop.a.pod("other")?;
    cluster.start(&[&shop.client, &shop.server, &other])?;
    Ok((shop, other))
}

fn rule(name: &str, action: &str, caller: &str) -> Value {
    json!({"name": name, "action": action, "from": [{"serviceAccount": format!("shop/{caller}")}]})
}

/// From now on the client is the only one that may call the shop.
fn only_client_may(cluster: &mut Cluster) -> Result<()> {
    cluster.configuration().policy(
        "callers",
        json!({"service": "web"}),
        json!([rule("client-only", "allow", "client")]),
    );
    cluster.apply()
}

/// Announces an uninstall to a node's agent, as the pods of `warren uninstall --kubernetes` do.
fn announce_uninstall(node: &Node, more: &[&str]) -> Result<()> {
    let socket = node.socket();
    let run_dir = socket.parent().context("it is in a folder")?;
    let run_dir = format!("--run-dir={}", run_dir.display());
    let announced = node.cli(&[&["uninstall", "--on-node=open", &run_dir], more].concat())?;
    ensure!(announced.code == 0, "{}", announced.stderr);
    Ok(())
}

fn works(from: &Place, shop: &Shop) -> Result<bool> {
    let report = from.dial(shop.web4(), "plain", "hello")?;
    Ok(report.error.is_none() && report.received == "hello")
}

/// The inbound flow of a refused connection, as the server's node tells it.
fn denial(node: &Node, from: &Place) -> Result<Flow> {
    node.wait_flow(
        &format!("that denies {}", from.name()),
        &["--verdict", "denied"],
        |flow| {
            flow.direction == "inbound"
                && flow.source.workload.as_deref() == Some(&format!("{}.shop", from.name()))
        },
    )
}

#[test]
fn everybody_may_until_a_policy_selects() -> Result<()> {
    story(&[], |cluster| {
        let (shop, other) = shop_with_other(cluster)?;
        ensure!(
            works(&shop.client, &shop)? && works(&other, &shop)?,
            "nothing selects: all of the mesh may"
        );

        cluster.configuration().policy(
            "callers",
            json!({"workload": "server"}),
            json!([rule("client-only", "allow", "client")]),
        );
        cluster.apply()?;
        ensure!(works(&shop.client, &shop)?, "the rule allows the client");
        ensure!(
            !works(&other, &shop)?,
            "once selected, what no rule allows is denied"
        );

        let denied = denial(&shop.b, &other)?;
        ensure!(denied.reason == "no_rule_allows", "{denied:?}");
        let allowed = shop
            .b
            .wait_flow("of the client", &["--verdict", "allowed"], |flow| {
                flow.rule
                    .as_deref()
                    .is_some_and(|rule| rule.contains("client-only"))
            })?;
        ensure!(
            allowed
                .rule
                .as_deref()
                .is_some_and(|rule| rule.contains("callers")),
            "{allowed:?}"
        );
        Ok(())
    })
}

#[test]
fn a_denied_caller_sees_a_reset_and_no_byte_arrives() -> Result<()> {
    story(&[], |cluster| {
        let (mut shop, other) = shop_with_other(cluster)?;
        only_client_may(cluster)?;
        for to in [
            shop.web4(),
            shop.web6(),
            shop.server.at(8080),
            shop.server.at6(8080),
        ] {
            let report = other.dial(to, "plain", MARKER)?;
            ensure!(
                matches!(
                    report.error.as_deref(),
                    Some("ECONNRESET" | "EPIPE" | "ECONNREFUSED")
                ),
                "{to}: a reset, not an orderly end: {report:?}"
            );
            ensure!(report.received.is_empty(), "{to}: {report:?}");
        }
        ensure!(works(&shop.client, &shop)?);
        // The first client that the application ever saw is the allowed one.
        ensure!(shop.application.accepted()?.ip() == shop.client.v4);
        Ok(())
    })
}

#[test]
fn deny_wins_over_allow() -> Result<()> {
    story(&[], |cluster| {
        let (shop, other) = shop_with_other(cluster)?;
        cluster
            .configuration()
            .policy(
                "callers",
                json!({"service": "web"}),
                json!([{"name": "everybody", "action": "allow", "from": [{"authenticated": true}]}]),
            )
            .policy(
                "banned",
                json!({"workload": "server"}),
                json!([rule("not-other", "deny", "other")]),
            );
        cluster.apply()?;
        ensure!(works(&shop.client, &shop)?, "everybody may");
        ensure!(!works(&other, &shop)?, "but for the one that is denied");
        let denied = denial(&shop.b, &other)?;
        ensure!(denied.reason == "policy_denied", "{denied:?}");
        ensure!(
            denied
                .rule
                .as_deref()
                .is_some_and(|rule| rule.contains("banned") && rule.contains("not-other")),
            "the record names the rule: {denied:?}"
        );
        // The caller's node tells of it too.
        shop.a.wait_flow(
            "that tells the caller's side",
            &["--direction", "outbound"],
            |flow| {
                flow.verdict == "denied" && flow.source.workload.as_deref() == Some("other.shop")
            },
        )?;
        Ok(())
    })
}

#[test]
fn a_dry_run_denies_nothing() -> Result<()> {
    story(&[], |cluster| {
        let (shop, other) = shop_with_other(cluster)?;
        cluster.configuration().put(
            "policies",
            json!({
                "name": "planned", "namespace": "shop", "target": {"workload": "server"}, "dryRun": true,
                "rules": [rule("client-only", "allow", "client")],
            }),
        );
        cluster.apply()?;
        ensure!(works(&other, &shop)?, "a dry run only tells");
        Ok(())
    })
}

#[test]
fn a_change_reaches_new_connections_within_half_a_second() -> Result<()> {
    story(&[], |cluster| {
        let (shop, other) = shop_with_other(cluster)?;
        for round in 0..3 {
            ensure!(works(&other, &shop)?, "round {round}: allowed before");
            cluster.configuration().policy(
                "callers",
                json!({"workload": "server"}),
                json!([rule("client-only", "allow", "client")]),
            );
            let changed = Instant::now();
            cluster.write()?;
            until("denied", Duration::from_millis(500), || {
                Ok(!works(&other, &shop)?)
            })?;
            ensure!(works(&shop.client, &shop)?, "the client is not touched");
            eprintln!(
                "round {round}: denied after {} ms",
                changed.elapsed().as_millis()
            );

            cluster.configuration().remove("policies", "callers");
            let changed = Instant::now();
            cluster.write()?;
            until("allowed again", Duration::from_millis(500), || {
                works(&other, &shop)
            })?;
            eprintln!(
                "round {round}: allowed after {} ms",
                changed.elapsed().as_millis()
            );
        }
        Ok(())
    })
}

#[test]
fn a_change_cuts_open_connections_within_two_seconds() -> Result<()> {
    story(&[], |cluster| {
        let (shop, other) = shop_with_other(cluster)?;
        let mut kept = shop.client.session(shop.web4())?;
        let mut cut = other.session(shop.web4())?;
        kept.echo("both are open")?;
        cut.echo("both are open")?;

        cluster.configuration().policy(
            "callers",
            json!({"workload": "server"}),
            json!([rule("client-only", "allow", "client")]),
        );
        cut.begin("end 10000")?;
        let changed = Instant::now();
        cluster.write()?;
        let answer = cut.answer(Duration::from_secs(2))?;
        eprintln!("cut after {} ms", changed.elapsed().as_millis());
        ensure!(
            answer.error.as_deref() == Some("ECONNRESET"),
            "cut means reset: {answer:?}"
        );
        kept.echo("what is still allowed goes on")?;

        let flow = shop
            .b
            .wait_flow("of the cut connection", &["--verdict", "denied"], |flow| {
                flow.reason == "policy_revoked"
            })?;
        ensure!(
            flow.source.workload.as_deref() == Some("other.shop"),
            "{flow:?}"
        );
        ensure!(flow.bytes_sent > 0, "it had carried something: {flow:?}");
        ensure!(
            flow.rule.is_some() || flow.detail.is_some(),
            "it says why: {flow:?}"
        );
        Ok(())
    })
}

#[test]
fn plaintext_from_outside_is_refused_unless_permitted() -> Result<()> {
    story(&[], |cluster| {
        let mut shop = Shop::build(cluster, &["9100=echo"])?;
        let outsider = cluster.outsider()?;
        cluster.start(&[&shop.client, &shop.server])?;

        for to in shop.server.both(8080) {
            let report = outsider.dial(to, "plain", "hello")?;
            ensure!(
                report.received.is_empty() && report.error.is_some(),
                "{to}: {report:?}"
            );
        }
        let refused = shop
            .b
            .wait_flow("of the refusal", &["--verdict", "denied"], |flow| {
                flow.reason == "plaintext_refused"
            })?;
        ensure!(refused.source.identity.is_none(), "{refused:?}");

        cluster.configuration().set(
            "mtls",
            json!({"mode": "strict", "exceptions": [{
                "name": "metrics", "namespace": "shop", "target": {"workload": "server"}, "ports": [9100], "mode": "permissive",
            }]}),
        );
        cluster.apply()?;
        for to in shop.server.both(9100) {
            let report = outsider.dial(to, "plain", "hello")?;
            ensure!(report.received == "hello", "{to} is permitted: {report:?}");
            let seen = shop.application.accepted()?;
            ensure!(
                seen.ip() == outsider.beside(to),
                "the server sees the true client: {seen}"
            );
        }
        let clear = shop.b.wait_flow(
            "in clear",
            &["--transport", "plaintext", "--verdict", "allowed"],
            |_| true,
        )?;
        ensure!(
            clear.source.identity.is_none() && clear.bytes_sent > 0,
            "{clear:?}"
        );
        let report = outsider.dial(shop.server.at(8080), "plain", "hello")?;
        ensure!(
            report.received.is_empty(),
            "the exception is for one port: {report:?}"
        );

        // In clear there is no identity, so a policy that asks for one denies.
        cluster.configuration().policy(
            "known",
            json!({"workload": "server"}),
            json!([{"name": "known", "action": "allow", "from": [{"authenticated": true}]}]),
        );
        cluster.apply()?;
        let report = outsider.dial(shop.server.at(9100), "plain", "hello")?;
        ensure!(report.received.is_empty(), "{report:?}");
        Ok(())
    })
}

#[test]
fn a_node_that_is_to_be_uninstalled_refuses_nobody() -> Result<()> {
    story(&[], |cluster| {
        let (shop, other) = shop_with_other(cluster)?;
        let outsider = cluster.outsider()?;
        only_client_may(cluster)?;
        let plain = || outsider.dial(shop.server.at(8080), "plain", "hello");
        ensure!(plain()?.received.is_empty() && !works(&other, &shop)?);

        announce_uninstall(&shop.b, &[])?;
        ensure!(plain()?.received == "hello", "it comes in clear");
        ensure!(works(&other, &shop)?, "no rule allows it");
        // Nothing goes in clear that did not before.
        shop.b
            .wait_flow("as encrypted as ever", &["--from=other"], |flow| {
                flow.verdict == "allowed" && flow.transport == "mutual_tls"
            })
            .map(drop)
    })
}

#[test]
fn an_uninstall_that_does_not_follow_leaves_nothing_open() -> Result<()> {
    story(&[], |cluster| {
        let (shop, other) = shop_with_other(cluster)?;
        let outsider = cluster.outsider()?;
        only_client_may(cluster)?;
        announce_uninstall(&shop.b, &["--open-for=10s"])?;
        ensure!(works(&other, &shop)?, "nobody is refused");
        let checked = || -> Result<String> { Ok(shop.b.cli(&["check"])?.stdout) };
        ensure!(checked()?.contains("nobody is refused"), "{}", checked()?);

        until("it is closed again", Duration::from_secs(30), || {
            Ok(!works(&other, &shop)?)
        })?;
        let plain = outsider.dial(shop.server.at(8080), "plain", "hello")?;
        ensure!(plain.received.is_empty(), "strict mode holds again");
        ensure!(works(&shop.client, &shop)?, "who may, may");
        ensure!(!checked()?.contains("nobody is refused"), "{}", checked()?);
        Ok(())
    })
}

#[test]
fn explain_says_what_happens() -> Result<()> {
    story(&[], |cluster| {
        let (shop, other) = shop_with_other(cluster)?;
        only_client_may(cluster)?;
        for (from, allowed) in [(&shop.client, true), (&other, false)] {
            let caller = format!("{}.shop", from.name());
            let explained = shop.a.cli(&["explain", &caller, "web.shop:80"])?;
            ensure!(
                explained.code == i32::from(!allowed),
                "explain says {}: {}{}",
                explained.code,
                explained.stdout,
                explained.stderr
            );
            ensure!(works(from, &shop)? == allowed, "and so it is");
            if allowed {
                ensure!(
                    explained.stdout.contains("client-only"),
                    "{}",
                    explained.stdout
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_broken_policy_does_not_open_what_it_closed() -> Result<()> {
    story(&[], |cluster| {
        let (shop, other) = shop_with_other(cluster)?;
        cluster.configuration().policy(
            "callers",
            json!({"workload": "server"}),
            json!([rule("client-only", "allow", "client")]),
        );
        cluster.apply()?;
        ensure!(!works(&other, &shop)?);
        // The same policy, with a rule that does not exist in any version.
        cluster.configuration().policy(
            "callers",
            json!({"workload": "server"}),
            json!([{"name": "client-only", "action": "perhaps"}]),
        );
        cluster.write()?;
        eventually("the mistake is shown", Duration::from_secs(5), || {
            Ok((!shop.b.status()?.configuration.problems.is_empty()).then_some(()))
        })?;
        ensure!(!works(&other, &shop)?, "still closed");
        Ok(())
    })
}
