//! Ports: a delivery in the name of a client never meets a connection of the client itself.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_tests::cluster::shop::Shop;
use mesh_tests::story::story;

#[test]
fn deliveries_stay_clear_of_the_clients_own_connections() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        // From the client's address to the application's, like every delivery later. Of the ports that the kernel would
        // choose from, one in fifty is taken.
        let _older = shop.client.hold(shop.server.at(8080), 300)?;
        cluster.start(&[&shop.client, &shop.server])?;
        // Nor are they taken for one another: of the ports that are tried first, two in three are in use.
        let _others = shop.client.hold(shop.web4(), 1_500)?;

        // The kernel's choice comes round after some 2,500.
        let count = shop.client.load(shop.web4(), 4_000, 4)?;
        ensure!(
            count.failed() == 0,
            "no delivery is taken for another connection: {count:?}"
        );
        Ok(())
    })
}

#[test]
fn dials_in_clear_and_their_deliveries_do_not_meet() -> Result<()> {
    story(&[], |cluster| {
        let shop = Shop::build(cluster, &[])?;
        // Each of its dials is delivered from its own address, to where it dials.
        let outsider = cluster.outsider()?;
        cluster
            .configuration()
            .set("mtls", serde_json::json!({"mode": "permissive"}));
        cluster.start(&[&shop.client, &shop.server])?;

        let load = outsider.load_for(shop.server.at(8080), 8, Duration::from_secs(8))?;
        let count = load.finish()?;
        ensure!(count.done > 1_000 && count.failed() == 0, "{count:?}");
        // A SYN that is not answered is sent again after a second.
        ensure!(count.slowest_micros < 1_000_000, "{count:?}");
        Ok(())
    })
}
