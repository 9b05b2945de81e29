//! Two ends of a TLS connection, with rustls itself at one of them where that says more.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::identity::SpiffeId;
use mesh_core::outcome::Reason;
use mesh_identity::authority::Authority;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::buffer::CAPACITY;
use super::{Channel, Received, Session, TlsError};

struct Configs {
    client: Arc<rustls::ClientConfig>,
    server: Arc<rustls::ServerConfig>,
    name: ServerName<'static>,
}

fn configs() -> Configs {
    let directory = tempfile::tempdir().unwrap();
    let identity = |account: &str| -> SpiffeId {
        format!("spiffe://test.warren/ns/shop/sa/{account}")
            .parse()
            .unwrap()
    };
    let (client, server) = (identity("client"), identity("web"));
    let authority = Authority::open_or_create(directory.path(), client.trust_domain()).unwrap();
    let (hour, bundle) = (Duration::from_secs(3600), authority.bundle());
    let own = authority.issue(&client, hour).unwrap();
    Configs {
        client: mesh_identity::tls::client_config(&own, &bundle, std::slice::from_ref(&server))
            .unwrap(),
        server: mesh_identity::tls::server_config(
            &[authority.issue(&server, hour).unwrap()],
            &bundle,
        )
        .unwrap(),
        name: mesh_identity::tls::server_name(&server),
    }
}

fn run<F: Future>(story: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(story)
}

const LIMIT: Duration = Duration::from_secs(5);

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (near.unwrap(), far.unwrap().0)
}

async fn channels() -> ((Channel, Session), (Channel, Session)) {
    let (configs, (near, far)) = (configs(), sockets().await);
    let (client, server) = tokio::join!(
        async {
            let (mut channel, session) =
                Channel::connect(near, configs.client, configs.name, LIMIT).await?;
            // The end of the handshake leaves with the first records; here there are none.
            poll_fn(|cx| channel.poll_flush(cx)).await?;
            Ok::<_, TlsError>((channel, session))
        },
        Channel::accept(far, configs.server, LIMIT)
    );
    (client.unwrap(), server.unwrap())
}

async fn send(channel: &mut Channel, bytes: &[u8]) {
    for chunk in bytes.chunks(CAPACITY / 2) {
        for chunk in chunk.chunks(5000) {
            if channel.outbox.room() < chunk.len() {
                channel.seal().unwrap();
            }
            channel.outbox.append(chunk);
        }
        channel.seal().unwrap();
        poll_fn(|cx| channel.poll_flush(cx)).await.unwrap();
    }
}

/// Reads so many bytes, or to the end.
async fn receive(channel: &mut Channel, count: usize) -> Result<Vec<u8>, TlsError> {
    let mut got = Vec::new();
    loop {
        let received = channel.open_records()?;
        let payloads = channel.inbox.payloads();
        let records = payloads.len();
        got.extend(payloads.flatten());
        channel.inbox.handed_over(records);
        if received == Received::Last || got.len() >= count {
            channel.inbox.release();
            return Ok(got);
        }
        if records == 0 {
            channel.inbox.release();
            if !poll_fn(|cx| channel.poll_fill(cx)).await? {
                return Err(TlsError::Truncated);
            }
        }
    }
}

#[test]
fn both_sides_learn_who_the_other_is() {
    run(async {
        let ((_, client), (_, server)) = channels().await;
        let identity = |chain: &[_]| mesh_identity::tls::peer_identity(chain).unwrap();
        assert_eq!(identity(&client.peer).service_account(), "web");
        assert_eq!(identity(&server.peer).service_account(), "client");
        assert_eq!(identity(&server.shown).service_account(), "web");
        assert_eq!(client.name, "TLSv1.3 TLS13_AES_128_GCM_SHA256");
    });
}

#[test]
fn bytes_arrive_and_the_end_is_told() {
    run(async {
        let ((mut client, _), (mut server, _)) = channels().await;
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (_, got) = tokio::join!(send(&mut client, &sent), receive(&mut server, sent.len()));
        assert!(got.unwrap() == sent);
        server.seal_close().unwrap();
        poll_fn(|cx| server.poll_flush(cx)).await.unwrap();
        assert!(receive(&mut client, 1).await.unwrap().is_empty());
        // The other direction is still open.
        send(&mut client, b"still").await;
        assert_eq!(receive(&mut server, 5).await.unwrap(), b"still");
        drop(client);
        assert!(matches!(
            receive(&mut server, 1).await,
            Err(TlsError::Truncated | TlsError::Socket(_))
        ));
    });
}

#[test]
fn keys_are_renewed_on_the_way() {
    run(async {
        let ((mut client, _), (mut server, _)) = channels().await;
        for round in 0..5_u8 {
            send(&mut client, &[round; 100]).await;
            assert_eq!(receive(&mut server, 100).await.unwrap(), [round; 100]);
            let Channel {
                outbox,
                sealer,
                keys,
                ..
            } = &mut client;
            outbox.update_keys(sealer, keys).unwrap();
            send(&mut server, &[round; 100]).await;
            assert_eq!(receive(&mut client, 100).await.unwrap(), [round; 100]);
        }
    });
}

