//! The wire format, word by word: changing it breaks people's scripts.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use mesh_core::addr::{AppAddr, ClientAddr, OrigDst};
use mesh_core::identity::{SpiffeId, TrustDomain};
use mesh_core::outcome::Reason;
use mesh_core::record::{Direction, Party, Process, Record, Transport};
use mesh_core::workload::Name;

use super::filter::{Field, Filter, Noun, Term};
use super::flow::Flow;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A record with everything in it.
pub(crate) fn full_record() -> Record {
    let identity =
        |account| SpiffeId::new(TrustDomain::default(), "shop", account).expect("an identity");
    Record {
        id: 4_294_967_297,
        direction: Direction::Outbound,
        started_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_067_113),
        duration_us: 12_345,
        connect_us: Some(850),
        source: Party {
            workload: Some(Name::new("shop", "client")),
            identity: Some(identity("client")),
        },
        destination: Party {
            workload: Some(Name::new("shop", "web-v2")),
            identity: Some(identity("web")),
        },
        client: Some(ClientAddr(addr("10.1.0.2:4242"))),
        original_destination: Some(OrigDst(addr("10.200.0.9:80"))),
        service: Some(Name::new("shop", "web")),
        route: Some("route web-canary.shop rule split".to_owned()),
        backend: Some("web.shop/v2".to_owned()),
        endpoint: Some(AppAddr(addr("10.2.0.3:8080"))),
        process: Some(Process { pid: 77, uid: 1000 }),
        transport: Transport::MutualTls,
        tls: Some("TLSv1.3 TLS13_AES_128_GCM_SHA256".to_owned()),
        rule: Some("policy web-callers.shop rule client-only".to_owned()),
        reason: Reason::Finished,
        detail: None,
        bytes_sent: 1_234,
        bytes_received: 8_000,
        generation: 3,
    }
}

/// A record of which next to nothing is known.
pub(crate) fn bare_record() -> Record {
    Record {
        id: 1,
        direction: Direction::Inbound,
        started_at: SystemTime::UNIX_EPOCH,
        duration_us: 0,
        connect_us: None,
        source: Party::default(),
        destination: Party::default(),
        client: None,
        original_destination: None,
        service: None,
        route: None,
        backend: None,
        endpoint: None,
        process: None,
        transport: Transport::None,
        tls: None,
        rule: None,
        reason: Reason::PlaintextRefused,
        detail: None,
        bytes_sent: 0,
        bytes_received: 0,
        generation: 0,
    }
}

#[test]
fn a_flow_is_written_like_this() {
    let check = |record: &Record, expected: &str| {
        let flow = Flow::from_record(record, "a");
        let written = serde_json::to_string(&flow).expect("JSON");
        assert_eq!(written, expected.replace('\n', ""));
        assert_eq!(
            serde_json::from_str::<Flow>(&written).expect("a flow"),
            flow
        );
    };
    check(
        &full_record(),
        r#"{"apiVersion":"warren.dev/v1alpha1","kind":"Flow","id":4294967297,"node":"a","time":"2026-09-21T14:14:27.113Z",
"direction":"outbound","verdict":"allowed","reason":"finished",
"source":{"workload":"client.shop","identity":"spiffe://cluster.local/ns/shop/sa/client","address":"10.1.0.2:4242","process":{"pid":77,"uid":1000}},
"destination":{"workload":"web-v2.shop","identity":"spiffe://cluster.local/ns/shop/sa/web","address":"10.200.0.9:80","service":"web.shop","endpoint":"10.2.0.3:8080"},
"route":"route web-canary.shop rule split","backend":"web.shop/v2","rule":"policy web-callers.shop rule client-only",
"transport":"mutual_tls","tls":"TLSv1.3 TLS13_AES_128_GCM_SHA256","bytesSent":1234,"bytesReceived":8000,
"durationMicros":12345,"connectMicros":850,"generation":3}"#,
    );
    check(
        &bare_record(),
        r#"{"apiVersion":"warren.dev/v1alpha1","kind":"Flow","id":1,"node":"a","time":"1970-01-01T00:00:00Z",
"direction":"inbound","verdict":"denied","reason":"plaintext_refused","source":{},"destination":{},
"transport":"none","bytesSent":0,"bytesReceived":0,"durationMicros":0,"generation":0}"#,
    );
}

#[test]
fn a_reader_bears_fields_it_does_not_know() {
    let mut value = serde_json::to_value(Flow::from_record(&full_record(), "a")).expect("JSON");
    value["fromTheFuture"] = true.into();
    value["reason"] = "new_reason".into();
    let flow: Flow = serde_json::from_value(value).expect("a flow");
    assert_eq!(flow.reason, "new_reason");
}

