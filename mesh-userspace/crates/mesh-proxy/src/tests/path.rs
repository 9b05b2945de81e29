//! From an application's dial to the other application's answer, in one process.

use std::time::Duration;

use mesh_core::addr::{AppAddr, ClientAddr};
use mesh_core::outcome::Reason;
use mesh_core::record::Transport;
use mesh_core::workload::Name;
use tokio::io::AsyncWriteExt;

use super::agent::*;
use super::apps::*;
use super::inside;
use super::scene::*;
use crate::link::{ToAgent, ToWorker};
use crate::tunnel::tests::hostile::Hostile;
use crate::wire::{Frame, Open};

struct Mesh {
    scene: Scene,
    origins: Origins,
    a: Agent,
    b: Agent,
    client: Listening,
    web: Listening,
}

async fn mesh() -> Mesh {
    let scene = Scene::new();
    let origins = Origins::default();
    let (a, b) = (worker_in_thread(&origins), worker_in_thread(&origins));
    a.hello().await;
    b.hello().await;
    a.tell(&scene, &["client"]).await;
    b.tell(&scene, &["web-v1", "web-v2"]).await;
    let client = a.enrol("client").await;
    let web = b.enrol("web-v1").await;
    b.enrol("web-v2").await;
    Mesh {
        scene,
        origins,
        a,
        b,
        client,
        web,
    }
}

impl Mesh {
    async fn dial(&self, destination: std::net::SocketAddr) -> tokio::net::TcpStream {
        dial(&self.origins, self.client, destination).await
    }
}

fn at(name: &str) -> std::net::SocketAddr {
    (address(name), APP_PORT).into()
}

#[test]
fn a_service_is_reached_through_tunnels_and_both_ends_tell_it() {
    if !inside("tests::path::a_service_is_reached_through_tunnels_and_both_ends_tell_it") {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        let (v1, v2) = (App::start("web-v1").await, App::start("web-v2").await);
        let mut reached = Vec::new();
        for _ in 0..40 {
            let mut connection = mesh.dial(service_address()).await;
            let own = connection.local_addr().unwrap();
            reached.push(greeting(&mut connection).await.unwrap());
            let callers = [&v1, &v2].map(|app| app.callers.borrow().clone()).concat();
            assert!(callers.iter().any(|caller| caller.ip() == own.ip()));
            converse(connection).await;
        }
        let to_v1 = reached.iter().filter(|name| *name == "web-v1").count();
        assert!((5..=35).contains(&to_v1), "{reached:?}");

        let out = mesh.a.record(outbound).await;
        assert_eq!(out.reason, Reason::Finished);
        assert_eq!(out.transport, Transport::MutualTls);
        assert_eq!(out.service, Some(Name::new("shop", "web")));
        assert_eq!(out.source.identity, Some(identity("client")));
        assert!(out.tls.as_deref().unwrap().contains("TLS13"), "{out:?}");
        assert_eq!(out.process.unwrap().pid, 42);
        assert!(out.connect_us.is_some());
        assert_eq!((out.bytes_sent, out.bytes_received), (5, 12));
        let arrived = mesh.b.record(inbound).await;
        assert_eq!(arrived.reason, Reason::Finished);
        assert_eq!(arrived.source.identity, Some(identity("client")));
        assert_eq!(arrived.source.workload, Some(Name::new("shop", "client")));
        assert_eq!(arrived.service, Some(Name::new("shop", "web")));
        assert_eq!((arrived.bytes_sent, arrived.bytes_received), (5, 12));
        assert!(arrived.rule.is_some());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(mesh.a.records().len(), 40);
        assert_eq!(mesh.b.records().len(), 40);
    });
}

