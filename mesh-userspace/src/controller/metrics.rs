//! Every metric of a controller, in one list. They are read where they are kept, when somebody looks.

use std::io;
use std::sync::Arc;

use mesh_distribution::hub::HubCounts;
use mesh_distribution::server::{Counts, Tally};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::answers::Answers;

/// Everything that is counted somewhere.
pub(super) struct Sources {
    pub(super) answers: Arc<Answers>,
    pub(super) tally: Arc<Tally>,
    pub(super) holding: watch::Receiver<bool>,
}

/// One label.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct One(&'static str, String);

impl EncodeLabelSet for One {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        [(self.0, self.1.as_str())].encode(encoder)
    }
}

/// Reads everything.
#[derive(Clone)]
struct Reader(Arc<Sources>);

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl Collector for Reader {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Sources {
            answers,
            tally,
            holding,
        } = &*self.0;
        let mut list = List(&mut encoder);
        list.hub(answers.health.hub.counts())?;
        list.server(tally.counts())?;
        list.gauge(
            "leader",
            "Whether this controller holds the Lease, and writes",
            i64::from(*holding.borrow()),
        )?;
        list.gauge(
            "synced",
            "Whether everything of the cluster is known",
            i64::from(answers.view.is_complete()),
        )?;
        list.gauge(
            "flow_streams_open",
            "Streams of flows that are being answered",
            number(super::answers::STREAMS.saturating_sub(answers.streams.available_permits())),
        )?;
        let registrar = &answers.keys.registrar;
        list.counter(
            "node_certificates_signed",
            "Certificates that were signed for nodes",
            registrar.nodes_signed(),
        )?;
        list.counter(
            "workload_certificates_signed",
            "Certificates that were signed for workloads",
            registrar.workloads_signed(),
        )?;
        let refused = registrar.refusals();
        list.counters(
            "certificates_refused",
            "Requests for certificates that were refused",
            refused.map(|(reason, count)| (One("reason", reason.label().to_owned()), count)),
        )?;
        let questions = answers.refused.counts();
        list.counters(
            "questions_refused",
            "Questions of people that were not answered",
            questions.map(|(reason, count)| (One("reason", reason.to_owned()), count)),
        )?;
        let bundle = answers.keys.bundle();
        let roots = bundle.roots().iter().filter_map(|root| {
            let end = jiff::Timestamp::try_from(root.not_after()).ok()?;
            Some((One("root", root.name().to_owned()), end.as_second()))
        });
        list.gauges(
            "root_not_after_seconds",
            "When a trusted root ends, since the epoch",
            roots,
        )
    }
}

/// Metrics as they are written.
struct List<'a, 'e>(&'a mut DescriptorEncoder<'e>);

impl List<'_, '_> {
    fn hub(&mut self, counts: HubCounts) -> Result<(), std::fmt::Error> {
        let HubCounts {
            generation,
            facts,
            fact_bytes,
            nodes,
            behind,
            questions,
            told,
            untold,
            told_bytes,
        } = counts;
        self.gauge(
            "generation",
            "Changes that nodes are told since the start",
            number(generation),
        )?;
        self.gauge("facts", "Facts that nodes are told", number(facts))?;
        self.gauge("fact_bytes", "What these take", number(fact_bytes))?;
        self.gauge(
            "nodes_connected",
            "Nodes that follow this controller",
            number(nodes),
        )?;
        self.gauge(
            "nodes_behind",
            "Those of them that do not hold everything yet",
            number(behind),
        )?;
        self.gauge(
            "questions_open",
            "Questions that nodes are answering",
            number(questions),
        )?;
        self.counter("facts_told", "Facts that nodes were told", told)?;
        self.counter(
            "facts_untold",
            "Facts that nodes were told to forget",
            untold,
        )?;
        self.counter("told_bytes", "What all of that took", told_bytes)
    }

    fn server(&mut self, counts: Counts) -> Result<(), std::fmt::Error> {
        let Counts {
            connections,
            handshakes_failed,
            turned_away,
            enrolled,
            enrolments_refused,
            signed,
            signings_refused,
            pods_looked_up,
            calls_refused,
        } = counts;
        self.counter(
            "node_connections",
            "Connections of nodes that were accepted",
            connections,
        )?;
        self.counter(
            "node_handshakes_failed",
            "Handshakes with nodes that failed",
            handshakes_failed,
        )?;
        self.counter(
            "node_connections_turned_away",
            "Connections that were too many",
            turned_away,
        )?;
        self.counter(
            "nodes_enrolled",
            "Nodes that got their certificate",
            enrolled,
        )?;
        self.counter(
            "enrolments_refused",
            "Enrolments that were refused",
            enrolments_refused,
        )?;
        self.counter(
            "signings",
            "Certificates that nodes got for workloads",
            signed,
        )?;
        self.counter(
            "signings_refused",
            "Those that were refused",
            signings_refused,
        )?;
        self.counter(
            "pods_looked_up",
            "Questions of nodes about pods that start",
            pods_looked_up,
        )?;
        self.counter(
            "node_calls_refused",
            "Calls that the caller may not make",
            calls_refused,
        )
    }

    fn gauge(&mut self, name: &str, help: &str, value: i64) -> Result<(), std::fmt::Error> {
        let encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), std::fmt::Error> {
        let encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (One, i64)>,
    ) -> Result<(), std::fmt::Error> {
        let mut encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (label, value) in values {
            ConstGauge::new(value).encode(encoder.encode_family(&label)?)?;
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (One, u64)>,
    ) -> Result<(), std::fmt::Error> {
        let mut encoder = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (label, value) in values {
            ConstCounter::new(value).encode(encoder.encode_family(&label)?)?;
        }
        Ok(())
    }
}

fn number<N: TryInto<i64>>(value: N) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

/// Serves them.
pub(super) async fn serve(listener: TcpListener, sources: Sources) -> io::Result<()> {
    use axum::http::header::CONTENT_TYPE;
    let mut registry = Registry::with_prefix("warren_controller");
    let version = vec![("version", env!("CARGO_PKG_VERSION"))];
    registry.register("build", "What this controller is", Info::new(version));
    registry.register_collector(Box::new(Reader(Arc::new(sources))));
    let registry = Arc::new(registry);
    let page = axum::routing::get(async move || {
        let mut text = String::new();
        if encode(&mut text, &registry).is_err() {
            // Writing into a String cannot fail, and labels are plain text.
            tracing::error!("the metrics could not be written");
        }
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(CONTENT_TYPE, kind)], text)
    });
    axum::serve(listener, axum::Router::new().route("/metrics", page)).await
}
