//! wrk: HTTP/1.1 requests, as many as the connections allow, each connection sending its next when the last is answered.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::measured;
use crate::cluster::place::Place;

/// wrk's own table ends at the 99th percentile, and is for people.
const SCRIPT: &str = r#"done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"micros":%d,"p50":%d,"p99":%d,"p999":%d,"errors":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// What wrk saw. Times are in microseconds.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Seen {
    /// Requests answered.
    pub requests: u64,
    /// How long it took.
    pub micros: u64,
    /// Latency of the median request.
    pub p50: u64,
    /// Latency that one in 100 exceeds.
    pub p99: u64,
    /// Latency that one in 1,000 exceeds.
    pub p999: u64,
    /// Requests that failed.
    pub errors: u64,
}

/// How much, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Connections at the same time.
    pub connections: u32,
    /// For so long.
    pub seconds: u32,
    /// Whether each request has a connection of its own.
    pub close: bool,
}

/// Runs it.
pub fn run(client: &Place, to: SocketAddr, folder: &Path, amount: Amount) -> Result<Seen> {
    let Amount {
        connections,
        seconds,
        close,
    } = amount;
    let script = folder.join("wrk.lua");
    fs::write(&script, SCRIPT).with_context(|| format!("write {}", script.display()))?;
    let mut launch = client
        .program("wrk")
        .args(["--threads", "1", "--latency"])
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s")])
        .args(["--script".as_ref(), script.as_os_str()]);
    if close {
        launch = launch.args(["--header", "Connection: close"]);
    }
    let seen: Seen =
        measured(&launch.args([format!("http://{to}{}", super::super::scene::SMALL)]))?;
    ensure!(seen.requests > 0, "no request was answered by {to}");
    Ok(seen)
}