#[test]
fn a_denied_caller_is_reset_and_both_ends_name_the_rule() {
    if !inside("tests::path::a_denied_caller_is_reset_and_both_ends_name_the_rule") {
        return;
    }
    stage(async {
        let mut mesh = mesh().await;
        let app = App::start("web-v1").await;
        mesh.scene.deny("web-v1", "client");
        mesh.b.tell_world(&mesh.scene).await;
        let mut connection = mesh.dial(at("web-v1")).await;
        expect_reset(&mut connection).await;
        for record in [mesh.a.record(outbound).await, mesh.b.record(inbound).await] {
            assert_eq!(record.reason, Reason::PolicyDenied);
            assert!(
                record.rule.as_deref().unwrap().contains("not-them"),
                "{record:?}"
            );
        }
        assert!(app.callers.borrow().is_empty());
    });
}

#[test]
fn a_changed_policy_cuts_what_it_no_longer_allows() {
    if !inside("tests::path::a_changed_policy_cuts_what_it_no_longer_allows") {
        return;
    }
    stage(async {
        let mut mesh = mesh().await;
        let (_v1, _v2) = (App::start("web-v1").await, App::start("web-v2").await);
        let mut cut = mesh.dial(at("web-v1")).await;
        let mut kept = mesh.dial(at("web-v2")).await;
        greeting(&mut cut).await.unwrap();
        greeting(&mut kept).await.unwrap();
        mesh.scene.deny("web-v1", "client");
        mesh.b.tell_world(&mesh.scene).await;
        expect_reset(&mut cut).await;
        let record = mesh.b.record(inbound).await;
        assert_eq!(record.reason, Reason::PolicyRevoked);
        assert!(record.rule.as_deref().unwrap().contains("not-them"));
        assert_eq!(record.bytes_received, 7);
        assert_eq!(mesh.a.record(outbound).await.reason, Reason::PolicyRevoked);
        converse(kept).await;
    });
}

#[test]
fn another_endpoint_is_tried_and_a_refused_connection_is_refused() {
    if !inside("tests::path::another_endpoint_is_tried_and_a_refused_connection_is_refused") {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        // web-v1 does not listen.
        let v2 = App::start("web-v2").await;
        for _ in 0..10 {
            let mut connection = mesh.dial(service_address()).await;
            connection.write_all(b"early").await.unwrap();
            assert_eq!(greeting(&mut connection).await.unwrap(), "web-v2");
        }
        v2.stop().await;
        let mut refused = mesh.dial(service_address()).await;
        expect_reset(&mut refused).await;
        let record = mesh
            .a
            .record(|record| record.reason == Reason::ConnectionRefused)
            .await;
        assert!(record.detail.is_some());
    });
}

#[test]
fn a_workload_that_dials_itself_stays_on_its_node() {
    if !inside("tests::path::a_workload_that_dials_itself_stays_on_its_node") {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        let _app = App::start("client").await;
        let mut connection = mesh.dial(at("client")).await;
        assert_eq!(greeting(&mut connection).await.unwrap(), "client");
        converse(connection).await;
        let record = mesh.a.record(outbound).await;
        assert_eq!(record.transport, Transport::Itself);
        assert_eq!(record.reason, Reason::Finished);
        assert!(record.rule.is_some());
        assert_eq!(mesh.a.figures().tunnels_outbound, 0);
    });
}

#[test]
fn what_the_kernel_did_not_send_and_what_nobody_has_is_reset() {
    if !inside("tests::path::what_the_kernel_did_not_send_and_what_nobody_has_is_reset") {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        expect_refusal(mesh.client.outbound).await;
        mesh.a
            .record(|record| record.reason == Reason::NoOriginalDestination)
            .await;
        let mut unknown_port = mesh.dial("10.77.9.9:81".parse().unwrap()).await;
        expect_reset(&mut unknown_port).await;
        mesh.a
            .record(|record| record.reason == Reason::NoRoute)
            .await;
    });
}

