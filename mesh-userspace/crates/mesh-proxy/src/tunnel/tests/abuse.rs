//! Peers that break the protocol lose their tunnel, are counted, and cost what is bounded. Nobody else notices.

use std::sync::Arc;
use std::time::Duration;

use mesh_core::addr::{AppAddr, ClientAddr};
use mesh_core::outcome::Reason;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::hostile::Hostile;
use super::mesh::{Mesh, eventually, pair, run};
use crate::wire::{Frame, Open, RefusalCode, ResetCode};

impl Hostile {
    async fn dial(mesh: &Mesh) -> Self {
        let config = Arc::clone(&mesh.client_config);
        Self::connect(mesh.key.address.0, config, &mesh.key.peers[0]).await
    }

    async fn accept(mesh: &Mesh, listener: &TcpListener) -> Self {
        let (socket, _) = listener.accept().await.unwrap();
        Self::take(socket, Arc::clone(&mesh.server_config)).await
    }
}

fn open(stream: u32, mesh: &Mesh) -> Frame<'static> {
    Frame::Open {
        stream,
        open: Box::new(Open {
            destination: AppAddr(mesh.applications_address()),
            client: ClientAddr(([10, 0, 0, 1], 4242).into()),
            service: None,
            trace: None,
        }),
    }
}

const FULL: &[u8] = &[7; 16_000];

#[test]
fn a_client_that_breaks_the_protocol_loses_its_tunnel() {
    run(async {
        let mesh = Mesh::new().await;
        // The inbound story never answers: streams stay as the peer opens them.
        mesh.story.delay.set(Duration::from_secs(50));
        let mut good = None;
        let data = |stream, bytes| Frame::Data { stream, bytes };
        let fin = |stream| Frame::Fin { stream };
        let credit = |stream, bytes| Frame::Credit { stream, bytes };
        let overflow: Vec<_> = (0..5).map(|_| data(1, FULL)).collect();
        let cases: Vec<(&str, Vec<Frame<'_>>)> = vec![
            ("DATA of no stream", vec![data(1, b"x")]),
            ("FIN of no stream", vec![fin(1)]),
            (
                "RESET of no stream",
                vec![Frame::Reset {
                    stream: 1,
                    code: ResetCode::Fault,
                }],
            ),
            ("CREDIT of no stream", vec![credit(1, 1)]),
            ("RAW of no stream", vec![Frame::Raw { stream: 1 }]),
            ("an even number", vec![open(2, &mesh)]),
            ("a number twice", vec![open(3, &mesh), open(3, &mesh)]),
            ("a smaller number", vec![open(5, &mesh), open(3, &mesh)]),
            (
                "OPEN_RESULT",
                vec![
                    open(1, &mesh),
                    Frame::OpenResult {
                        stream: 1,
                        result: Ok(()),
                    },
                ],
            ),
            ("FIN twice", vec![open(1, &mesh), fin(1), fin(1)]),
            (
                "DATA after FIN",
                vec![open(1, &mesh), fin(1), data(1, b"x")],
            ),
            (
                "more than the window",
                [vec![open(1, &mesh)], overflow].concat(),
            ),
            (
                "more credit than can be",
                vec![open(1, &mesh), credit(1, u32::MAX)],
            ),
            (
                "RAW before acceptance",
                vec![open(1, &mesh), Frame::Raw { stream: 1 }],
            ),
            (
                "RAW among others",
                vec![open(1, &mesh), open(3, &mesh), Frame::Raw { stream: 1 }],
            ),
        ];
        for (number, (what, said)) in (1..).zip(cases) {
            let mut hostile = Hostile::dial(&mesh).await;
            for frame in said {
                hostile.say(&[frame]).await;
            }
            assert!(!hostile.hears(|_| false).await, "{what}");
            eventually(what, || mesh.server.figures().protocol_errors == number).await;
            if good.is_none() {
                mesh.story.delay.set(Duration::ZERO);
                good = Some(mesh.connect().await);
                mesh.story.delay.set(Duration::from_secs(50));
            }
        }
        // Everybody else goes on.
        let mut good = good.unwrap();
        good.client.write_all(b"good").await.unwrap();
        let mut bytes = [0; 4];
        good.server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(mesh.server.figures().tunnels, 1);
        eventually("no story is left over", || {
            mesh.story.peers.borrow().len() == mesh.story.dropped.get() + 1
        })
        .await;
    });
}

