//! Many bytes, many streams, slow applications.

use std::time::{Duration, Instant};

use mesh_core::outcome::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::mesh::{Mesh, eventually, run};

/// Bytes that tell their position, so that loss, repetition and exchange all show.
fn pattern(position: u64) -> u8 {
    (position ^ (position >> 8) ^ (position >> 16) ^ (position >> 24)) as u8
}

async fn pour(socket: &mut (impl AsyncWriteExt + Unpin), total: u64) {
    let mut position = 0;
    let mut chunk = Vec::new();
    while position < total {
        let length = (total - position).min(200_001);
        chunk.clear();
        chunk.extend((position..position + length).map(pattern));
        socket.write_all(&chunk).await.unwrap();
        position += length;
    }
    socket.shutdown().await.unwrap();
}

async fn check(socket: &mut (impl AsyncReadExt + Unpin), total: u64) {
    let mut position = 0;
    let mut chunk = vec![0; 150_001];
    loop {
        let count = socket.read(&mut chunk).await.unwrap();
        if count == 0 {
            break;
        }
        for byte in &chunk[..count] {
            assert_eq!(*byte, pattern(position), "at byte {position}");
            position += 1;
        }
    }
    assert_eq!(position, total);
}

async fn both_ways(client: &mut TcpStream, server: &mut TcpStream, up: u64, down: u64) {
    let (mut client_reads, mut client_writes) = client.split();
    let (mut server_reads, mut server_writes) = server.split();
    tokio::join!(
        pour(&mut client_writes, up),
        check(&mut server_reads, up),
        pour(&mut server_writes, down),
        check(&mut client_reads, down),
    );
}

const MIB: u64 = 1 << 20;

#[test]
fn every_byte_arrives_once_and_in_order() {
    run(async {
        let mesh = Mesh::new().await;
        for (up, down) in [
            (64 * MIB, 0),
            (0, 64 * MIB),
            (64 * MIB, 16 * MIB),
            (1, 70_000),
            (16_376, 16_377),
        ] {
            let mut c = mesh.connect().await;
            both_ways(&mut c.client, &mut c.server, up, down).await;
            let report = c.opened.stream.closed().await;
            assert_eq!((report.sent, report.received), (up, down));
            assert_eq!(report.reason, Reason::Finished);
            let report = c.accepted.closed().await;
            assert_eq!((report.sent, report.received), (up, down));
        }
    });
}

#[test]
fn two_bulk_streams_share_a_tunnel() {
    run(async {
        let mesh = Mesh::new().await;
        let (mut a, mut b) = (mesh.connect().await, mesh.connect().await);
        assert_eq!(mesh.pool.figures().tunnels, 1);
        tokio::join!(
            both_ways(&mut a.client, &mut a.server, 16 * MIB, 8 * MIB),
            both_ways(&mut b.client, &mut b.server, 8 * MIB, 16 * MIB),
        );
        for c in [a, b] {
            assert_eq!(c.opened.stream.closed().await.reason, Reason::Finished);
        }
    });
}

#[test]
fn a_tunnel_with_a_bulk_stream_takes_no_other() {
    run(async {
        let mesh = Mesh::new().await;
        let mut bulk = mesh.connect().await;
        let (mut reads, mut writes) = (&mut bulk.server, &mut bulk.client);
        tokio::join!(pour(&mut writes, 64 * MIB), check(&mut reads, 64 * MIB));
        let mut small = mesh.connect().await;
        assert_eq!(mesh.pool.figures().tunnels, 2);
        both_ways(&mut small.client, &mut small.server, 10, 10).await;
    });
}

