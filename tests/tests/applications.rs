//! Real applications, unmodified and unaware: each between two enrolled pods, with results that must be exact.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::cluster::configuration::identity_of;
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::place::Place;
use mesh_tests::cluster::{Cluster, mariadb, nginx, postgresql, redis, service_addresses};
use mesh_tests::eventually::eventually;
use mesh_tests::host::process::{Launch, Process};
use mesh_tests::host::requires::Need;
use mesh_tests::story::story;

const MIB: usize = 1 << 20;

/// A client on one node, an application on the other, a service in front of it.
struct Scene {
    a: Arc<Node>,
    b: Arc<Node>,
    client: Place,
    server: Place,
    port: u16,
    hosts: [IpAddr; 2],
    _application: Process,
}

impl Scene {
    fn open(
        cluster: &mut Cluster,
        port: u16,
        start: impl FnOnce(&Cluster, &Place) -> Result<Process>,
    ) -> Result<Self> {
        let (a, b) = cluster.two_nodes()?;
        let (client, server) = (a.pod("client")?, b.pod("server")?);
        let application = start(cluster, &server)?;
        let hosts = service_addresses(1);
        cluster
            .configuration()
            .service("application", hosts, (port, port), &[&server]);
        cluster.start(&[&client, &server])?;
        Ok(Self {
            a,
            b,
            client,
            server,
            port,
            hosts,
            _application: application,
        })
    }

    /// The service in each family, as a URL has it.
    fn urls(&self) -> [String; 2] {
        self.hosts
            .map(|host| format!("http://{}", std::net::SocketAddr::new(host, self.port)))
    }

    /// Every connection was carried under mutual TLS between these two and nobody else, as both nodes tell it.
    fn all_was_mutual_tls(&self) -> Result<()> {
        let (client, server) = (identity_of(&self.client), identity_of(&self.server));
        for node in [&self.a, &self.b] {
            node.wait_flow("of the application", &[], |flow| flow.bytes_received > 0)?;
            let flows = node.flows(&[])?;
            for flow in &flows {
                ensure!(
                    flow.transport == "mutual_tls"
                        && flow.verdict == "allowed"
                        && flow.tls.is_some()
                        && flow.source.identity.as_ref() == Some(&client)
                        && flow.destination.identity.as_ref() == Some(&server),
                    "node {}: {flow:?}",
                    node.name()
                );
            }
            eprintln!(
                "node {}: {} flows under {}",
                node.name(),
                flows.len(),
                flows[0].tls.as_deref().unwrap_or_default()
            );
        }
        Ok(())
    }
}

