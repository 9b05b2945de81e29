//! How connections begin and end.

use std::io::ErrorKind;
use std::time::Duration;

use mesh_core::outcome::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::mesh::{Mesh, eventually, identity, pair, run};
use crate::socket::reset;
use crate::tunnel::Limits;
use crate::wire::RefusalCode;

async fn expect(socket: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    socket.read_exact(&mut got).await.unwrap();
    assert_eq!(got, bytes);
}

async fn expect_end(socket: &mut TcpStream) {
    assert_eq!(
        socket.read(&mut [0; 16]).await.unwrap(),
        0,
        "an orderly end"
    );
}

async fn expect_reset(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let error = socket.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn bytes_go_both_ways_and_both_ends_are_told() {
    run(async {
        let mesh = Mesh::new().await;
        let mut c = mesh.connect().await;
        assert_eq!(c.opened.peer, identity("web"));
        assert_eq!(c.opened.tls, "TLSv1.3 TLS13_AES_128_GCM_SHA256");
        {
            let peers = mesh.story.peers.borrow();
            assert_eq!(peers[0].identity, identity("client"));
            assert_eq!(peers[0].server, identity("web"));
        }
        c.client.write_all(b"ping").await.unwrap();
        expect(&mut c.server, b"ping").await;
        c.server.write_all(b"pong!").await.unwrap();
        expect(&mut c.client, b"pong!").await;
        c.client.shutdown().await.unwrap();
        expect_end(&mut c.server).await;
        c.server.shutdown().await.unwrap();
        expect_end(&mut c.client).await;
        for handle in [c.opened.stream, c.accepted] {
            let report = handle.closed().await;
            assert_eq!((report.sent, report.received), (4, 5));
            assert_eq!(report.reason, Reason::Finished);
        }
    });
}

#[test]
fn either_side_may_finish_first_and_go_on_receiving() {
    run(async {
        let mesh = Mesh::new().await;
        for client_first in [true, false] {
            let mut c = mesh.connect().await;
            let (first, second) = if client_first {
                (&mut c.client, &mut c.server)
            } else {
                (&mut c.server, &mut c.client)
            };
            first.write_all(b"last words").await.unwrap();
            first.shutdown().await.unwrap();
            expect(second, b"last words").await;
            expect_end(second).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            for _ in 0..3 {
                second.write_all(b"more").await.unwrap();
                expect(first, b"more").await;
            }
            second.shutdown().await.unwrap();
            expect_end(first).await;
            assert_eq!(c.accepted.closed().await.reason, Reason::Finished);
            assert_eq!(c.opened.stream.closed().await.reason, Reason::Finished);
        }
    });
}

#[test]
fn a_server_may_speak_first_and_a_client_may_be_silent() {
    run(async {
        let mesh = Mesh::new().await;
        let mut c = mesh.connect().await;
        c.server.write_all(b"220 hello\r\n").await.unwrap();
        expect(&mut c.client, b"220 hello\r\n").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        c.client.write_all(b"EHLO").await.unwrap();
        expect(&mut c.server, b"EHLO").await;
    });
}

#[test]
fn a_reset_of_either_side_reaches_the_other() {
    run(async {
        let mesh = Mesh::new().await;
        for (by_client, reason) in [(true, Reason::ClientReset), (false, Reason::ServerReset)] {
            let mut c = mesh.connect().await;
            c.client.write_all(b"x").await.unwrap();
            expect(&mut c.server, b"x").await;
            let (near, mut far) = if by_client {
                (c.client, c.server)
            } else {
                (c.server, c.client)
            };
            reset(&near);
            drop(near);
            expect_reset(&mut far).await;
            assert_eq!(c.opened.stream.closed().await.reason, reason);
            assert_eq!(c.accepted.closed().await.reason, reason);
        }
    });
}

#[test]
fn a_reset_after_half_close_reaches_a_silent_peer() {
    run(async {
        let mesh = Mesh::new().await;
        for by_client in [true, false] {
            let c = mesh.connect().await;
            let (mut near, mut far) = if by_client {
                (c.client, c.server)
            } else {
                (c.server, c.client)
            };
            near.shutdown().await.unwrap();
            expect_end(&mut far).await;
            reset(&near);
            drop(near);
            let reason = c.opened.stream.closed().await.reason;
            assert!(matches!(reason, Reason::ClientReset | Reason::ServerReset));
            // After an end was read the reset shows in the next write at the latest.
            eventually("the reset is seen", || far.try_write(b"x").is_err()).await;
        }
    });
}

#[test]
fn bytes_before_a_reset_are_delivered() {
    run(async {
        let mesh = Mesh::new().await;
        let mut c = mesh.connect().await;
        c.client.write_all(b"before").await.unwrap();
        expect(&mut c.server, b"before").await;
        reset(&c.server);
        drop(c.server);
        expect_reset(&mut c.client).await;
    });
}

#[test]
fn a_refused_stream_gives_the_application_back_with_its_first_bytes() {
    run(async {
        let mesh = Mesh::new().await;
        mesh.story.delay.set(Duration::from_millis(50));
        for (code, reason) in [
            (RefusalCode::ConnectionRefused, Reason::ConnectionRefused),
            (RefusalCode::PolicyDenied, Reason::PolicyDenied),
            (RefusalCode::NoRuleAllows, Reason::NoRuleAllows),
            (RefusalCode::Overloaded, Reason::Overloaded),
        ] {
            mesh.story.refuse.set(Some(code));
            let (mut client, app) = pair().await;
            client.write_all(b"first bytes").await.unwrap();
            let error = mesh.open(app).await.unwrap_err();
            assert_eq!(error.reason, reason);
            assert_eq!(error.detail, "as the test wants");
            let (app, kept) = error.returned.unwrap();
            assert_eq!(kept, b"first bytes");
            // It can be offered again, and nothing is lost.
            mesh.story.refuse.set(None);
            let mut request = mesh.request(app, mesh.applications_address());
            request.kept = kept;
            let (opened, mut server) = tokio::join!(mesh.pool.open(request), mesh.accept());
            expect(&mut server, b"first bytes").await;
            client.write_all(b" and more").await.unwrap();
            expect(&mut server, b" and more").await;
            drop(opened.unwrap());
        }
    });
}

#[test]
fn nothing_listens_there() {
    run(async {
        let mesh = Mesh::new().await;
        let (_client, app) = pair().await;
        let request = mesh.request(app, "127.0.0.1:1".parse().unwrap());
        let error = mesh.pool.open(request).await.unwrap_err();
        assert_eq!(error.reason, Reason::ConnectionRefused);
        assert!(error.returned.is_some());
    });
}

#[test]
fn a_client_that_finishes_before_it_is_accepted_is_served() {
    run(async {
        let mesh = Mesh::new().await;
        mesh.story.delay.set(Duration::from_millis(50));
        let (mut client, app) = pair().await;
        client.write_all(b"one shot").await.unwrap();
        client.shutdown().await.unwrap();
        let (opened, mut server) = tokio::join!(mesh.open(app), mesh.accept());
        let opened = opened.unwrap();
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"one shot");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"answer");
        assert_eq!(opened.stream.closed().await.reason, Reason::Finished);
    });
}

