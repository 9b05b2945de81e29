//! What nodes tell: status and flows, as the command line prints them. Fields that no story asks for are left out.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `warren status -o json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Its name.
    pub node: String,
    /// Whether it serves.
    pub ready: bool,
    /// Why not.
    pub not_ready: Vec<String>,
    /// Roots that it trusts.
    pub trusted_roots: u64,
    /// Where the configuration stands.
    pub configuration: Applied,
    /// The worker.
    pub worker: Worker,
    /// The kernel half.
    pub kernel: Kernel,
    /// Workloads per state.
    pub workloads: Workloads,
    /// Figures of the worker.
    pub traffic: Traffic,
}

/// Where the configuration stands.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Applied {
    /// The newest generation that was read.
    pub generation: u64,
    /// The generation that the worker decides with.
    pub applied_generation: u64,
    /// Mistakes.
    pub problems: Vec<Problem>,
}

/// A mistake in the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// `error` or `warning`.
    pub severity: String,
    /// In full.
    pub message: String,
}

/// The worker.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Worker {
    /// Whether it serves.
    pub ready: bool,
    /// Its process id.
    pub pid: Option<i32>,
    /// How often it was started again.
    pub restarts: u64,
}

/// The kernel half.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kernel {
    /// Whether the programs are in place.
    pub attached: bool,
    /// Faults that the watchdog repaired.
    pub repaired: u64,
    /// Faults that it could not.
    pub faults: Vec<String>,
    /// Dials and packets per reason.
    pub counters: BTreeMap<String, u64>,
}

/// Workloads per state.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Workloads {
    /// Captured and served.
    pub enrolled: u32,
    /// On the way.
    pub preparing: u32,
    /// Not there yet.
    pub waiting: u32,
    /// Finishing.
    pub leaving: u32,
}

/// Figures of the worker.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// Connections open now, dialled by workloads of this node.
    pub open_outbound: u64,
    /// Connections open now, to workloads of this node.
    pub open_inbound: u64,
    /// Tunnels open now, dialled.
    pub tunnels_outbound: u64,
    /// Tunnels open now, accepted.
    pub tunnels_inbound: u64,
    /// TLS handshakes since the start.
    pub handshakes: u64,
}

/// `warren flows -o json`, one line.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Flow {
    /// Unique on the node.
    pub id: u64,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// `allowed`, `denied` or `failed`.
    pub verdict: String,
    /// How it ended.
    pub reason: String,
    /// Who dialled.
    pub source: End,
    /// Who was dialled.
    pub destination: Destination,
    /// The route that decided.
    pub route: Option<String>,
    /// The backend that it chose.
    pub backend: Option<String>,
    /// The policy and rule that decided.
    pub rule: Option<String>,
    /// `mutual_tls`, `plaintext`, `itself`, `kernel` or `none`.
    pub transport: String,
    /// Version and cipher suite.
    pub tls: Option<String>,
    /// From client to server.
    pub bytes_sent: u64,
    /// From server to client.
    pub bytes_received: u64,
    /// More about a failure.
    pub detail: Option<String>,
}

/// The dialling end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct End {
    /// Its name.
    pub workload: Option<String>,
    /// Its identity.
    pub identity: Option<String>,
    /// Its address.
    pub address: Option<String>,
    /// The process that dialled.
    pub process: Option<Dialler>,
}

/// The process that dialled.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Dialler {
    /// Its id.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

/// The dialled end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Destination {
    /// Its name.
    pub workload: Option<String>,
    /// Its identity.
    pub identity: Option<String>,
    /// Where the application dialled.
    pub address: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// The address that took the connection.
    pub endpoint: Option<String>,
}

/// The last lines of a text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