#[test]
fn filters_find_what_people_mean() {
    let flow = Flow::from_record(&full_record(), "a");
    let check = |field, value: &str, expected| {
        let term = Term::new(field, value, false).expect(value);
        let filter = Filter { terms: vec![term] };
        assert_eq!(filter.matches(&flow), expected, "{field:?} {value}");
    };
    check(Field::From, "client", true);
    check(Field::From, "client.shop", true);
    check(Field::From, "workload/client", true);
    check(Field::From, "ns/shop", true);
    check(Field::From, "10.1.0.2", true);
    check(Field::From, "10.1.0.0/16", true);
    check(Field::From, "10.1.0.2:4242", true);
    check(
        Field::From,
        "spiffe://cluster.local/ns/shop/sa/client",
        true,
    );
    check(Field::From, "client.ops", false);
    check(Field::From, "clien", false);
    check(Field::From, "10.2.0.0/16", false);
    check(Field::To, "web", true);
    check(Field::To, "svc/web.shop", true);
    check(Field::To, "web-v2", true);
    check(Field::To, "workload/web-v2.shop", true);
    check(Field::To, "workload/web", false);
    check(Field::To, "svc/web-v2", false);
    check(Field::To, "10.200.0.9", true);
    check(Field::To, "10.2.0.3:8080", true);
    check(Field::Namespace, "shop", true);
    check(Field::Namespace, "ops", false);
    check(Field::Workload, "client", true);
    check(Field::Workload, "web-v2.shop", true);
    check(Field::Service, "web", true);
    check(Field::Verdict, "allowed", true);
    check(Field::Verdict, "denied", false);
    check(Field::Reason, "finished", true);
    check(Field::Direction, "inbound", false);
    check(Field::Transport, "mtls", true);
    check(Field::Transport, "mutual_tls", true);
    check(Field::Port, "80", true);
    check(Field::Port, "8080", true);
    check(Field::Port, "443", false);
}

#[test]
fn the_kernels_reason_is_found_too() {
    let mut record = bare_record();
    record.reason = Reason::Kernel;
    record.transport = Transport::Kernel;
    record.rule = Some("uncaptured_tcp".to_owned());
    let flow = Flow::from_record(&record, "a");
    let term = Term::new(Field::Reason, "uncaptured_tcp", false).expect("a reason");
    assert!(Filter { terms: vec![term] }.matches(&flow));
}

#[test]
fn terms_of_a_field_are_alternatives_and_fields_must_all_hold() {
    let flow = Flow::from_record(&full_record(), "a");
    let check = |terms: &[(Field, &str, bool)], expected| {
        let terms = terms
            .iter()
            .map(|(field, value, negated)| Term::new(*field, value, *negated).expect("a term"))
            .collect();
        assert_eq!(Filter { terms }.matches(&flow), expected);
    };
    check(&[], true);
    check(
        &[(Field::From, "ops", false), (Field::From, "client", false)],
        true,
    );
    check(
        &[(Field::From, "client", false), (Field::To, "db", false)],
        false,
    );
    check(&[(Field::From, "client", true)], false);
    check(
        &[(Field::From, "ops", true), (Field::To, "web", false)],
        true,
    );
    check(
        &[
            (Field::Verdict, "allowed", false),
            (Field::Port, "80", true),
        ],
        false,
    );
}

#[test]
fn a_mistake_in_a_filter_is_named_with_a_suggestion() {
    let check = |field, value: &str, expected: &str| {
        let error = Term::new(field, value, false)
            .expect_err("a mistake")
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(Field::Verdict, "alowed", "did you mean allowed?");
    check(
        Field::Reason,
        "no_rule_allow",
        "did you mean no_rule_allows?",
    );
    check(Field::From, "svx/web", "did you mean svc/web?");
    check(Field::From, "ns/", "there is no name after ns/");
    check(Field::Port, "http", "a port is a number");
    check(Field::Direction, "out", "it is none of outbound, inbound");
}

#[test]
fn nouns_are_told_apart() {
    assert!(matches!("web".parse(), Ok(Noun::Any(_))));
    assert!(matches!("fd00::/8".parse(), Ok(Noun::Network(_))));
    assert!(matches!("[fd00::9]:80".parse(), Ok(Noun::Socket(_))));
    assert!(matches!("ns/shop".parse(), Ok(Noun::Namespace(_))));
}