#[test]
fn connections_in_clear_follow_the_mode() {
    if !inside("tests::path::connections_in_clear_follow_the_mode") {
        return;
    }
    stage(async {
        let mut mesh = mesh().await;
        let app = App::start("web-v1").await;
        // The plaintext listener's own port stands for the application's, since no kernel program assigns the SYN.
        expect_refusal(mesh.web.plaintext).await;
        let record = mesh.b.record(inbound).await;
        assert_eq!(record.reason, Reason::PlaintextRefused);
        assert!(
            record.rule.as_deref().unwrap().contains("strict"),
            "{record:?}"
        );
        mesh.scene.permissive();
        mesh.b.tell_world(&mesh.scene).await;
        // Allowed now. But here only the proxy itself listens: it must not deliver to itself, again and again.
        expect_refusal(mesh.web.plaintext).await;
        mesh.b
            .record(|record| record.reason == Reason::WrongDestination)
            .await;
        assert!(app.callers.borrow().is_empty());
    });
}

#[test]
fn a_root_that_is_no_longer_trusted_cuts_its_tunnels() {
    if !inside("tests::path::a_root_that_is_no_longer_trusted_cuts_its_tunnels") {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        let _app = App::start("web-v1").await;
        let mut connection = mesh.dial(at("web-v1")).await;
        greeting(&mut connection).await.unwrap();
        // Another authority of the same domain takes over on node b, at once.
        let other = Scene::new();
        let identities = other.identities(&["web-v1", "web-v2"], 99);
        mesh.b.end.send_identities(&identities).await.unwrap();
        expect_reset(&mut connection).await;
        let record = mesh.b.record(inbound).await;
        assert_eq!(record.reason, Reason::IdentityRevoked);
        let mut next = mesh.dial(at("web-v1")).await;
        expect_reset(&mut next).await;
        mesh.a
            .record(|record| record.reason == Reason::PeerIdentity)
            .await;
    });
}

#[test]
fn a_renewed_certificate_changes_nothing_for_connections() {
    if !inside("tests::path::a_renewed_certificate_changes_nothing_for_connections") {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        let _app = App::start("web-v1").await;
        let mut old = mesh.dial(at("web-v1")).await;
        greeting(&mut old).await.unwrap();
        let identities = mesh.scene.identities(&["client"], 2);
        mesh.a.end.send_identities(&identities).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut new = mesh.dial(at("web-v1")).await;
        greeting(&mut new).await.unwrap();
        converse(old).await;
        converse(new).await;
    });
}

#[test]
fn a_workload_that_leaves_finishes_its_connections_first() {
    if !inside("tests::path::a_workload_that_leaves_finishes_its_connections_first") {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        let _app = App::start("web-v1").await;
        let mut connection = mesh.dial(at("web-v1")).await;
        greeting(&mut connection).await.unwrap();
        let client = mesh_core::workload::WorkloadId(1);
        let unenrol = ToWorker::Unenrol { workload: client };
        mesh.a.end.send(&unenrol, &[]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        converse(connection).await;
        mesh.a
            .expect(|message| *message == ToAgent::Unenrolled { workload: client })
            .await;
    });
}

#[test]
fn a_stream_under_way_to_a_worker_that_drains_is_taken() {
    if !inside("tests::path::a_stream_under_way_to_a_worker_that_drains_is_taken") {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        let _app = App::start("web-v1").await;
        // A tunnel that carries nothing when the worker begins to drain.
        let config = mesh.scene.client_config("client", "web-v1");
        let tunnels = (address("web-v1"), TUNNEL_PORT).into();
        let mut peer = Hostile::connect(tunnels, config, &identity("web-v1")).await;
        let deadline = Duration::from_secs(20);
        let drain = ToWorker::Drain { deadline };
        mesh.b.end.send(&drain, &[]).await.unwrap();
        assert!(peer.hears(|frame| matches!(frame, Frame::Drain)).await);
        // Who says this has not heard that yet, for all that the worker can know.
        let open = Open {
            destination: AppAddr(at("web-v1")),
            client: ClientAddr((address("client"), 4242).into()),
            service: None,
            trace: None,
        };
        let open = Frame::Open {
            stream: 1,
            open: Box::new(open),
        };
        assert!(peer.say(&[open]).await);
        let taken = |frame: Frame<'_>| {
            matches!(
                frame,
                Frame::OpenResult {
                    stream: 1,
                    result: Ok(())
                }
            )
        };
        assert!(peer.hears(taken).await);
    });
}

