//! The command line: every verb, exit codes, wrong input, output that programs read.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::ask::Output;
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::shop::Shop;
use mesh_tests::eventually::until;
use mesh_tests::host::binary;
use mesh_tests::story::story;
use serde_json::Value;

/// A verb without any node.
fn warren(arguments: &[&str]) -> Result<Output> {
    let output = Command::new(binary::warren()?)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("start warren")?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A verb that must go well.
fn good(node: &Node, arguments: &[&str]) -> Result<String> {
    let output = node.cli(arguments)?;
    ensure!(
        output.code == 0,
        "warren {}: {output:?}",
        arguments.join(" ")
    );
    Ok(output.stdout)
}

#[test]
fn help_and_version_need_nothing() -> Result<()> {
    for arguments in [
        &["--help"][..],
        &["help", "flows"],
        &["flows", "--help"],
        &["version"],
        &["--version"],
    ] {
        let output = warren(arguments)?;
        ensure!(
            output.code == 0 && !output.stdout.is_empty(),
            "{arguments:?}: {output:?}"
        );
    }
    let codes = warren(&["help", "exit-codes"])?;
    for code in ["0", "1", "2", "3", "4", "124"] {
        ensure!(
            codes.stdout.contains(&format!("  {code} ")),
            "{code} is not explained: {codes:?}"
        );
    }
    for shell in ["bash", "zsh", "fish"] {
        let output = warren(&["completion", shell])?;
        ensure!(
            output.code == 0 && output.stdout.contains("warren"),
            "{shell}: {output:?}"
        );
    }
    let schema = warren(&["config", "schema"])?;
    let schema: Value = serde_json::from_str(&schema.stdout).context("the schema is JSON")?;
    ensure!(
        schema["properties"]["workloads"].is_object(),
        "it describes workloads"
    );
    Ok(())
}

#[test]
fn wrong_usage_is_code_two() -> Result<()> {
    for arguments in [
        &["no-such-verb"][..],
        &["flows", "--no-such-flag"],
        &["flows", "-o", "xml"],
        &["flows", "--last", "many"],
        &["--timeout", "fast", "status"],
        &["node", "--threads", "0"],
        &["get"],
        &["explain", "client.shop"],
    ] {
        let output = warren(arguments)?;
        ensure!(output.code == 2, "{arguments:?}: {output:?}");
        ensure!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}: {output:?}"
        );
    }
    Ok(())
}

#[test]
fn no_agent_is_code_three() -> Result<()> {
    for arguments in [
        &["status"][..],
        &["flows"],
        &["get", "workloads"],
        &["explain", "client.shop", "web.shop:80"],
    ] {
        let output = warren(&[&["--socket", "/nonexistent/node.sock"], arguments].concat())?;
        ensure!(output.code == 3, "{arguments:?}: {output:?}");
        ensure!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
        ensure!(
            output.stderr.contains("/nonexistent/node.sock")
                && output.stderr.contains("warren node"),
            "it names the socket and the next step: {output:?}"
        );
    }
    Ok(())
}

#[test]
fn a_silent_agent_is_code_124() -> Result<()> {
    story(&[], |cluster| {
        let path = cluster.folder().join("silent.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path)?;
        let output = warren(&[
            "--socket",
            &path.to_string_lossy(),
            "--timeout",
            "300ms",
            "status",
        ])?;
        ensure!(output.code == 124, "{output:?}");
        Ok(())
    })
}

#[test]
fn every_listing_in_every_form() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        cluster
            .configuration()
            .split("web", 80, &[("server", 100)])
            .policy(
                "callers",
                serde_json::json!({"service": "web"}),
                serde_json::json!([{"name": "all", "action": "allow", "from": [{"authenticated": true}]}]),
            );
        cluster.start(&[&shop.client, &shop.server])?;
        for (kind, name) in [
            ("workloads", "client"),
            ("services", "web"),
            ("routes", "web-split"),
            ("policies", "callers"),
            ("certs", "spiffe://test.warren/ns/shop/sa/client"),
        ] {
            for form in ["table", "wide", "json", "yaml", "name"] {
                let output = good(&shop.a, &["get", kind, "-o", form])?;
                ensure!(output.contains(name), "get {kind} -o {form}: {output}");
            }
            let json: Value = serde_json::from_str(&good(&shop.a, &["get", kind, "-o", "json"])?)?;
            ensure!(
                json["apiVersion"] == "warren.dev/v1alpha1" && json["items"].is_array(),
                "{kind}: {json}"
            );
            ensure!(
                !json.to_string().contains("PRIVATE"),
                "a private key is nobody's business"
            );
            let table = good(&shop.a, &["get", kind])?;
            let header = table.lines().next().unwrap_or_default();
            ensure!(header == header.to_uppercase(), "{kind}: {table}");
        }
        ensure!(
            good(
                &shop.a,
                &["get", "workloads", "client", "-n", "shop", "--no-headers"]
            )?
            .lines()
            .count()
                == 1
        );
        let unknown = shop.a.cli(&["get", "workload-s"])?;
        ensure!(
            unknown.code == 2 && unknown.stderr.contains("workloads"),
            "did you mean: {unknown:?}"
        );
        Ok(())
    })
}

