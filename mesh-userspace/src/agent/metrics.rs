//! Every metric, in one list: derived from records, from the worker's figures and from the kernel's counters.
//!
//! The number of series is bounded: a stranger who dials from many addresses adds none, because only names of the mesh
//! become labels, and beyond [`SERIES`] combinations the names are left out.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh_core::outcome::Reason;
use mesh_core::record::{Record, Transport};
use mesh_core::workload::Name;
use mesh_proxy::link::Figures;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::view::View;
use crate::api::flow::{Direction, Transport as Carried};
use crate::api::objects::EnrolmentState;

/// Most combinations of source, destination, verdict, reason and transport.
const SERIES: usize = 5_000;

/// The labels of a connection.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Connection {
    direction: &'static str,
    source_workload: String,
    destination_workload: String,
    verdict: &'static str,
    reason: &'static str,
    transport: &'static str,
}

/// The labels of one that has only begun.
#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct Opened {
    direction: &'static str,
    source_workload: String,
    destination_workload: String,
    transport: &'static str,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct KernelEvent {
    workload: String,
    reason: &'static str,
    verdict: &'static str,
}

/// One label.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct One(&'static str, String);

impl EncodeLabelSet for One {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        [(self.0, self.1.as_str())].encode(encoder)
    }
}

/// The metrics of a node.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    opened: Family<Opened, Counter>,
    closed: Family<Connection, Counter>,
    sent: Family<Opened, Counter>,
    received: Family<Opened, Counter>,
    connect: Family<One, Histogram>,
    kernel: Family<KernelEvent, Counter>,
    certificates: Family<One, Gauge>,
    workloads: Family<One, Gauge>,
    open: Family<One, Gauge>,
    tunnels: Family<One, Gauge>,
    handshakes: Family<One, Counter>,
    accept_failures: Counter,
    records_lost: Counter,
    reservoir_waits: Counter,
    pods: Family<One, Counter>,
    /// Whether what the node knows is what the controller knows now.
    pub(crate) controller_current: Gauge,
    /// The newest configuration that was read.
    pub(crate) config_generation: Gauge,
    /// The configuration that the worker decides with.
    pub(crate) config_applied_generation: Gauge,
    /// Objects of the configuration that were left out.
    pub(crate) config_rejected_objects: Gauge,
    /// When a configuration was last read without its file being unreadable.
    pub(crate) config_last_success: Gauge<f64, AtomicU64>,
    /// Workers that were started in another's place.
    pub(crate) worker_restarts: Counter,
    /// What the watchdog put back.
    pub(crate) kernel_repairs: Counter,
    /// What it could not put back, now.
    pub(crate) kernel_faults: Gauge,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: HashSet<Connection>,
    figures: Figures,
}

/// Seconds: from a hop within a machine to a slow handshake across continents.
const BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];

/// The label of what has no name in the mesh.
const UNKNOWN: &str = "unknown";

/// The label of names beyond [`SERIES`].
const OTHER: &str = "other";

