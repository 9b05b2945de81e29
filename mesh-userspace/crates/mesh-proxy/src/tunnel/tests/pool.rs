//! Which tunnel carries a stream, and how tunnels come and go.

use std::time::Duration;

use mesh_core::outcome::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::mesh::{Mesh, eventually, identity, pair, run};
use crate::tunnel::Limits;

#[test]
fn many_at_once_share_one_handshake() {
    run(async {
        let mesh = Mesh::new().await;
        let mut clients = Vec::new();
        let mut openings = Vec::new();
        for _ in 0..50 {
            let (client, app) = pair().await;
            clients.push(client);
            openings.push(mesh.open(app));
        }
        for outcome in futures_util::future::join_all(openings).await {
            outcome.unwrap();
        }
        assert_eq!(mesh.dialler.dials.get(), 1);
        assert_eq!(mesh.pool.figures().streams, 50);
        assert_eq!(mesh.pool.figures().handshakes, 1);
        assert_eq!(mesh.server.figures().handshakes, 1);
    });
}

#[test]
fn a_failed_dial_is_told_to_everybody_and_gives_all_back() {
    run(async {
        let mesh = Mesh::new().await;
        mesh.dialler.refuse.set(true);
        let mut clients = Vec::new();
        let mut openings = Vec::new();
        for _ in 0..10 {
            let (client, app) = pair().await;
            clients.push(client);
            openings.push(mesh.open(app));
        }
        for outcome in futures_util::future::join_all(openings).await {
            let error = outcome.unwrap_err();
            assert_eq!(error.reason, Reason::Unreachable);
            assert!(error.returned.is_some());
        }
        assert_eq!(mesh.dialler.dials.get(), 1);
        assert_eq!(mesh.pool.figures().tunnels, 0);
        mesh.dialler.refuse.set(false);
        mesh.connect().await;
    });
}

#[test]
fn a_peer_with_another_identity_gets_no_byte() {
    run(async {
        let mut mesh = Mesh::new().await;
        mesh.expect(&identity("somebody-else"));
        let (mut client, app) = pair().await;
        client.write_all(b"secret").await.unwrap();
        let error = mesh.open(app).await.unwrap_err();
        assert_eq!(error.reason, Reason::PeerIdentity, "{}", error.detail);
        let (mut app, kept) = error.returned.unwrap();
        assert!(kept.is_empty());
        let mut bytes = [0; 6];
        app.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"secret", "it was not even read");
        eventually("the other side counts it too", || {
            mesh.server.figures().handshake_failures == 1
        })
        .await;
        assert_eq!(mesh.pool.figures().handshake_failures, 1);
    });
}

#[test]
fn the_next_tunnel_is_dialled_before_it_is_needed() {
    run(async {
        let mesh = Mesh::with(Limits {
            streams: 8,
            ..Limits::default()
        })
        .await;
        let mut held = Vec::new();
        for number in 1..=40 {
            held.push(mesh.connect().await);
            let tunnels = mesh.pool.figures().tunnels;
            assert!(
                tunnels * 8 >= number,
                "{tunnels} tunnels carry {number} streams"
            );
        }
        assert!(mesh.dialler.dials.get() <= 7);
    });
}

#[test]
fn after_a_burst_streams_gather_in_one_tunnel_and_the_others_close() {
    run(async {
        let mesh = Mesh::with(Limits {
            streams: 8,
            idle: Duration::from_millis(300),
            ..Limits::default()
        })
        .await;
        let mut burst = Vec::new();
        for _ in 0..20 {
            burst.push(mesh.connect().await);
        }
        assert!(mesh.pool.figures().tunnels >= 3);
        drop(burst);
        eventually("the burst is over", || mesh.pool.figures().streams == 0).await;
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(mesh.connect().await);
        }
        eventually("the others close", || mesh.pool.figures().tunnels == 1).await;
        assert_eq!(mesh.pool.figures().streams, 4);
    });
}

#[test]
fn a_retired_tunnel_finishes_what_it_carries() {
    run(async {
        let mesh = Mesh::new().await;
        let mut old = mesh.connect().await;
        mesh.pool.retire(|key| key.own == identity("client"));
        let _new = mesh.connect().await;
        assert_eq!(mesh.dialler.dials.get(), 2);
        old.client.write_all(b"still").await.unwrap();
        let mut bytes = [0; 5];
        old.server.read_exact(&mut bytes).await.unwrap();
        drop((old.client, old.server));
        eventually("the old one closes", || mesh.server.figures().tunnels == 1).await;
        assert_eq!(mesh.pool.figures().tunnels, 1);
    });
}

#[test]
fn a_draining_server_sends_new_streams_elsewhere() {
    run(async {
        let mesh = Mesh::new().await;
        let old = mesh.connect().await;
        mesh.server.drain(|_| true);
        for _ in 0..3 {
            mesh.connect().await;
        }
        assert_eq!(mesh.dialler.dials.get(), 2);
        drop((old.client, old.server));
        eventually("the old one closes", || mesh.server.figures().tunnels == 1).await;
    });
}

#[test]
fn an_idle_tunnel_is_closed() {
    run(async {
        let mesh = Mesh::with(Limits {
            idle: Duration::from_millis(50),
            ..Limits::default()
        })
        .await;
        let held = mesh.connect().await;
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert_eq!(
            mesh.pool.figures().tunnels,
            1,
            "a silent stream is not idle"
        );
        drop((held.client, held.server));
        eventually("it is closed", || {
            mesh.pool.figures().tunnels == 0 && mesh.server.figures().tunnels == 0
        })
        .await;
        mesh.connect().await;
    });
}

#[test]
fn a_cut_pool_resets_its_applications() {
    run(async {
        let mesh = Mesh::new().await;
        let mut c = mesh.connect().await;
        mesh.pool.cut(
            |key, _| key.own == identity("nobody"),
            Reason::IdentityRevoked,
        );
        c.client.write_all(b"on").await.unwrap();
        let mut bytes = [0; 2];
        c.server.read_exact(&mut bytes).await.unwrap();
        mesh.pool.cut(
            |key, _| key.own == identity("client"),
            Reason::IdentityRevoked,
        );
        assert!(c.client.read(&mut bytes).await.is_err());
        assert!(c.server.read(&mut bytes).await.is_err());
        let report = c.opened.stream.closed().await;
        assert_eq!(report.reason, Reason::IdentityRevoked);
    });
}

#[test]
fn a_draining_pool_opens_nothing() {
    run(async {
        let mesh = Mesh::new().await;
        let _held = mesh.connect().await;
        mesh.pool.drain();
        let (_client, app) = pair().await;
        let error = mesh.open(app).await.unwrap_err();
        assert_eq!(error.reason, Reason::Drained);
        assert!(error.returned.is_some());
    });
}

#[test]
fn a_peer_that_never_shakes_hands_costs_the_time_limit_only() {
    run(async {
        let mut mesh = Mesh::with(Limits {
            handshake: Duration::from_millis(100),
            ..Limits::default()
        })
        .await;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        mesh.key.address.0 = silent.local_addr().unwrap();
        let (_client, app) = pair().await;
        let error = mesh.open(app).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unreachable);
        assert!(error.returned.is_some());
    });
}
