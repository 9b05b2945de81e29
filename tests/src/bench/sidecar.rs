//! A peer: a pair of proxies, one beside the client and one beside the server, with mutual TLS between them.
//!
//! The client dials its sidecar on loopback, which knows by configuration where to go: the peers are spared the capture
//! and the look-up of the original destination that a real mesh pays for (Istio: iptables).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::certificates::Files;
use super::scene::{BULK_PORT, HTTP_PORT};
use super::usage::CpuTime;
use crate::cluster::node::Node;
use crate::cluster::place::Place;
use crate::eventually::until;
use crate::host::cgroup::Cgroup;
use crate::host::process::{Launch, Process};

/// One forwarded port: where a sidecar listens, and where it sends what it is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forward {
    pub(super) name: &'static str,
    pub(super) listen: SocketAddr,
    pub(super) to: SocketAddr,
}

/// Which end a sidecar is at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// Takes plain bytes from the client, speaks TLS to its peer.
    Client,
    /// Takes TLS from its peer, speaks plainly to the server.
    Server,
}

/// The forwarded ports of a pair. `base` keeps two pairs in the same pods apart.
pub(super) struct Ports {
    pub(super) client: [Forward; 2],
    pub(super) server: [Forward; 2],
}

impl Ports {
    pub(super) fn new(base: u16, server: &Place) -> Self {
        let local = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let forwards = |name, offset: u16, application| {
            let between = server.at(base + 100 + offset);
            (
                Forward {
                    name,
                    listen: local(base + offset),
                    to: between,
                },
                Forward {
                    name,
                    listen: between,
                    to: local(application),
                },
            )
        };
        let (http, bulk) = (
            forwards("http", 0, HTTP_PORT),
            forwards("bulk", 1, BULK_PORT),
        );
        Self {
            client: [http.0, bulk.0],
            server: [http.1, bulk.1],
        }
    }
}

/// A running pair.
pub(super) struct Pair {
    pub(super) client: Sidecar,
    pub(super) server: Sidecar,
    pub(super) http: SocketAddr,
    pub(super) bulk: SocketAddr,
}

/// A running sidecar.
pub(super) struct Sidecar {
    process: Process,
    cgroup: Arc<Cgroup>,
}

impl Sidecar {
    /// Starts it beside a pod's application, in a cgroup of its own, and waits until it listens.
    pub(super) fn start(
        name: &str,
        place: &Place,
        parent: &Cgroup,
        launch: impl FnOnce() -> Result<Launch>,
        forwards: &[Forward],
        log: &Path,
    ) -> Result<Self> {
        let cgroup = Arc::new(parent.child(name)?);
        let mut process = launch()?
            .namespace(place.namespace().name())
            .cgroup(cgroup.path())
            .log(log)
            .start()?;
        let listening = until(&format!("{name} listens"), Duration::from_secs(20), || {
            if !process.is_running()? {
                return Ok(true);
            }
            forwards.iter().try_fold(true, |all, forward| {
                Ok(all && place.namespace().enter(|| listens(forward.listen))??)
            })
        });
        let said = || {
            format!(
                "{name} said: {}",
                fs::read_to_string(log).unwrap_or_default()
            )
        };
        listening.with_context(said)?;
        ensure!(process.is_running()?, "{name} ended at once; {}", said());
        Ok(Self { process, cgroup })
    }

    pub(super) fn cpu(&self) -> Result<CpuTime> {
        CpuTime::of_cgroup(self.cgroup.path())
    }

    /// Resident memory in KiB.
    pub(super) fn memory(&self) -> Result<u64> {
        Node::memory_of(i32::try_from(self.process.id()).context("a process id")?)
    }
}

/// Looked up rather than dialled: a connection that says nothing would count as one.
fn listens(address: SocketAddr) -> Result<bool> {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/thread-self/net/tcp").context("read the sockets")?;
    let port = format!(":{:04X}", address.port());
    Ok(table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next(), words.nth(1));
        local.is_some_and(|local| local.ends_with(&port)) && state == Some(LISTEN)
    }))
}

/// What a peer's configuration is made of.
pub(super) struct Wanted<'a> {
    pub(super) end: End,
    pub(super) forwards: &'a [Forward],
    pub(super) files: &'a Files,
}
