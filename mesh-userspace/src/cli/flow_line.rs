//! A flow in one line, and as a row of a table. Pure: golden tests read what people read.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::output::{Color, Style, Table, bytes, clean, lasted};
use crate::api::flow::{Direction, Flow, Transport, Verdict};

/// The line of `-o compact`: parts two spaces apart, what is unknown left out.
pub(crate) fn compact(flow: &Flow, zone: &TimeZone, style: Style) -> String {
    let (arrow, verdict) = match flow.verdict {
        Verdict::Allowed => (style.glyph("→", "->"), style.paint(Color::Green, "allowed")),
        Verdict::Denied => (style.glyph("✖", "-x"), style.paint(Color::Red, "denied")),
        Verdict::Failed => (style.glyph("‼", "-!"), style.paint(Color::Yellow, "failed")),
    };
    let time = clock(flow, zone);
    let source = clean(source(flow));
    let destination = destination(flow);
    let mut parts = vec![
        style.paint(Color::Faint, &time).into_owned(),
        format!(
            "{} {arrow} {}",
            style.paint(Color::Cyan, &source),
            style.paint(Color::Cyan, &destination)
        ),
    ];
    let reached = [
        flow.backend.as_deref(),
        flow.destination.endpoint.as_deref(),
    ];
    let reached: Vec<_> = reached.into_iter().flatten().map(clean).collect();
    if !reached.is_empty() {
        parts.push(reached.join(" "));
    }
    parts.push(verdict.into_owned());
    parts.push(clean(&flow.reason).into_owned());
    if flow.direction == Direction::Inbound {
        parts.push("inbound".to_owned());
    }
    if flow.transport != Transport::Kernel {
        parts.push(flow.transport.short().to_owned());
        parts.push(format!(
            "{}/{}",
            bytes(flow.bytes_sent),
            bytes(flow.bytes_received)
        ));
        parts.push(lasted(Duration::from_micros(flow.duration_micros), style));
    }
    if let Some(rule) = &flow.rule {
        parts.push(clean(rule).into_owned());
    }
    if let Some(detail) = &flow.detail {
        parts.push(format!("({})", clean(detail)));
    }
    parts.join("  ")
}

/// The empty table of `-o table`.
pub(crate) fn table(headers: bool) -> Table {
    Table::new(
        &[
            "TIME",
            "DIRECTION",
            "SOURCE",
            "DESTINATION",
            "BACKEND",
            "ENDPOINT",
            "VERDICT",
            "REASON",
            "TRANSPORT",
            "SENT",
            "RECEIVED",
            "DURATION",
            "RULE",
        ],
        headers,
    )
}

/// A row of it.
pub(crate) fn row(flow: &Flow, zone: &TimeZone, style: Style) -> Vec<String> {
    vec![
        clock(flow, zone),
        flow.direction.label().to_owned(),
        source(flow).to_owned(),
        destination(flow),
        flow.backend.clone().unwrap_or_default(),
        flow.destination.endpoint.clone().unwrap_or_default(),
        flow.verdict.label().to_owned(),
        flow.reason.clone(),
        flow.transport.short().to_owned(),
        bytes(flow.bytes_sent),
        bytes(flow.bytes_received),
        lasted(Duration::from_micros(flow.duration_micros), style),
        flow.rule.clone().unwrap_or_default(),
    ]
}

fn clock(flow: &Flow, zone: &TimeZone) -> String {
    flow.time
        .to_zoned(zone.clone())
        .strftime("%H:%M:%S%.3f")
        .to_string()
}

/// The dialler, by name when it has one.
fn source(flow: &Flow) -> &str {
    let source = &flow.source;
    source
        .workload
        .as_deref()
        .or(source.address.as_deref())
        .unwrap_or("unknown")
}

/// The dialled, by the name that the dialler meant, with the dialled port.
fn destination(flow: &Flow) -> String {
    let destination = &flow.destination;
    let name = destination
        .service
        .as_deref()
        .or(destination.workload.as_deref());
    let text = match (name, destination.address.as_deref()) {
        (Some(name), Some(address)) => match address.rsplit_once(':') {
            Some((_, port)) => format!("{name}:{port}"),
            None => name.to_owned(),
        },
        (Some(name), None) => name.to_owned(),
        (None, Some(address)) => address.to_owned(),
        (None, None) => "unknown".to_owned(),
    };
    clean(&text).into_owned()
}