#[test]
fn bytes_that_are_no_frames_end_the_tunnel() {
    run(async {
        let mesh = Mesh::new().await;
        for (number, junk) in (1..).zip([
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            &[0; 8],
            &[3, 255, 255, 255, 0, 0, 0, 1],
            &[3, 0, 0],
            &[1, 0, 0, 3, 0, 0, 0, 1, 1, 9, 9],
        ]) {
            let mut hostile = Hostile::dial(&mesh).await;
            hostile.send(junk).await;
            assert!(!hostile.hears(|_| false).await);
            eventually("it is counted", || {
                mesh.server.figures().protocol_errors == number
            })
            .await;
        }
    });
}

#[test]
fn junk_instead_of_tls_ends_the_connection() {
    run(async {
        let mesh = Mesh::new().await;
        // Bytes in clear where records should be, before and after a handshake.
        let mut junk = TcpStream::connect(mesh.key.address.0).await.unwrap();
        junk.write_all(&[0x16, 3, 1, 0xff, 0xff, 1, 2, 3])
            .await
            .unwrap();
        junk.write_all(&[7; 1000]).await.unwrap();
        let mut rest = Vec::new();
        let _reset = junk.read_to_end(&mut rest).await;
        eventually("it is counted", || {
            mesh.server.figures().handshake_failures == 1
        })
        .await;
        assert_eq!(mesh.server.figures().tunnels, 0);
    });
}

#[test]
fn a_flood_of_streams_is_refused_beyond_the_limit() {
    run(async {
        let mesh = Mesh::new().await;
        mesh.story.delay.set(Duration::from_secs(50));
        let mut hostile = Hostile::dial(&mesh).await;
        for number in 0..1000 {
            assert!(hostile.say(&[open(2 * number + 1, &mesh)]).await);
        }
        let mut refused = 0;
        hostile
            .hears(|frame| {
                let Frame::OpenResult {
                    result: Err(refusal),
                    ..
                } = frame
                else {
                    panic!("nothing else is expected")
                };
                assert_eq!(refusal.code, RefusalCode::Overloaded);
                refused += 1;
                refused == 1000 - 512
            })
            .await;
        assert_eq!(mesh.server.figures().streams, 512);
        drop(hostile);
        eventually("all stories are dropped", || {
            mesh.story.dropped.get() == 512
        })
        .await;
    });
}

#[test]
fn who_opens_streams_only_to_reset_them_is_cut_off() {
    run(async {
        let mesh = Mesh::new().await;
        mesh.story.delay.set(Duration::from_secs(50));
        let hasty = |number: u32| {
            let (stream, code) = (2 * number + 1, ResetCode::Application);
            [open(stream, &mesh), Frame::Reset { stream, code }]
        };
        // A few hundred applications that give up at once are no attack.
        let mut honest = Hostile::dial(&mesh).await;
        for number in 0..800 {
            assert!(honest.say(&hasty(number)).await);
        }
        mesh.story.delay.set(Duration::ZERO);
        honest.say(&[open(1601, &mesh)]).await;
        let _server = mesh.accept().await;
        assert_eq!(mesh.server.figures().protocol_errors, 0);
        mesh.story.delay.set(Duration::from_secs(50));
        // Thousands in a moment are one, however little is open at any time.
        let mut hostile = Hostile::dial(&mesh).await;
        for number in 0..5_000 {
            if !hostile.say(&hasty(number)).await {
                break;
            }
        }
        let cut_off = tokio::time::timeout(Duration::from_secs(5), hostile.hears(|_| false)).await;
        assert_eq!(cut_off, Ok(false), "the tunnel is still open");
        assert_eq!(mesh.server.figures().protocol_errors, 1);
        assert_eq!(mesh.server.figures().tunnels, 1);
    });
}

