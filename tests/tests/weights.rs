//! Weights are kept, changes lose nothing, dead endpoints cost nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::cluster::node::Node;
use mesh_tests::cluster::place::{Place, Server};
use mesh_tests::cluster::{Cluster, service_addresses};
use mesh_tests::probe::load::Count;
use mesh_tests::story::story;

/// A client on node a, two versions of a server on node b, each of which says its name.
struct Versions {
    a: Arc<Node>,
    client: Place,
    v1: Place,
    v2: Place,
    applications: [Server; 2],
    web: [SocketAddr; 2],
}

impl Versions {
    fn open(cluster: &mut Cluster, weights: &[(&str, u32)]) -> Result<Self> {
        let (a, b) = cluster.two_nodes()?;
        let (client, v1, v2) = (a.pod("client")?, b.pod("v1")?, b.pod("v2")?);
        let applications = [v1.serve(&["8080=name:v1"])?, v2.serve(&["8080=name:v2"])?];
        let addresses = service_addresses(1);
        cluster
            .configuration()
            .service("web", addresses, (80, 8080), &[&v1, &v2]);
        if !weights.is_empty() {
            cluster.configuration().split("web", 80, weights);
        }
        cluster.start(&[&client, &v1, &v2])?;
        Ok(Self {
            a,
            client,
            v1,
            v2,
            applications,
            web: addresses.map(|address| SocketAddr::new(address, 80)),
        })
    }
}

/// Every connection came to something, and these shares, in percent, are kept within one.
fn assert_shares(count: &Count, shares: &[(&str, f64)]) -> Result<()> {
    ensure!(count.failed() == 0, "lost connections: {count:?}");
    for (name, share) in shares {
        let got = count.answers.get(*name).copied().unwrap_or_default();
        let percent = got as f64 * 100.0 / count.done as f64;
        ensure!(
            (percent - share).abs() <= 1.0,
            "{name} was to get {share} %, and got {percent:.1} %: {count:?}"
        );
    }
    Ok(())
}

#[test]
fn seventy_to_thirty_over_five_hundred() -> Result<()> {
    story(&[], |cluster| {
        let versions = Versions::open(cluster, &[("v1", 70), ("v2", 30)])?;
        for to in versions.web {
            let count = versions.client.load(to, 500, 4)?;
            ensure!(count.done == 500, "{count:?}");
            assert_shares(&count, &[("v1", 70.0), ("v2", 30.0)])?;
        }
        let flow = versions.a.wait_flow("through the route", &[], |flow| {
            flow.route
                .as_deref()
                .is_some_and(|route| route.contains("web-split"))
        })?;
        ensure!(
            flow.backend
                .as_deref()
                .is_some_and(|backend| backend.contains("v1") || backend.contains("v2")),
            "{flow:?}"
        );
        Ok(())
    })
}

#[test]
fn a_change_under_load_loses_nothing() -> Result<()> {
    story(&[], |cluster| {
        let versions = Versions::open(cluster, &[("v1", 100), ("v2", 0)])?;
        let load = versions
            .client
            .load_for(versions.web[0], 4, Duration::from_secs(8))?;
        for (v1, v2) in [(90, 10), (50, 50), (10, 90), (0, 100)] {
            cluster
                .configuration()
                .split("web", 80, &[("v1", v1), ("v2", v2)]);
            cluster.apply()?;
            // A sample of what is split together with the load: which of the turns are ours is chance, so it is only
            // bounded by four standard deviations.
            let count = versions.client.load(versions.web[1], 200, 2)?;
            let shares = [("v1", f64::from(v1)), ("v2", f64::from(v2))];
            ensure!(count.failed() == 0, "{count:?}");
            for (name, share) in shares {
                let got = count.answers.get(name).copied().unwrap_or_default() as f64 / 2.0;
                ensure!(
                    (got - share).abs() <= 15.0,
                    "{name}: {share} %, got {got} %: {count:?}"
                );
            }
        }
        let count = load.finish()?;
        ensure!(count.failed() == 0, "lost under load: {count:?}");
        ensure!(count.done > 100 && count.answers.len() == 2, "{count:?}");
        let count = versions.client.load(versions.web[0], 100, 2)?;
        assert_shares(&count, &[("v1", 0.0), ("v2", 100.0)])
    })
}

#[test]
fn a_direct_pod_address_is_not_balanced() -> Result<()> {
    story(&[], |cluster| {
        let versions = Versions::open(cluster, &[("v1", 50), ("v2", 50)])?;
        for to in [versions.v2.at(8080), versions.v2.at6(8080)] {
            let count = versions.client.load(to, 50, 2)?;
            assert_shares(&count, &[("v2", 100.0)])?;
        }
        Ok(())
    })
}

#[test]
fn without_a_route_every_endpoint_gets_some() -> Result<()> {
    story(&[], |cluster| {
        let versions = Versions::open(cluster, &[])?;
        let count = versions.client.load(versions.web[0], 100, 4)?;
        ensure!(count.failed() == 0 && count.done == 100, "{count:?}");
        for name in ["v1", "v2"] {
            ensure!(
                count.answers.get(name).copied().unwrap_or_default() >= 10,
                "{count:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_dead_endpoint_costs_no_connection() -> Result<()> {
    story(&[], |cluster| {
        let mut versions = Versions::open(cluster, &[])?;
        versions.applications[0].process().kill()?;
        let count = versions.client.load(versions.web[0], 200, 4)?;
        ensure!(
            count.failed() == 0,
            "a refused endpoint is not the end, another is tried: {count:?}"
        );
        assert_shares(&count, &[("v2", 100.0)])?;

        versions.applications[1].process().kill()?;
        let report = versions.client.dial(versions.web[0], "plain", "hello")?;
        ensure!(
            matches!(report.error.as_deref(), Some("ECONNRESET" | "ECONNREFUSED")),
            "nothing is left, so: a reset: {report:?}"
        );
        let flow = versions
            .a
            .wait_flow("that failed", &["--verdict", "failed"], |_| true)?;
        ensure!(
            ["connection_refused", "nothing_healthy"].contains(&flow.reason.as_str()),
            "{flow:?}"
        );

        // It comes back by itself once an endpoint does.
        let _again = versions.v1.serve(&["8080=name:v1"])?;
        mesh_tests::eventually::until("the service answers again", Duration::from_secs(30), || {
            Ok(versions
                .client
                .dial(versions.web[0], "plain", "hello")?
                .received
                == "v1")
        })
    })
}