/// A number in the words of a program, after a label.
fn number_after(output: &str, label: &str) -> Result<u64> {
    // pgbench prints `100/100` where so many were asked for.
    output
        .split_once(label)
        .and_then(|(_, rest)| {
            rest.trim_start()
                .split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("no number after {label:?} in {output}"))
}

#[test]
fn nginx_serves_pages_and_files() -> Result<()> {
    let needs = [
        Need::Program("nginx"),
        Need::Program("wrk"),
        Need::Program("curl"),
    ];
    story(&needs, |cluster| {
        let scene = Scene::open(cluster, 8080, |cluster, place| {
            nginx::start(cluster, place, "hello from nginx\n")
        })?;
        let content = noise(10 * MIB);
        let file = nginx::files(cluster, &scene.server)?.join("file");
        fs::write(&file, &content).with_context(|| format!("write {}", file.display()))?;

        for url in scene.urls() {
            // One connection for all of them, used again and again.
            let got = cluster.folder().join("got");
            let output = scene
                .client
                .program("curl")
                .args(["--silent", "--show-error", "--fail", "--max-time", "60"])
                .args(["--write-out", "%{num_connects} %{http_code}\n"])
                .args(["--output".as_ref(), got.as_path()])
                .args(["--output", "/dev/null", "--output", "/dev/null"])
                .args([
                    format!("{url}/files/file"),
                    format!("{url}/"),
                    format!("{url}/a"),
                ])
                .run()?;
            ensure!(output == "1 200\n0 200\n0 200\n", "{url}: {output}");
            let same = fs::read(&got).context("read what was fetched")? == content;
            ensure!(same, "{url}: the file is not what nginx has");
        }
        for (url, connections) in scene.urls().iter().zip(["1", "32"]) {
            let output = scene
                .client
                .program("wrk")
                .args(["--threads", "1", "--connections", connections])
                .args(["--duration", "4s", "--timeout", "5s", url])
                .run()?;
            ensure!(
                !output.contains("Socket errors") && !output.contains("Non-2xx"),
                "{output}"
            );
            let rate: f64 = output
                .split_once("Requests/sec:")
                .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
                .with_context(|| format!("a rate: {output}"))?;
            eprintln!("{connections} connections: {rate} requests per second");
            ensure!(rate > 50.0, "hardly anything was asked: {output}");
        }
        scene.all_was_mutual_tls()
    })
}

/// Bytes in which nothing repeats soon, the same in every run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn redis_answers_pipelines_and_pushes() -> Result<()> {
    let needs = [
        Need::Program("redis-server"),
        Need::Program("redis-benchmark"),
    ];
    story(&needs, |cluster| {
        const REQUESTS: u64 = 40_000;
        let scene = Scene::open(cluster, redis::PORT, redis::start)?;
        let with_host = |program: &str, host: IpAddr| {
            scene.client.program(program).args([
                "-h",
                &host.to_string(),
                "-p",
                &scene.port.to_string(),
            ])
        };
        let ask = |host: IpAddr, words: &[&str]| -> Result<String> {
            Ok(with_host("redis-cli", host)
                .args(words)
                .run()?
                .trim_end()
                .to_owned())
        };

        for (host, pipeline) in scene.hosts.into_iter().zip(["1", "16"]) {
            ask(host, &["FLUSHALL"])?;
            let output = with_host("redis-benchmark", host)
                .args(["-t", "incr,lpush,get", "-c", "50", "-P", pipeline, "--csv"])
                .args(["-n", &REQUESTS.to_string()])
                .run()?;
            ensure!(!output.contains("rror"), "{output}");
            eprintln!("pipelines of {pipeline}:\n{output}");
            // Nothing lost, nothing twice.
            let counted = ask(host, &["GET", "counter:__rand_int__"])?;
            ensure!(counted == REQUESTS.to_string(), "counted {counted}");
            let pushed = ask(host, &["LLEN", "mylist"])?;
            ensure!(pushed == REQUESTS.to_string(), "pushed {pushed}");
        }

        // The server speaks when it has something to say, over a connection on which the client only listens.
        let listener = with_host("redis-cli", scene.hosts[0])
            .args(["SUBSCRIBE", "news"])
            .start()?;
        let heard = |words: &[&str]| -> Result<()> {
            for word in words {
                let line = listener.line(Duration::from_secs(10))?;
                ensure!(line == *word, "expected {word:?}, got {line:?}");
            }
            Ok(())
        };
        heard(&["subscribe", "news", "1"])?;
        for message in ["first", "second"] {
            let receivers = ask(scene.hosts[1], &["PUBLISH", "news", message])?;
            ensure!(receivers == "1", "{receivers} receivers");
            heard(&["message", "news", message])?;
        }

        let script = "return redis.call('set', 'big', string.rep('0123456789abcdef', 524288))";
        ensure!(ask(scene.hosts[1], &["EVAL", script, "0"])? == "OK");
        let big = ask(scene.hosts[1], &["GET", "big"])?;
        ensure!(
            big == "0123456789abcdef".repeat(524_288),
            "{} bytes",
            big.len()
        );
        scene.all_was_mutual_tls()
    })
}

