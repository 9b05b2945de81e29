//! Packet captures with tcpdump, and the question whether anything readable is in them.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::Cluster;
use super::shop::Shop;
use crate::eventually::until;
use crate::host::namespace::Namespace;
use crate::host::process::{Launch, Process};

/// 32 bytes that no header, certificate or cipher text contains by chance.
pub const MARKER: &str = "WARREN-MARKER-7f3a9c51e8d2b604-X";

/// What is sent in clear on purpose, so that a capture that sees nothing is not taken for a proof.
const BEACON: &str = "WARREN-BEACON-1b6e0d7742c9a35f-Y";

/// The port that nobody listens on, to which beacons go.
const BEACON_PORT: u16 = 9;

/// A capture of every packet on every interface of a namespace.
pub struct Capture {
    file: PathBuf,
    namespace: String,
    process: Process,
}

impl Capture {
    /// Starts it; comes back when packets are being captured.
    pub fn start(cluster: &Cluster, namespace: &Namespace) -> Result<Self> {
        Self::on(cluster, namespace, "any")
    }

    /// Starts it on one interface.
    pub fn on(cluster: &Cluster, namespace: &Namespace, interface: &str) -> Result<Self> {
        let base = cluster
            .folder()
            .join(format!("{}-{interface}", namespace.name()));
        let (file, log) = (base.with_extension("pcap"), base.with_extension("log"));
        let process = Launch::new("tcpdump")
            .args([
                "-i",
                interface,
                "-s",
                "0",
                "-U",
                "--immediate-mode",
                "-B",
                "16384",
                "-n",
                "-Z",
                "root",
                "-w",
            ])
            .args([&file])
            .namespace(namespace.name())
            .cgroup(cluster.outside().path())
            .log(&log)
            .start()?;
        until("tcpdump captures", Duration::from_secs(10), || {
            Ok(fs::read_to_string(&log)?.contains("listening on"))
        })?;
        Ok(Self {
            file,
            namespace: namespace.name().to_owned(),
            process,
        })
    }

    /// The packets so far, as they are in the file.
    fn bytes(&self) -> Result<Vec<u8>> {
        fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))
    }

    /// How often a text is in the packets so far.
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(occurrences(&self.bytes()?, text.as_bytes()))
    }

    /// Sends a beacon from a namespace and waits until it has been captured: proof that this capture sees what passes.
    pub fn prove(&self, from: &Namespace, to: SocketAddr) -> Result<()> {
        let before = self.count(BEACON)?;
        until("the beacon is captured", Duration::from_secs(10), || {
            from.enter(|| -> Result<()> {
                let any: SocketAddr = if to.is_ipv4() {
                    ([0, 0, 0, 0], 0).into()
                } else {
                    ([0_u16; 8], 0).into()
                };
                let to = SocketAddr::new(to.ip(), BEACON_PORT);
                UdpSocket::bind(any)?.send_to(BEACON.as_bytes(), to)?;
                Ok(())
            })??;
            Ok(self.count(BEACON)? > before)
        })
    }

    /// Ends it. The marker must be in no packet.
    pub fn assert_unreadable(mut self) -> Result<usize> {
        self.process.interrupt()?;
        let bytes = self.bytes()?;
        // The header of the file alone has 24 bytes.
        ensure!(
            bytes.len() > 24,
            "the capture in {} saw no packet",
            self.namespace
        );
        let found = occurrences(&bytes, MARKER.as_bytes());
        if found > 0 {
            bail!(
                "the marker was readable {found} times in {} bytes captured in {}",
                bytes.len(),
                self.namespace
            );
        }
        Ok(bytes.len())
    }

    /// Ends it. The marker must be in a packet: what a capture of clear text looks like.
    pub fn assert_readable(mut self) -> Result<()> {
        self.process.interrupt()?;
        ensure!(
            occurrences(&self.bytes()?, MARKER.as_bytes()) > 0,
            "the marker was expected to be readable in {}, and was not",
            self.namespace
        );
        Ok(())
    }
}

/// Captures on the wire, and on every interface of both nodes.
pub struct Captures(Vec<Capture>);

impl Captures {
    /// Starts them, and proves that they see what passes.
    pub fn start(cluster: &Cluster, shop: &Shop) -> Result<Self> {
        let mut captures = Vec::new();
        for namespace in [cluster.wire(), shop.a.namespace(), shop.b.namespace()] {
            let capture = Capture::start(cluster, namespace)?;
            for to in [shop.b.address().into(), shop.b.address6().into()] {
                capture.prove(shop.a.namespace(), SocketAddr::new(to, 0))?;
            }
            captures.push(capture);
        }
        Ok(Self(captures))
    }

    /// Ends them. The marker must be in no packet.
    pub fn assert_unreadable(self) -> Result<()> {
        for capture in self.0 {
            capture.assert_unreadable()?;
        }
        Ok(())
    }
}

fn occurrences(bytes: &[u8], text: &[u8]) -> usize {
    bytes
        .windows(text.len())
        .filter(|window| window == &text)
        .count()
}
