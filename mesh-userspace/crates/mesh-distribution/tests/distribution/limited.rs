//! What callers can cost.

use std::time::{Duration, Instant, SystemTime};

use mesh_distribution::node::{Connect, Connection};
use mesh_distribution::server::{Limits, Peer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::*;

/// Waits until the peer has closed a connection.
async fn closed(mut socket: impl tokio::io::AsyncRead + Unpin) {
    let mut buffer = [0; 1024];
    let read = async { while matches!(socket.read(&mut buffer).await, Ok(1..)) {} };
    let waited = tokio::time::timeout(PATIENCE, read).await;
    waited.expect("the other side closes it");
}

#[tokio::test]
async fn whoever_has_no_identity_is_few_and_short() {
    let pki = Pki::new();
    let limits = Limits {
        handshake: Duration::from_millis(400),
        anonymous: Duration::from_millis(400),
        unidentified: 4,
        unidentified_of_one: 4,
        ..Limits::default()
    };
    let controller = Controller::start_with(&pki, hub([]), limits).await;
    // They connect and say nothing.
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(
            TcpStream::connect(controller.address)
                .await
                .expect("connected"),
        );
    }
    eventually("they are accepted", || {
        controller.tally.counts().connections == 4
    })
    .await;
    let began = Instant::now();
    let one_more = TcpStream::connect(controller.address)
        .await
        .expect("connected");
    closed(one_more).await;
    assert!(
        began.elapsed() < limits.handshake,
        "it was not turned away at once"
    );
    assert_eq!(controller.tally.counts().turned_away, 1);
    for socket in silent {
        closed(socket).await;
    }
    eventually("they took too long", || {
        controller.tally.counts().handshakes_failed == 4
    })
    .await;

    // Without a certificate, and without saying anything more.
    let anonymous = connect(controller.address, pki.client(Peer::Anonymous));
    let Connection { io, .. } = anonymous.connect().await.expect("a handshake");
    closed(io).await;
    // And a node gets in, now that there is room again.
    let n1 = node(&pki, "n1", controller.address, NodeOptions::default());
    known(&n1, "it is told", is_current).await;
}

#[tokio::test]
async fn a_node_has_few_connections() {
    let pki = Pki::new();
    let limits = Limits {
        of_one_node: 2,
        ..Limits::default()
    };
    let controller = Controller::start_with(&pki, hub([]), limits).await;
    let client = connect(controller.address, pki.client(Peer::Node("n1".to_owned())));
    let first = client.connect().await.expect("a handshake");
    let second = client.connect().await.expect("a handshake");
    eventually("both are there", || {
        controller.tally.counts().connections == 2
    })
    .await;
    let third = client.connect().await.expect("a handshake");
    closed(third.io).await;
    eventually("it was turned away", || {
        controller.tally.counts().turned_away == 1
    })
    .await;
    drop(first);
    let mut again = None;
    for _ in 0..100 {
        let connection = client.connect().await.expect("a handshake");
        let turned_away = controller.tally.counts().turned_away;
        tokio::time::sleep(Duration::from_millis(30)).await;
        if controller.tally.counts().turned_away == turned_away {
            again = Some(connection);
            break;
        }
    }
    assert!(again.is_some(), "a place that is left is given to the next");
    drop(second);
}

#[tokio::test]
async fn a_connection_lasts_no_longer_than_its_certificate() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    let until = SystemTime::now() + Duration::from_millis(1500);
    let tls = pki.client_until(Peer::Node("n1".to_owned()), until);
    let n1 = mesh_distribution::node::Subscription::start(mesh_distribution::node::Options {
        node: "n1".to_owned(),
        version: "1.0.0".to_owned(),
        connect: std::sync::Arc::new(connect(controller.address, tls)),
        cache: None,
        answers: NodeOptions::default().answers,
    });
    known(&n1, "it is told", is_current).await;
    known(&n1, "it is ended", is_broken).await;
    assert!(SystemTime::now() >= until);
    controller.wait_for_nodes(0).await;
}

#[tokio::test]
async fn what_is_no_tls_is_closed() {
    let pki = Pki::new();
    let controller = Controller::start(&pki, hub([])).await;
    let mut socket = TcpStream::connect(controller.address)
        .await
        .expect("connected");
    tokio::io::AsyncWriteExt::write_all(&mut socket, b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("written");
    closed(socket).await;
    eventually("it is counted", || {
        controller.tally.counts().handshakes_failed == 1
    })
    .await;
}