#[test]
fn two_hundred_streams_echo_in_one_tunnel() {
    run(async {
        let mesh = Mesh::new().await;
        let mut tasks = Vec::new();
        for number in 0..200_u32 {
            let c = mesh.connect().await;
            tasks.push(tokio::task::spawn_local(async move {
                let (mut client, mut server) = (c.client, c.server);
                let echo = async {
                    let mut buffer = [0; 4];
                    while server.read_exact(&mut buffer).await.is_ok() {
                        server.write_all(&buffer).await.unwrap();
                    }
                };
                let ask = async {
                    for round in 0..50 {
                        let word = (number * 1000 + round).to_be_bytes();
                        client.write_all(&word).await.unwrap();
                        let mut answer = [0; 4];
                        client.read_exact(&mut answer).await.unwrap();
                        assert_eq!(answer, word, "an answer belongs to its own connection");
                    }
                    client.shutdown().await.unwrap();
                };
                tokio::join!(echo, ask);
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(mesh.dialler.dials.get(), 1);
        eventually("all streams end", || mesh.server.figures().streams == 0).await;
    });
}

#[test]
fn a_slow_reader_holds_its_window_and_delays_nobody() {
    run(async {
        let mesh = Mesh::new().await;
        let mut slow = mesh.connect().await;
        let mut other = mesh.connect().await;
        // The server of this stream reads nothing; the client writes until nothing moves any more.
        let chunk = vec![7; 1 << 20];
        let mut written = 0;
        while let Ok(Ok(count)) =
            tokio::time::timeout(Duration::from_millis(200), slow.client.write(&chunk)).await
        {
            written += count;
        }
        // Two kernel buffers on each side and at most a grown window between them.
        assert!(written < 48 << 20, "{written} bytes are on their way");
        let held = slow.opened.stream.bytes().0 - slow.accepted.bytes().0;
        assert!(held <= 4 << 20, "{held} bytes are held by the tunnel");
        // Meanwhile the other stream is served as ever: a machine that halts delays a few, a stream in the way delays all.
        let mut delayed = 0;
        for _ in 0..200 {
            let begun = Instant::now();
            other.client.write_all(b"ping").await.unwrap();
            let mut buffer = [0; 4];
            other.server.read_exact(&mut buffer).await.unwrap();
            other.server.write_all(&buffer).await.unwrap();
            other.client.read_exact(&mut buffer).await.unwrap();
            delayed += usize::from(begun.elapsed() > Duration::from_millis(20));
        }
        assert!(delayed < 100, "{delayed} of 200 were delayed");
        // And the slow one loses nothing.
        let mut rest = vec![0; written];
        slow.server.read_exact(&mut rest).await.unwrap();
        assert!(rest.iter().all(|byte| *byte == 7));
        slow.client.write_all(b"end").await.unwrap();
        slow.server.read_exact(&mut rest[..3]).await.unwrap();
        assert_eq!(&rest[..3], b"end");
    });
}

#[test]
fn a_reader_that_never_reads_does_not_delay_a_reset() {
    run(async {
        let mesh = Mesh::new().await;
        let mut c = mesh.connect().await;
        let chunk = vec![7; 1 << 20];
        while let Ok(Ok(_)) =
            tokio::time::timeout(Duration::from_millis(100), c.client.write(&chunk)).await
        {}
        crate::socket::reset(&c.client);
        drop(c.client);
        let report = tokio::time::timeout(Duration::from_secs(2), c.accepted.closed())
            .await
            .expect("the reset overtakes what waits");
        assert_eq!(report.reason, Reason::ClientReset);
    });
}

#[test]
fn many_small_requests_are_not_bulk() {
    run(async {
        let mesh = Mesh::new().await;
        let mut c = mesh.connect().await;
        let mut buffer = [0; 400];
        for _ in 0..20_000 {
            c.client.write_all(&[1; 100]).await.unwrap();
            c.server.read_exact(&mut buffer[..100]).await.unwrap();
            c.server.write_all(&[2; 400]).await.unwrap();
            c.client.read_exact(&mut buffer).await.unwrap();
        }
        let _another = mesh.connect().await;
        assert_eq!(mesh.pool.figures().tunnels, 1);
    });
}