#[test]
fn status_check_and_explain() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let status = good(&shop.a, &["status"])?;
        ensure!(status.contains('a') && !status.is_empty(), "{status}");
        let json: Value = serde_json::from_str(&good(&shop.a, &["status", "-o", "json"])?)?;
        ensure!(
            json["ready"] == true && json["workloads"]["enrolled"] == 1,
            "{json}"
        );
        let check = shop.a.cli(&["check"])?;
        ensure!(check.code == 0, "everything is in order: {check:?}");
        let explained = good(&shop.a, &["explain", "client.shop", "web.shop:80"])?;
        ensure!(explained.contains("server"), "{explained}");
        let wrong = shop.a.cli(&["explain", "clinet.shop", "web.shop:80"])?;
        ensure!(
            wrong.code != 0 && wrong.stderr.contains("client.shop"),
            "did you mean: {wrong:?}"
        );
        Ok(())
    })
}

#[test]
fn check_before_anything_runs() -> Result<()> {
    story(&[], |_| {
        let output = warren(&["check", "--pre"])?;
        ensure!(
            output.code == 0,
            "this machine runs every other story: {output:?}"
        );
        ensure!(output.stdout.contains("cgroup"), "{output:?}");
        Ok(())
    })
}

#[test]
fn flows_filters_and_forms() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &["8081=name:other"])?;
        let neighbour = shop.a.pod("neighbour")?;
        cluster.start(&[&shop.client, &shop.server, &neighbour])?;
        shop.client.dial(shop.web4(), "plain", "hello")?;
        neighbour.dial(shop.server.at(8081), "plain", "hello")?;
        shop.client.dial(shop.server.at(4444), "plain", "hello")?;
        until("three flows", Duration::from_secs(5), || {
            Ok(shop.a.flows(&[])?.len() >= 3)
        })?;

        let count = |filters: &[&str]| -> Result<usize> { Ok(shop.a.flows(filters)?.len()) };
        ensure!(count(&["--from", "client.shop"])? == 2);
        ensure!(count(&["--from", "workload/neighbour"])? == 1);
        ensure!(count(&["--not", "--from", "client.shop"])? == 1);
        ensure!(count(&["--to", "svc/web"])? == 1);
        ensure!(count(&["--verdict", "failed"])? == 1);
        ensure!(
            count(&["--from", "client", "--from", "neighbour"])? == 3,
            "the same twice means either"
        );
        ensure!(
            count(&["--from", "client", "--verdict", "allowed"])? == 1,
            "different ones must all hold"
        );
        ensure!(
            count(&["--since", "10m"])? == 3
                && count(&["-n", "shop"])? == 3
                && count(&["-n", "none"])? == 0
        );
        let newest = good(&shop.a, &["flows", "--last", "1", "-o", "json"])?;
        ensure!(newest.lines().count() == 1, "{newest}");

        for form in ["compact", "table"] {
            let output = good(&shop.a, &["flows", "-o", form])?;
            ensure!(
                output.contains("client.shop") && output.contains("web.shop"),
                "{form}: {output}"
            );
            ensure!(
                !output.contains('\u{1b}'),
                "no colours into a pipe: {output:?}"
            );
        }
        let coloured = good(&shop.a, &["--color", "always", "flows"])?;
        ensure!(coloured.contains('\u{1b}'), "{coloured:?}");

        // What was saved can be looked at again, without an agent.
        let saved = cluster.folder().join("saved.ndjson");
        std::fs::write(&saved, good(&shop.a, &["flows", "-o", "json"])?)?;
        let again = warren(&[
            "flows",
            "--input",
            &saved.to_string_lossy(),
            "--verdict",
            "failed",
            "-o",
            "json",
        ])?;
        ensure!(
            again.code == 0 && again.stdout.lines().count() == 1,
            "{again:?}"
        );

        // Nothing to show is explained, on standard error.
        let none = shop.a.cli(&["flows", "--from", "nobody.shop"])?;
        ensure!(
            none.code == 0 && none.stdout.is_empty() && !none.stderr.is_empty(),
            "{none:?}"
        );
        let wrong = shop.a.cli(&["flows", "--verdict", "alowed"])?;
        ensure!(
            wrong.code == 2 && wrong.stderr.contains("allowed"),
            "{wrong:?}"
        );
        Ok(())
    })
}