#[test]
fn postgresql_keeps_its_books() -> Result<()> {
    let needs = [Need::Program("postgres"), Need::Program("pgbench")];
    story(&needs, |cluster| {
        let scene = Scene::open(cluster, postgresql::PORT, postgresql::start)?;
        let run = |name: &str, host: IpAddr| -> Result<Launch> {
            Ok(scene
                .client
                .program(&postgresql::program(name)?.to_string_lossy())
                .args([
                    "--host",
                    &host.to_string(),
                    "--port",
                    &scene.port.to_string(),
                ])
                .args(["--username", postgresql::USER]))
        };
        let ask = |host: IpAddr, question: &str| -> Result<String> {
            let launch = run("psql", host)?
                .args(["--no-psqlrc", "--no-align", "--tuples-only"])
                .args(["--command", question, "postgres"]);
            Ok(launch.run()?.trim_end().to_owned())
        };
        let [first, second] = scene.hosts;

        run("pgbench", first)?
            .args(["--initialize", "--scale", "2", "--quiet", "postgres"])
            .run()?;
        let rows = ask(second, "select count(*) from pgbench_accounts")?;
        ensure!(rows == "200000", "{rows} rows were filled in");
        let mut transactions = 0;
        for (host, how) in [
            (first, ["--client=8", "--time=6", "--protocol=prepared"]),
            // A connection for each transaction.
            (second, ["--client=4", "--transactions=25", "--connect"]),
        ] {
            let output = run("pgbench", host)?
                .args(how)
                .args(["--jobs=2", "--no-vacuum", "postgres"])
                .run()?;
            let failed = number_after(&output, "number of failed transactions:")?;
            ensure!(failed == 0, "{output}");
            transactions += number_after(&output, "number of transactions actually processed:")?;
            eprintln!("{output}");
        }
        ensure!(transactions > 200, "only {transactions} transactions");
        let books = ask(
            second,
            "select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts) \
             and sum(delta) = (select sum(tbalance) from pgbench_tellers) \
             and sum(delta) = (select sum(bbalance) from pgbench_branches) from pgbench_history",
        )?;
        ensure!(
            books == format!("{transactions}|t"),
            "{transactions} transactions, and the books say {books}"
        );

        let lines = ask(
            first,
            "select g || ':' || repeat(chr(97 + g % 26), g % 200) from generate_series(1, 50000) g",
        )?;
        ensure!(lines == many_lines(50_000), "{} bytes", lines.len());
        for host in scene.hosts {
            let seen = ask(host, "select inet_client_addr()")?;
            let own = scene.client.beside((host, 0).into());
            ensure!(seen == own.to_string(), "{seen} is not the client's {own}");
        }
        scene.all_was_mutual_tls()
    })
}

/// Five megabytes of lines of different lengths.
fn many_lines(count: u32) -> String {
    let lines: Vec<String> = (1..=count)
        .map(|number| {
            let letter = char::from(b'a' + (number % 26) as u8).to_string();
            format!("{number}:{}", letter.repeat(number as usize % 200))
        })
        .collect();
    lines.join("\n")
}

#[test]
fn mariadb_takes_and_gives_in_bulk() -> Result<()> {
    let needs = [Need::Program("mariadbd"), Need::Program("mariadb")];
    story(&needs, |cluster| {
        let scene = Scene::open(cluster, 3306, mariadb::start)?;
        let ask = |host: IpAddr, question: &str| {
            scene
                .client
                .program("mariadb")
                .args(["--no-defaults", "--protocol=tcp", "--connect-timeout=20"])
                .args(["--batch", "--skip-column-names", "--user", mariadb::USER])
                .args(["--host", &host.to_string(), "--execute", question])
                .args([mariadb::USER])
                .output()
        };
        let must = |host: IpAddr, question: &str| -> Result<String> {
            let (status, output) = ask(host, question)?;
            ensure!(status.success(), "{status}: {output}");
            Ok(output.trim_end().to_owned())
        };
        let [first, second] = scene.hosts;
        // It speaks first; the client waits for that.
        eventually("the database greets", Duration::from_secs(40), || {
            Ok(ask(first, "select 1")?.0.success().then_some(()))
        })?;

        let rows = 50_000;
        let file = cluster.folder().join("rows.sql");
        write_rows(&file, rows)?;
        must(first, &format!("source {}", file.display()))?;
        let count = must(second, "select count(*), sum(number) from things")?;
        let sum = u64::from(rows) * u64::from(rows + 1) / 2;
        ensure!(count == format!("{rows}\t{sum}"), "{count}");
        let lines = must(
            second,
            "select concat(number, ':', letters) from things order by number",
        )?;
        ensure!(lines == many_lines(rows), "{} bytes", lines.len());
        scene.all_was_mutual_tls()
    })
}

/// A table with so many rows, inserted a thousand at a time.
fn write_rows(file: &Path, rows: u32) -> Result<()> {
    let values: Vec<String> = many_lines(rows)
        .lines()
        .map(|line| format!("({})", line.replacen(':', ",'", 1) + "'"))
        .collect();
    let inserts: String = values
        .chunks(1_000)
        .map(|values| format!("insert into things values {};\n", values.join(",")))
        .collect();
    let text =
        format!("create table things (number int primary key, letters varchar(200));\n{inserts}");
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}