impl Metrics {
    /// Every metric, at zero.
    pub(crate) fn new(node: &str) -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("warren"),
            opened: Family::default(),
            closed: Family::default(),
            sent: Family::default(),
            received: Family::default(),
            connect: Family::new_with_constructor(|| Histogram::new(BUCKETS.iter().copied())),
            kernel: Family::default(),
            certificates: Family::default(),
            workloads: Family::default(),
            open: Family::default(),
            tunnels: Family::default(),
            handshakes: Family::default(),
            accept_failures: Counter::default(),
            records_lost: Counter::default(),
            reservoir_waits: Counter::default(),
            pods: Family::default(),
            controller_current: Gauge::default(),
            config_generation: Gauge::default(),
            config_applied_generation: Gauge::default(),
            config_rejected_objects: Gauge::default(),
            config_last_success: Gauge::default(),
            worker_restarts: Counter::default(),
            kernel_repairs: Counter::default(),
            kernel_faults: Gauge::default(),
            state: Mutex::default(),
        };
        metrics.register(node);
        metrics
    }

    fn register(&mut self, node: &str) {
        let registry = &mut self.registry;
        let build = Info::new([
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("node", node.to_owned()),
        ]);
        registry.register("build", "What runs here", build);
        registry.register(
            "tcp_connections_opened",
            "Connections that began",
            self.opened.clone(),
        );
        registry.register(
            "tcp_connections_closed",
            "Connections that ended, by how",
            self.closed.clone(),
        );
        registry.register_with_unit(
            "tcp_sent",
            "Application bytes from client to server",
            Unit::Bytes,
            self.sent.clone(),
        );
        registry.register_with_unit(
            "tcp_received",
            "Application bytes from server to client",
            Unit::Bytes,
            self.received.clone(),
        );
        registry.register_with_unit(
            "tcp_connect_duration",
            "From connect() to the destination application's acceptance",
            Unit::Seconds,
            self.connect.clone(),
        );
        registry.register(
            "kernel_events",
            "What the kernel programs did with dials and packets",
            self.kernel.clone(),
        );
        registry.register_with_unit(
            "certificate_not_after",
            "When a certificate of this node ends, since the epoch",
            Unit::Seconds,
            self.certificates.clone(),
        );
        registry.register(
            "workloads",
            "Workloads of this node, by state",
            self.workloads.clone(),
        );
        registry.register(
            "connections_open",
            "Application connections that are open",
            self.open.clone(),
        );
        registry.register(
            "tunnels_open",
            "Tunnels to and from other nodes that are open",
            self.tunnels.clone(),
        );
        registry.register("tls_handshakes", "TLS handshakes", self.handshakes.clone());
        registry.register(
            "accept_failures",
            "Accepts that failed",
            self.accept_failures.clone(),
        );
        registry.register(
            "records_lost",
            "Records of connections that the agent did not take in time",
            self.records_lost.clone(),
        );
        registry.register(
            "reservoir_waits",
            "Dials that waited for a socket from the agent",
            self.reservoir_waits.clone(),
        );
        registry.register(
            "pods_announced",
            "Pods that a container runtime announced, by what it was told",
            self.pods.clone(),
        );
        registry.register(
            "controller_current",
            "1 while the node knows what the controller knows; always 0 without a controller",
            self.controller_current.clone(),
        );
        registry.register(
            "config_generation",
            "The newest configuration that was read",
            self.config_generation.clone(),
        );
        registry.register(
            "config_applied_generation",
            "The configuration that the worker decides with",
            self.config_applied_generation.clone(),
        );
        registry.register(
            "config_rejected_objects",
            "Objects of the configuration that were left out",
            self.config_rejected_objects.clone(),
        );
        registry.register_with_unit(
            "config_last_success_timestamp",
            "When the configuration was last read, since the epoch",
            Unit::Seconds,
            self.config_last_success.clone(),
        );
        registry.register(
            "worker_restarts",
            "Workers that were started because another ended",
            self.worker_restarts.clone(),
        );
        registry.register(
            "kernel_repairs",
            "Programs, rules and entries that were missing and put back",
            self.kernel_repairs.clone(),
        );
        registry.register(
            "kernel_faults",
            "Faults that could not be repaired",
            self.kernel_faults.clone(),
        );
    }

    /// Counts a pod that was announced.
    pub(crate) fn pod_announced(&self, outcome: &'static str) {
        let labels = One("outcome", outcome.to_owned());
        self.pods.get_or_create(&labels).inc();
    }

    /// Counts a record; `before` is what was known of its connection before.
    pub(crate) fn record(&self, record: &Record, before: Option<&Record>) {
        // The kernel's own counters are exact where its events may be lost.
        if record.transport == Transport::Kernel {
            return;
        }
        let labels = self.labels(record);
        let opened = Opened {
            direction: labels.direction,
            source_workload: labels.source_workload.clone(),
            destination_workload: labels.destination_workload.clone(),
            transport: labels.transport,
        };
        if before.is_none() {
            self.opened.get_or_create(&opened).inc();
            if let Some(micros) = record.connect_us {
                self.connect
                    .get_or_create(&One("direction", labels.direction.to_owned()))
                    .observe(Duration::from_micros(micros).as_secs_f64());
            }
        }
        let earlier = before.map_or((0, 0), |before| (before.bytes_sent, before.bytes_received));
        self.sent
            .get_or_create(&opened)
            .inc_by(record.bytes_sent.saturating_sub(earlier.0));
        self.received
            .get_or_create(&opened)
            .inc_by(record.bytes_received.saturating_sub(earlier.1));
        if record.reason != Reason::Open {
            self.closed.get_or_create(&labels).inc();
        }
    }

    fn labels(&self, record: &Record) -> Connection {
        let name = |name: &Option<Name>| {
            name.as_ref()
                .map_or_else(|| UNKNOWN.to_owned(), Name::to_string)
        };
        let mut labels = Connection {
            direction: Direction::from(record.direction).label(),
            source_workload: name(&record.source.workload),
            destination_workload: name(&record.destination.workload),
            verdict: record.reason.verdict().label(),
            reason: record.reason.label(),
            transport: Carried::from(record.transport).label(),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.seen.contains(&labels) {
            if state.seen.len() >= SERIES {
                labels.source_workload = OTHER.to_owned();
                labels.destination_workload = OTHER.to_owned();
                return labels;
            }
            state.seen.insert(labels.clone());
        }
        labels
    }

    /// Takes a worker's figures. Its totals begin at zero with every worker.
    pub(crate) fn figures(&self, now: &Figures) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut state.figures, now.clone());
        let direction = |direction: &str| One("direction", direction.to_owned());
        let gauge = |family: &Family<One, Gauge>, way: &str, value: u64| {
            family
                .get_or_create(&direction(way))
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        gauge(&self.open, "outbound", now.open_outbound);
        gauge(&self.open, "inbound", now.open_inbound);
        gauge(&self.tunnels, "outbound", now.tunnels_outbound);
        gauge(&self.tunnels, "inbound", now.tunnels_inbound);
        let result = |result: &str| One("result", result.to_owned());
        self.handshakes
            .get_or_create(&result("ok"))
            .inc_by(now.handshakes.saturating_sub(before.handshakes));
        self.handshakes.get_or_create(&result("failed")).inc_by(
            now.handshake_failures
                .saturating_sub(before.handshake_failures),
        );
        self.accept_failures
            .inc_by(now.accept_failures.saturating_sub(before.accept_failures));
        self.records_lost
            .inc_by(now.records_lost.saturating_sub(before.records_lost));
        self.reservoir_waits
            .inc_by(now.reservoir_waits.saturating_sub(before.reservoir_waits));
    }

    /// A new worker counts from zero, and nothing is open in it.
    pub(crate) fn worker_replaced(&self) {
        self.figures(&Figures::default());
    }

    /// Takes the kernel's counters: totals since the programs were first loaded.
    pub(crate) fn kernel_counters(&self, counters: &[(Option<Name>, mesh_kernel::Reason, u64)]) {
        for (workload, reason, total) in counters {
            let labels = KernelEvent {
                workload: workload
                    .as_ref()
                    .map_or_else(|| UNKNOWN.to_owned(), Name::to_string),
                reason: reason.label(),
                verdict: match reason.verdict() {
                    mesh_kernel::Verdict::Passed => "passed",
                    mesh_kernel::Verdict::Dropped => "dropped",
                    mesh_kernel::Verdict::Refused => "refused",
                },
            };
            self.kernel
                .get_or_create(&labels)
                .inner()
                .store(*total, Ordering::Relaxed);
        }
    }

    /// The certificates that the node holds now.
    pub(crate) fn certificates(&self, certificates: &[crate::api::objects::Certificate]) {
        self.certificates.clear();
        for certificate in certificates {
            self.certificates
                .get_or_create(&One("identity", certificate.identity.clone()))
                .set(certificate.not_after.as_second());
        }
    }

    /// How many workloads of this node are in each state.
    pub(crate) fn workloads(&self, states: &[(EnrolmentState, u32)]) {
        for (state, count) in states {
            self.workloads
                .get_or_create(&One("state", state.label().to_owned()))
                .set(i64::from(*count));
        }
    }

    /// As text, in the OpenMetrics format.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing into a String cannot fail, and labels are plain text.
            tracing::error!("the metrics could not be written");
        }
        text
    }
}

/// Serves them, as of this moment.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    metrics: Arc<Metrics>,
    view: Arc<View>,
) -> std::io::Result<()> {
    use axum::http::header::CONTENT_TYPE;
    let page = axum::routing::get(async move || {
        view.refresh().await;
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(CONTENT_TYPE, kind)], metrics.encode())
    });
    axum::serve(listener, axum::Router::new().route("/metrics", page)).await
}

/// Listens, with an error that says what for.
pub(crate) async fn listen(
    address: SocketAddr,
    purpose: &'static str,
) -> Result<tokio::net::TcpListener, super::AgentError> {
    tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| super::AgentError::Listen {
            address,
            purpose,
            source,
        })
}

#[cfg(test)]
mod tests;