#[test]
fn a_drain_waits_and_then_cuts() {
    if !inside("tests::path::a_drain_waits_and_then_cuts") {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        let _app = App::start("web-v1").await;
        let mut short = mesh.dial(at("web-v1")).await;
        let mut long = mesh.dial(at("web-v1")).await;
        greeting(&mut short).await.unwrap();
        greeting(&mut long).await.unwrap();
        let deadline = Duration::from_millis(700);
        let drain = ToWorker::Drain { deadline };
        mesh.a.end.send(&drain, &[]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        converse(short).await;
        expect_reset(&mut long).await;
        let record = mesh
            .a
            .record(|record| record.reason == Reason::Drained)
            .await;
        assert!(record.duration_us > 600_000, "{record:?}");
        mesh.a
            .record(|record| record.reason == Reason::Finished)
            .await;
    });
}

#[test]
fn host_services_that_share_an_address_are_told_apart() {
    if !inside("tests::path::host_services_that_share_an_address_are_told_apart") {
        return;
    }
    stage(async {
        let mut scene = Scene::new();
        scene.share_an_address();
        let origins = Origins::default();
        let (a, b) = (worker_in_thread(&origins), worker_in_thread(&origins));
        a.hello().await;
        b.hello().await;
        a.tell(&scene, &["client"]).await;
        b.tell(&scene, &["web-v1", "web-v2"]).await;
        let client = a.enrol("client").await;
        let host = address("web-v1");
        b.host(host).await;
        b.enrol_host("web-v1", host).await;
        b.enrol_host("web-v2", host).await;
        for (name, port) in [("web-v1", APP_PORT), ("web-v2", APP_PORT + 1)] {
            let app = App::start_at(name, (host, port).into()).await;
            let mut connection = dial(&origins, client, (host, port).into()).await;
            assert_eq!(greeting(&mut connection).await.unwrap(), name);
            converse(connection).await;
            let record = b
                .record(|record| record.destination.identity == Some(identity(name)))
                .await;
            assert_eq!(record.reason, Reason::Finished);
            // Replies to the client's address would not come back to the proxy here.
            let callers = app.callers.borrow().clone();
            assert!(
                callers
                    .iter()
                    .all(|caller| caller.ip() != address("client"))
            );
        }
    });
}

#[test]
fn an_endpoint_outside_the_mesh_is_reached_in_clear() {
    if !inside("tests::path::an_endpoint_outside_the_mesh_is_reached_in_clear") {
        return;
    }
    stage(async {
        let mut mesh = mesh().await;
        let outside = "10.77.5.5".parse().unwrap();
        mesh.scene.move_outside(outside);
        mesh.a.tell_world(&mesh.scene).await;
        let app = App::start_at("outside", (outside, APP_PORT).into()).await;
        let mut connection = mesh.dial(service_address()).await;
        assert_eq!(greeting(&mut connection).await.unwrap(), "outside");
        converse(connection).await;
        let record = mesh.a.record(outbound).await;
        assert_eq!(record.transport, Transport::Plaintext);
        assert_eq!((record.bytes_sent, record.bytes_received), (5, 13));
        app.stop().await;
        let mut refused = mesh.dial(service_address()).await;
        expect_reset(&mut refused).await;
        mesh.a
            .record(|record| record.reason == Reason::ConnectionRefused)
            .await;
    });
}

#[test]
fn whoever_comes_to_a_tunnel_listener_without_a_certificate_leaves_a_record() {
    if !inside(
        "tests::path::whoever_comes_to_a_tunnel_listener_without_a_certificate_leaves_a_record",
    ) {
        return;
    }
    stage(async {
        let mesh = mesh().await;
        let listener = (address("web-v1"), TUNNEL_PORT);
        let mut stranger = tokio::net::TcpStream::connect(listener).await.unwrap();
        stranger
            .write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
            .await
            .unwrap();
        let record = mesh.b.record(inbound).await;
        assert_eq!(record.reason, Reason::PeerProtocol);
        assert_eq!(record.destination.identity, Some(identity("web-v1")));
    });
}
