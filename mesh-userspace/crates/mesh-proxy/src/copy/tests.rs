//! Every way in which a connection can end, from either side, and what the other side sees.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(5);

struct Scene {
    client: TcpStream,
    server: TcpStream,
    meter: Rc<Meter>,
    carried: JoinHandle<Ended>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

async fn scene() -> Scene {
    let (client, client_end) = pair().await;
    let (mut server, server_end) = pair().await;
    let meter = Rc::new(Meter::default());
    let carried = tokio::task::spawn_local(both_ways(
        client_end,
        server_end,
        b"kept".to_vec(),
        Rc::clone(&meter),
    ));
    let mut first = [0; 4];
    server.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"kept");
    meter.sent.set(0);
    Scene {
        client,
        server,
        meter,
        carried,
    }
}

async fn local(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new()
        .run_until(timeout(Duration::from_secs(30), test))
        .await
        .unwrap();
}

async fn read_end(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(SOON, connection.read_to_end(&mut bytes))
        .await
        .unwrap()
        .map(|_| bytes)
}

fn is_reset<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
    result.unwrap_err().kind() == io::ErrorKind::ConnectionReset
}

#[tokio::test]
async fn each_side_may_finish_first_and_the_other_goes_on() {
    local(async {
        for client_first in [true, false] {
            let mut scene = scene().await;
            let (first, second) = if client_first {
                (&mut scene.client, &mut scene.server)
            } else {
                (&mut scene.server, &mut scene.client)
            };
            first.write_all(b"question").await.unwrap();
            first.shutdown().await.unwrap();
            assert_eq!(read_end(second).await.unwrap(), b"question");
            tokio::time::sleep(Duration::from_millis(20)).await;
            second.write_all(b"the answer").await.unwrap();
            second.shutdown().await.unwrap();
            assert_eq!(read_end(first).await.unwrap(), b"the answer");
            let ended = scene.carried.await.unwrap();
            assert_eq!(ended.reason, Reason::Finished);
            let bytes = if client_first { (8, 10) } else { (10, 8) };
            assert_eq!((ended.sent, ended.received), bytes);
        }
    })
    .await;
}

#[tokio::test]
async fn a_reset_reaches_the_other_side_as_a_reset() {
    local(async {
        for client_resets in [true, false] {
            let mut scene = scene().await;
            scene.client.write_all(b"x").await.unwrap();
            scene.server.read_exact(&mut [0]).await.unwrap();
            let reason = if client_resets {
                crate::reset::now(scene.client);
                assert!(is_reset(read_end(&mut scene.server).await));
                Reason::ClientReset
            } else {
                crate::reset::now(scene.server);
                assert!(is_reset(read_end(&mut scene.client).await));
                Reason::ServerReset
            };
            assert_eq!(scene.carried.await.unwrap().reason, reason);
        }
    })
    .await;
}

#[tokio::test]
async fn a_reset_after_a_half_close_still_reaches_the_other_side() {
    local(async {
        let mut scene = scene().await;
        scene.client.shutdown().await.unwrap();
        assert_eq!(read_end(&mut scene.server).await.unwrap(), b"");
        crate::reset::now(scene.server);
        assert!(is_reset(read_end(&mut scene.client).await));
        assert_eq!(scene.carried.await.unwrap().reason, Reason::ServerReset);
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back_and_a_reset_is_noticed_meanwhile() {
    local(async {
        let mut scene = scene().await;
        let chunk = vec![7; 64 << 10];
        let mut written = 0;
        while let Ok(result) = timeout(Duration::from_millis(200), scene.client.write(&chunk)).await
        {
            written += result.unwrap();
            assert!(written < 64 << 20, "nobody reads, and it is still taken");
        }
        crate::reset::now(scene.client);
        let ended = timeout(SOON, scene.carried).await.unwrap().unwrap();
        assert_eq!(ended.reason, Reason::ClientReset);
        let mut taken = Vec::new();
        assert!(is_reset(scene.server.read_to_end(&mut taken).await));
    })
    .await;
}

#[tokio::test]
async fn bytes_arrive_exactly_in_both_directions_at_once() {
    local(async {
        let mut scene = scene().await;
        const SIZE: usize = 8 << 20;
        let up: Vec<u8> = (0..SIZE).map(|i| (i * 7 % 251) as u8).collect();
        let down: Vec<u8> = (0..SIZE).map(|i| (i * 13 % 241) as u8).collect();
        let (mut client_read, mut client_write) = scene.client.split();
        let (mut server_read, mut server_write) = scene.server.split();
        let send_up = async {
            client_write.write_all(&up).await.unwrap();
            client_write.shutdown().await.unwrap();
        };
        let send_down = async {
            server_write.write_all(&down).await.unwrap();
            server_write.shutdown().await.unwrap();
        };
        let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
        let (.., one, two) = tokio::join!(
            send_up,
            send_down,
            server_read.read_to_end(&mut got_up),
            client_read.read_to_end(&mut got_down)
        );
        one.unwrap();
        two.unwrap();
        assert!(got_up == up && got_down == down);
        let ended = scene.carried.await.unwrap();
        assert_eq!(
            (ended.reason, ended.sent, ended.received),
            (Reason::Finished, SIZE as u64, SIZE as u64)
        );
    })
    .await;
}

#[tokio::test]
async fn a_cut_resets_both_sides() {
    local(async {
        let mut scene = scene().await;
        scene.client.write_all(b"abc").await.unwrap();
        scene.server.read_exact(&mut [0; 3]).await.unwrap();
        assert_eq!(scene.meter.bytes(), (3, 0));
        scene.meter.cut(Reason::PolicyRevoked);
        assert!(is_reset(read_end(&mut scene.client).await));
        assert!(is_reset(read_end(&mut scene.server).await));
        assert_eq!(scene.carried.await.unwrap().reason, Reason::PolicyRevoked);
    })
    .await;
}

#[tokio::test]
async fn a_dropped_pair_is_reset_never_closed_cleanly() {
    local(async {
        let mut scene = scene().await;
        tokio::task::yield_now().await;
        scene.carried.abort();
        assert!(is_reset(read_end(&mut scene.client).await));
        assert!(is_reset(read_end(&mut scene.server).await));
    })
    .await;
}