#[test]
fn flows_can_be_followed() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let follow = shop
            .a
            .cli_command(&["flows", "--follow", "--last", "0", "-o", "json"])?
            .start()?;
        // The follower may still be connecting when the first flow ends, so flows are made until it tells of one.
        let line =
            mesh_tests::eventually::eventually("a followed flow", Duration::from_secs(10), || {
                shop.client.dial(shop.web4(), "plain", "hello")?;
                Ok(follow.line(Duration::from_millis(500)).ok())
            })?;
        let flow: Value = serde_json::from_str(&line)?;
        ensure!(
            flow["kind"] == "Flow" && flow["source"]["workload"] == "client.shop",
            "{flow}"
        );
        Ok(())
    })
}

#[test]
fn a_closed_pipe_is_no_error() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        for _ in 0..20 {
            shop.client.dial(shop.web4(), "plain", "hello")?;
        }
        let script = format!(
            "{} --socket {} flows --last 1000 -o json | head -n 1; exit ${{PIPESTATUS[0]}}",
            binary::warren()?.display(),
            shop.a.socket().display()
        );
        let output = Command::new("bash").args(["-c", &script]).output()?;
        ensure!(output.status.success(), "{output:?}");
        ensure!(
            output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    })
}

#[test]
fn metrics_and_health() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        shop.client.session(shop.web4())?.echo("hello")?;
        for path in ["/livez", "/readyz"] {
            ensure!(shop.a.health(path)? == 200, "{path}");
        }
        until(
            "metrics count the connection",
            Duration::from_secs(5),
            || {
                let metrics = shop.a.metrics()?;
                Ok(metrics.lines().any(|line| {
                    line.starts_with("warren_tcp_connections_opened_total")
                        && line.contains("outbound")
                        && !line.ends_with(" 0")
                }))
            },
        )
        .with_context(|| shop.a.metrics().unwrap_or_default())?;
        let metrics = shop.a.metrics()?;
        ensure!(metrics.ends_with("# EOF\n"), "OpenMetrics ends so");
        ensure!(
            metrics.contains("captured"),
            "kernel counters are there: {metrics}"
        );
        Ok(())
    })
}

#[test]
fn the_socket_is_for_root_alone() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let mode = std::fs::metadata(shop.a.socket())?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the mode is {mode:o}");
        let mode = std::fs::metadata(shop.a.bpf().path())?.permissions().mode() & 0o777;
        ensure!(
            mode == 0o700,
            "pins can be detached by whoever can open them; the mode is {mode:o}"
        );
        let nobody = shop.a.cli_command(&["status"])?.as_user(65_534).finish()?;
        ensure!(nobody.code == 4 || nobody.code == 3, "{nobody:?}");
        Ok(())
    })
}

#[test]
fn a_second_agent_is_refused() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::open(cluster, &[])?;
        let file = cluster.file();
        let run = shop.a.socket().with_file_name("");
        let output = shop
            .a
            .cli_command(&[
                "node",
                "--name",
                "a",
                "--file",
                &file.to_string_lossy(),
                "--run-dir",
                &run.to_string_lossy(),
                "--bpffs",
                &shop.a.bpf().path().to_string_lossy(),
                "--cgroup-root",
                &shop.a.cgroup().path().to_string_lossy(),
            ])?
            .finish()?;
        ensure!(output.code == 1, "{output:?}");
        shop.client
            .session(shop.web4())?
            .echo("the first one goes on")?;
        Ok(())
    })
}