#[test]
fn who_asks_for_answers_and_never_reads_them_is_cut_off() {
    run(async {
        let mesh = Mesh::new().await;
        mesh.story.refuse.set(Some(RefusalCode::PolicyDenied));
        let mut hostile = Hostile::dial(&mesh).await;
        let mut number = 0;
        let cut_off = async {
            while number < 2_000_000 {
                let batch: Vec<_> = (number..number + 100)
                    .map(|number| open(2 * number + 1, &mesh))
                    .collect();
                number += 100;
                if !hostile.say(&batch).await {
                    return true;
                }
            }
            false
        };
        assert!(cut_off.await, "{number} answers were kept");
        eventually("it is counted", || {
            mesh.server.figures().protocol_errors == 1 || mesh.server.figures().tunnels == 0
        })
        .await;
    });
}

#[test]
fn data_for_closed_streams_is_ignored_within_its_credit() {
    run(async {
        let mesh = Mesh::new().await;
        mesh.story.refuse.set(Some(RefusalCode::PolicyDenied));
        let mut hostile = Hostile::dial(&mesh).await;
        hostile.say(&[open(1, &mesh)]).await;
        assert!(
            hostile
                .hears(|frame| matches!(frame, Frame::OpenResult { .. }))
                .await
        );
        // What may have been under way when the refusal left.
        let bytes = FULL;
        for _ in 0..4 {
            assert!(hostile.say(&[Frame::Data { stream: 1, bytes }]).await);
        }
        hostile
            .say(&[Frame::Fin { stream: 1 }, open(3, &mesh)])
            .await;
        assert!(
            hostile
                .hears(|frame| matches!(frame, Frame::OpenResult { stream: 3, .. }))
                .await
        );
        // And no more than that.
        for _ in 0..10 {
            hostile.say(&[Frame::Data { stream: 1, bytes }]).await;
        }
        assert!(!hostile.hears(|_| false).await);
        assert_eq!(mesh.server.figures().protocol_errors, 1);
    });
}

#[test]
fn a_server_that_breaks_the_protocol_loses_its_tunnel() {
    run(async {
        let mut mesh = Mesh::new().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        mesh.key.address.0 = listener.local_addr().unwrap();
        let accepted = || Frame::OpenResult {
            stream: 1,
            result: Ok(()),
        };
        let data = |bytes| Frame::Data { stream: 1, bytes };
        let cases: Vec<(&str, Vec<Frame<'_>>)> = vec![
            ("OPEN", vec![open(3, &mesh)]),
            ("DATA before acceptance", vec![data(b"x")]),
            ("FIN before acceptance", vec![Frame::Fin { stream: 1 }]),
            ("accepted twice", vec![accepted(), accepted()]),
            (
                "RAW without being asked",
                vec![accepted(), Frame::Raw { stream: 1 }],
            ),
            (
                "a stream that was never opened",
                vec![Frame::Fin { stream: 3 }],
            ),
            (
                "too much",
                [vec![accepted()], vec![data(FULL); 600]].concat(),
            ),
        ];
        for (number, (what, said)) in (1..).zip(cases) {
            // The application reads nothing, so that no credit is given back.
            let (_client, app) = pair().await;
            let attack = async {
                let mut hostile = Hostile::accept(&mesh, &listener).await;
                hostile
                    .hears(|frame| matches!(frame, Frame::Open { .. }))
                    .await;
                for frame in said {
                    if !hostile.say(&[frame]).await {
                        break;
                    }
                }
                assert!(!hostile.hears(|_| false).await, "{what}");
            };
            let (outcome, ()) = tokio::join!(mesh.open(app), attack);
            match outcome {
                Ok(opened) => {
                    let report = opened.stream.closed().await;
                    assert_eq!(report.reason, Reason::PeerProtocol, "{what}");
                }
                Err(error) => assert_eq!(error.reason, Reason::PeerProtocol, "{what}"),
            }
            assert_eq!(mesh.pool.figures().protocol_errors, number, "{what}");
        }
    });
}

#[test]
fn a_peer_that_vanishes_in_the_middle_resets_its_streams() {
    run(async {
        let mesh = Mesh::new().await;
        let mut hostile = Hostile::dial(&mesh).await;
        hostile.say(&[open(1, &mesh)]).await;
        let mut server = mesh.accept().await;
        hostile
            .say(&[Frame::Data {
                stream: 1,
                bytes: b"half of a mess",
            }])
            .await;
        let mut bytes = [0; 14];
        server.read_exact(&mut bytes).await.unwrap();
        drop(hostile);
        let error = server.read(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        eventually("the tunnel is gone", || mesh.server.figures().tunnels == 0).await;
    });
}