#[test]
fn rustls_itself_understands_every_record() {
    run(async {
        let (configs, (mut near, far)) = (configs(), sockets().await);
        let rustls_side = async {
            let mut tls = rustls::ClientConnection::new(configs.client, configs.name).unwrap();
            let mut got = Vec::new();
            let mut wire = Vec::new();
            loop {
                while tls.wants_write() {
                    wire.clear();
                    tls.write_tls(&mut wire).unwrap();
                    near.write_all(&wire).await.unwrap();
                }
                wire.resize(20_000, 0);
                let count = near.read(&mut wire).await.unwrap();
                let mut bytes = &wire[..count];
                while !bytes.is_empty() {
                    tls.read_tls(&mut bytes).unwrap();
                    let state = tls.process_new_packets().unwrap();
                    let begin = got.len();
                    got.resize(begin + state.plaintext_bytes_to_read(), 0);
                    std::io::Read::read_exact(&mut tls.reader(), &mut got[begin..]).unwrap();
                    if state.peer_has_closed() {
                        // Renew our keys, and ask for new ones.
                        return (got, tls, near);
                    }
                }
                if got.len() == 300_000 {
                    got.push(0);
                    tls.refresh_traffic_keys().unwrap();
                    std::io::Write::write_all(&mut tls.writer(), b"renewed").unwrap();
                }
            }
        };
        let ours = async {
            let (mut channel, _) = Channel::accept(far, configs.server, LIMIT).await.unwrap();
            send(&mut channel, &vec![1; 300_000]).await;
            assert_eq!(receive(&mut channel, 7).await.unwrap(), b"renewed");
            // What answers a request for new keys comes before anything else.
            send(&mut channel, &[2; 50]).await;
            channel.seal_close().unwrap();
            poll_fn(|cx| channel.poll_flush(cx)).await.unwrap();
            channel
        };
        let ((got, ..), _channel) = tokio::join!(rustls_side, ours);
        assert_eq!(got.len(), 300_000 + 1 + 50);
        assert!(got.ends_with(&[2; 50]));
    });
}

#[test]
fn another_protocol_inside_tls_is_refused() {
    run(async {
        let (mut configs, (near, far)) = (configs(), sockets().await);
        let mut other = (*configs.client).clone();
        other.alpn_protocols = Vec::new();
        configs.client = Arc::new(other);
        let (client, server) = tokio::join!(
            Channel::connect(near, configs.client, configs.name, LIMIT),
            Channel::accept(far, configs.server, LIMIT)
        );
        let error = client.map(drop).unwrap_err();
        assert_eq!(error.reason(), Reason::PeerProtocol, "{error}");
        assert!(server.is_err());
    });
}

/// Passes bytes on, with one of them changed.
async fn meddle(mut from: TcpStream, mut to: TcpStream, at: usize) {
    let mut buffer = [0; 4096];
    let mut position = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if (position..position + count).contains(&at) {
            buffer[at - position] ^= 0x10;
        }
        position += count;
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_changed_byte_is_noticed(at in 0_usize..3000) {
        run(async {
            let ((mut client, _), (mut server, _)) = channels().await;
            let (near, far) = sockets().await;
            let (from, to) = (std::mem::replace(&mut client.socket, std::rc::Rc::new(near)), far);
            // The client writes into a socket of ours, and we write into its own.
            let from = std::rc::Rc::into_inner(from).unwrap();
            let meddling = meddle(to, from, at);
            let sending = async {
                for _ in 0..10 {
                    send(&mut client, &[5; 300]).await;
                }
                drop(client);
            };
            let (_, _, got) = tokio::join!(meddling, sending, receive(&mut server, 3000));
            prop_assert!(got.is_err());
            Ok(())
        })?;
    }
}

#[test]
fn records_behind_a_full_batch_outlast_the_turn() {
    run(async {
        let ((mut near, _), (mut far, _)) = channels().await;
        for byte in 0..100 {
            near.outbox.append(&[byte]);
            near.seal().unwrap();
        }
        poll_fn(|cx| near.poll_flush(cx)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(poll_fn(|cx| far.poll_fill(cx)).await.unwrap());
        let mut got = Vec::new();
        // Nothing more arrives: what has, must be found without it.
        loop {
            far.open_records().unwrap();
            let payloads = far.inbox.payloads();
            let count = payloads.len();
            got.extend(payloads.flatten().copied());
            far.inbox.handed_over(count);
            far.inbox.release();
            if count == 0 {
                break;
            }
        }
        assert_eq!(got, (0..100).collect::<Vec<u8>>());
    });
}

/// A message that was begun in one record, and whose length is beyond every limit: rustls refuses it without an alert, and
/// remembers where it stands in the bytes.
#[test]
fn an_impossible_message_is_an_error() {
    run(async {
        for message in [0x01, 0x69] {
            let (configs, (mut near, far)) = (configs(), sockets().await);
            let hello = [22, 3, 1, 0, 6, message, 0xff, 0xff, 0xff, 3, 3];
            near.write_all(&hello).await.unwrap();
            near.shutdown().await.unwrap();
            let outcome = Channel::accept(far, configs.server, LIMIT).await;
            assert!(matches!(outcome, Err(TlsError::Handshake(_))));
        }
    });
}
