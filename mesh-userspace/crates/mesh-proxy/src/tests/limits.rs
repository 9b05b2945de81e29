//! What happens when descriptors run out, and when a workload has too many connections.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::outcome::Reason;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpSocket;

use super::agent::*;
use super::apps::*;
use super::scene::*;
use super::{inside, without_backtraces};
use crate::figures::Counters;
use crate::link::{self, AgentEnd, Endpoint, LinkError, LocalWorkload, ToWorker, WorkerEnd};
use crate::served::{HostTunnels, MAX_CONNECTIONS, MAX_HOST_TUNNELS, Served};

/// Uses up all descriptors of this process but `left`; ends when it is dropped.
struct Shortage {
    limit: (u64, u64),
    held: Vec<File>,
}

impl Shortage {
    fn but(left: usize) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 512, limit.1).unwrap();
        let mut held = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            held.push(file);
        }
        held.truncate(held.len() - left);
        Self { limit, held }
    }
}

impl Drop for Shortage {
    fn drop(&mut self) {
        self.held.clear();
        setrlimit(Resource::RLIMIT_NOFILE, self.limit.0, self.limit.1).unwrap();
    }
}

#[test]
fn accepting_survives_a_shortage_of_descriptors() {
    if !inside("tests::limits::accepting_survives_a_shortage_of_descriptors") {
        return;
    }
    without_backtraces();
    stage(async {
        let scene = Scene::new();
        let node = worker_in_thread(&Origins::default());
        node.hello().await;
        node.tell(&scene, &["web-v1"]).await;
        let web = node.enrol("web-v1").await;
        let clients: Vec<TcpSocket> = (0..5).map(|_| TcpSocket::new_v4().unwrap()).collect();
        let shortage = Shortage::but(0);
        let mut connections = Vec::new();
        for client in clients {
            connections.push(client.connect(web.plaintext).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(node.records().is_empty());
        assert!(node.figures().accept_failures > 0);
        drop(shortage);
        for mut connection in connections {
            expect_reset(&mut connection).await;
        }
        node.record(|record| record.reason == Reason::PlaintextRefused)
            .await;
    });
}

#[test]
fn descriptors_that_cannot_be_taken_are_lost_and_the_others_are_closed() {
    if !inside("tests::limits::descriptors_that_cannot_be_taken_are_lost_and_the_others_are_closed")
    {
        return;
    }
    without_backtraces();
    stage(async {
        let (agent, worker) = link::pair().unwrap();
        let agent: AgentEnd = Endpoint::new(agent).unwrap();
        let worker: WorkerEnd = Endpoint::new(worker).unwrap();
        let sent: Vec<OwnedFd> = (0..5)
            .map(|_| File::open("/dev/null").unwrap().into())
            .collect();
        let borrowed: Vec<BorrowedFd<'_>> = sent.iter().map(AsFd::as_fd).collect();
        let shortage = Shortage::but(2);
        agent.send(&ToWorker::World, &borrowed).await.unwrap();
        let error = worker.recv().await.unwrap_err();
        assert!(matches!(error, LinkError::DescriptorsLost), "{error}");
        // The two that did fit are free again.
        let again = [File::open("/dev/null"), File::open("/dev/null")];
        assert!(again.iter().all(Result::is_ok));
        drop((again, shortage));
        agent.send(&ToWorker::World, &borrowed).await.unwrap();
        let received = worker.recv().await.unwrap().unwrap();
        assert_eq!(received.descriptors.len(), 5);
    });
}

#[test]
fn one_workload_cannot_have_every_connection() {
    let (agent, _messages) = tokio::sync::mpsc::unbounded_channel();
    let local = LocalWorkload {
        id: id("web-v1"),
        name: mesh_core::workload::Name::new("shop", "web-v1"),
        identity: identity("web-v1"),
        addresses: vec![address("web-v1")],
        host: false,
    };
    let served = Served::new(local, Vec::new(), agent, &Counters::default());
    let mut shares = Vec::new();
    while let Ok(share) = served.connection() {
        shares.push(share);
    }
    assert_eq!(shares.len(), MAX_CONNECTIONS);
    shares.pop();
    assert!(served.connection().is_ok());
    assert!(Arc::ptr_eq(shares[0].served(), &served));
}

#[test]
fn peers_cannot_hold_every_descriptor_through_the_host_s_listener() {
    let tunnels = Arc::new(HostTunnels::default());
    let mut shares = Vec::new();
    while let Ok(share) = tunnels.tunnel() {
        shares.push(share);
    }
    assert_eq!(shares.len(), MAX_HOST_TUNNELS);
    shares.pop();
    assert!(tunnels.tunnel().is_ok());
}