#[test]
fn a_client_that_resets_before_it_is_accepted_ends_the_story() {
    run(async {
        let mesh = Mesh::new().await;
        mesh.story.delay.set(Duration::from_secs(5));
        let (client, app) = pair().await;
        let opening = mesh.open(app);
        let resetting = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            reset(&client);
            drop(client);
        };
        let (outcome, ()) = tokio::join!(opening, resetting);
        let error = outcome.unwrap_err();
        assert_eq!(error.reason, Reason::ClientReset);
        assert!(error.returned.is_none());
        eventually("the inbound story is dropped", || {
            mesh.story.dropped.get() == 1
        })
        .await;
    });
}

#[test]
fn a_story_that_goes_away_resets_its_application() {
    run(async {
        let mesh = Mesh::new().await;
        mesh.story.delay.set(Duration::from_secs(5));
        let (mut client, app) = pair().await;
        let opening = tokio::time::timeout(Duration::from_millis(50), mesh.open(app)).await;
        assert!(opening.is_err());
        expect_reset(&mut client).await;
        eventually("the inbound story is dropped", || {
            mesh.story.dropped.get() == 1
        })
        .await;
        // The tunnel is as good as before.
        mesh.story.delay.set(Duration::ZERO);
        let mut c = mesh.connect().await;
        c.client.write_all(b"ok").await.unwrap();
        expect(&mut c.server, b"ok").await;
        assert_eq!(mesh.dialler.dials.get(), 1);
    });
}

#[test]
fn a_peer_that_does_not_answer_costs_the_time_limit_only() {
    run(async {
        let mesh = Mesh::with(Limits {
            open: Duration::from_millis(50),
            ..Limits::default()
        })
        .await;
        mesh.story.delay.set(Duration::from_secs(5));
        let (_client, app) = pair().await;
        let error = mesh.open(app).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unreachable);
        assert!(error.returned.is_some(), "not a byte was sent");
        let (mut client, app) = pair().await;
        client.write_all(b"x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let error = mesh.open(app).await.unwrap_err();
        assert_eq!(error.reason, Reason::Unreachable);
        assert!(error.returned.is_none(), "somebody may have seen the byte");
    });
}

#[test]
fn a_cut_stream_is_reset_on_both_sides_and_both_know_why() {
    run(async {
        let mesh = Mesh::new().await;
        for by_client in [true, false] {
            let mut c = mesh.connect().await;
            c.client.write_all(b"x").await.unwrap();
            expect(&mut c.server, b"x").await;
            let cutting = if by_client {
                &c.opened.stream
            } else {
                &c.accepted
            };
            cutting.cut(Reason::PolicyRevoked);
            expect_reset(&mut c.client).await;
            expect_reset(&mut c.server).await;
            assert_eq!(c.opened.stream.closed().await.reason, Reason::PolicyRevoked);
            assert_eq!(c.accepted.closed().await.reason, Reason::PolicyRevoked);
        }
    });
}

#[test]
fn a_lost_tunnel_resets_every_application() {
    run(async {
        let mesh = Mesh::new().await;
        let mut connections = Vec::new();
        for _ in 0..5 {
            connections.push(mesh.connect().await);
        }
        mesh.server.cut(|_| true, Reason::Drained);
        for mut c in connections {
            expect_reset(&mut c.client).await;
            expect_reset(&mut c.server).await;
            assert_eq!(c.opened.stream.closed().await.reason, Reason::TunnelLost);
            assert_eq!(c.accepted.closed().await.reason, Reason::Drained);
        }
        // The next connection gets a new tunnel.
        let mut c = mesh.connect().await;
        c.client.write_all(b"ok").await.unwrap();
        expect(&mut c.server, b"ok").await;
    });
}
