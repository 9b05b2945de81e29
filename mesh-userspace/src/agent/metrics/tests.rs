use super::*;
use crate::api::tests::full_record;

fn has(metrics: &Metrics, line: &str) {
    let text = metrics.encode();
    assert!(
        text.lines().any(|found| found == line),
        "no line {line} in\n{text}"
    );
}

const ENDS: &str = r#"source_workload="client.shop",destination_workload="web-v2.shop""#;

#[test]
fn a_connection_is_counted_once_and_its_bytes_as_they_come() {
    let metrics = Metrics::new("a");
    let mut open = full_record();
    open.reason = Reason::Open;
    open.bytes_sent = 100;
    metrics.record(&open, None);
    metrics.record(&full_record(), Some(&open));
    has(
        &metrics,
        &format!(
            r#"warren_tcp_connections_opened_total{{direction="outbound",{ENDS},transport="mutual_tls"}} 1"#
        ),
    );
    has(
        &metrics,
        &format!(
            r#"warren_tcp_connections_closed_total{{direction="outbound",{ENDS},verdict="allowed",reason="finished",transport="mutual_tls"}} 1"#
        ),
    );
    has(
        &metrics,
        &format!(
            r#"warren_tcp_sent_bytes_total{{direction="outbound",{ENDS},transport="mutual_tls"}} 1234"#
        ),
    );
    has(
        &metrics,
        r#"warren_tcp_connect_duration_seconds_count{direction="outbound"} 1"#,
    );
}

#[test]
fn the_number_of_series_is_bounded() {
    let metrics = Metrics::new("a");
    for number in 0..SERIES + 100 {
        let mut record = full_record();
        record.destination.workload = Some(Name::new("shop", format!("w{number}")));
        metrics.record(&record, None);
    }
    let text = metrics.encode();
    let series = text
        .lines()
        .filter(|line| line.starts_with("warren_tcp_connections_closed_total{"));
    assert_eq!(series.count(), SERIES + 1);
}

#[test]
fn totals_go_on_when_a_worker_is_replaced() {
    let metrics = Metrics::new("a");
    let figures = |handshakes| Figures {
        handshakes,
        open_outbound: 3,
        ..Figures::default()
    };
    metrics.figures(&figures(5));
    metrics.worker_replaced();
    metrics.figures(&figures(2));
    has(&metrics, r#"warren_tls_handshakes_total{result="ok"} 7"#);
    has(
        &metrics,
        r#"warren_connections_open{direction="outbound"} 3"#,
    );
}

#[test]
fn names_follow_the_conventions() {
    let text = Metrics::new("a").encode();
    assert!(text.contains("warren_build_info{version="), "{text}");
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        assert!(line.starts_with("# TYPE warren_"), "{line}");
    }
}

#[test]
fn kernel_totals_are_taken_as_they_are() {
    let metrics = Metrics::new("a");
    let name = Some(Name::new("shop", "client"));
    metrics.kernel_counters(&[(name.clone(), mesh_kernel::Reason::UncapturedTcp, 3)]);
    metrics.kernel_counters(&[(name, mesh_kernel::Reason::UncapturedTcp, 5)]);
    has(
        &metrics,
        r#"warren_kernel_events_total{workload="client.shop",reason="uncaptured_tcp",verdict="dropped"} 5"#,
    );
}

#[test]
fn announced_pods_are_counted_by_their_outcome() {
    let metrics = Metrics::new("a");
    metrics.pod_announced("enforced");
    metrics.pod_announced("enforced");
    metrics.pod_announced("refused");
    has(
        &metrics,
        r#"warren_pods_announced_total{outcome="enforced"} 2"#,
    );
    has(
        &metrics,
        r#"warren_pods_announced_total{outcome="refused"} 1"#,
    );
    has(&metrics, "warren_controller_current 0");
}
