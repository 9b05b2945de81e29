use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mesh_core::outcome::Reason;

use super::*;
use crate::api::filter::{Field, Filter, Term};
use crate::api::tests::{bare_record, full_record};

fn numbered(id: u64, reason: Reason) -> Record {
    Record {
        id,
        reason,
        ..full_record()
    }
}

fn ids(flows: &Flows, query: &FlowQuery) -> Vec<u64> {
    flows.read(query).0.iter().map(|flow| flow.id).collect()
}

#[test]
fn the_last_that_match_are_given_oldest_first() {
    let flows = Flows::new("a");
    for id in 0..10 {
        let reason = if id % 2 == 0 {
            Reason::Finished
        } else {
            Reason::NoRuleAllows
        };
        flows.add(numbered(id, reason));
    }
    let denied = Filter {
        terms: vec![Term::new(Field::Verdict, "denied", false).expect("a verdict")],
    };
    let query = FlowQuery {
        filter: denied,
        last: Some(2),
        ..FlowQuery::default()
    };
    assert_eq!(ids(&flows, &query), [7, 9]);
    assert_eq!(ids(&flows, &FlowQuery::default()).len(), 10);
}

#[test]
fn since_looks_at_when_a_connection_ended() {
    let flows = Flows::new("a");
    let hour = Duration::from_secs(3_600);
    flows.add(Record {
        id: 1,
        started_at: SystemTime::now() - hour,
        duration_us: 3_590_000_000,
        ..full_record()
    });
    flows.add(Record {
        id: 2,
        started_at: SystemTime::now() - hour,
        duration_us: 1,
        ..full_record()
    });
    let query = FlowQuery {
        since: Some(jiff::Timestamp::now() - jiff::SignedDuration::from_mins(1)),
        ..FlowQuery::default()
    };
    assert_eq!(ids(&flows, &query), [1]);
}

#[test]
fn the_ring_is_bounded_and_forgets_the_oldest() {
    let flows = Flows::new("a");
    for id in 0..HELD as u64 + 10 {
        flows.add(numbered(id, Reason::Finished));
    }
    assert_eq!(flows.len(), HELD);
    assert_eq!(ids(&flows, &FlowQuery::default()).first(), Some(&10));
}

#[test]
fn an_open_connection_is_told_once_and_ends_once() {
    let flows = Flows::new("a");
    assert_eq!(flows.add(numbered(1, Reason::Open)), None);
    assert!(flows.add(numbered(1, Reason::Open)).is_some());
    assert_eq!(ids(&flows, &FlowQuery::default()), [1]);
    assert!(flows.add(numbered(1, Reason::Finished)).is_some());
    assert_eq!(ids(&flows, &FlowQuery::default()), [1]);
    assert!(flows.orphans(|_| true).is_empty());
}

#[test]
fn connections_of_a_dead_worker_end_as_such() {
    let flows = Flows::new("a");
    flows.add(numbered(1 << 32 | 5, Reason::Open));
    flows.add(numbered(2 << 32 | 5, Reason::Open));
    let orphans = flows.orphans(|id| id >> 32 == 1);
    assert_eq!(orphans.len(), 1);
    assert_eq!(orphans[0].reason, Reason::ProxyDied);
    assert_eq!(orphans[0].id, 1 << 32 | 5);
    assert!(
        orphans[0].duration_us > full_record().duration_us,
        "it lasted until now"
    );
}

#[tokio::test]
async fn a_reader_sees_each_flow_once_past_or_coming() {
    let flows = Arc::new(Flows::new("a"));
    flows.add(numbered(1, Reason::Finished));
    let (past, mut coming) = flows.read(&FlowQuery::default());
    flows.add(numbered(2, Reason::Finished));
    assert_eq!(past.iter().map(|flow| flow.id).collect::<Vec<_>>(), [1]);
    assert_eq!(coming.recv().await.expect("the second").id, 2);
}

struct Nobody;

impl Parties for Nobody {
    fn local(&self, id: WorkloadId) -> Option<Party> {
        (id.0 == 7).then(|| Party {
            workload: Some(Name::new("shop", "client")),
            identity: None,
        })
    }
    fn at(&self, address: SocketAddr) -> (Party, Option<Name>) {
        let service = (address.port() == 80).then(|| Name::new("shop", "web"));
        (Party::default(), service)
    }
    fn process(&self, pid: u32) -> Option<Process> {
        (pid == 42).then_some(Process { pid, uid: 1_000 })
    }
    fn generation(&self) -> u64 {
        3
    }
}

fn dropped(source_port: u16, reason: mesh_kernel::Reason) -> Drop {
    Drop {
        reason,
        workload: Some(WorkloadId(7)),
        source: Some(SocketAddr::from(([10, 1, 0, 2], source_port))),
        destination: SocketAddr::from(([10, 200, 0, 9], 80)),
        protocol: 6,
        owner: None,
        pid: Some(42),
        interface: None,
        at: SystemTime::UNIX_EPOCH,
    }
}

#[test]
fn equal_drops_of_a_second_are_one_flow_with_their_count() {
    let mut drops = Drops::default();
    let now = Instant::now();
    for port in 0..5 {
        drops.add(dropped(1_000 + port, mesh_kernel::Reason::UncapturedTcp));
    }
    drops.add(dropped(1_000, mesh_kernel::Reason::UdpDenied));
    assert!(drops.due(now), "after quiet, at once");
    let records = drops.flush(&Nobody);
    assert_eq!(records.len(), 2);
    let tcp = records
        .iter()
        .find(|record| record.rule.as_deref() == Some("uncaptured_tcp"))
        .expect("the TCP drops");
    assert_eq!(tcp.detail.as_deref(), Some("TCP, 5 times"));
    assert_eq!(tcp.source.workload, Some(Name::new("shop", "client")));
    assert_eq!(tcp.service, Some(Name::new("shop", "web")));
    assert_eq!(
        tcp.process,
        Some(Process {
            pid: 42,
            uid: 1_000
        })
    );
    assert_eq!(tcp.transport, Transport::Kernel);
    assert_eq!(tcp.reason, Reason::Kernel);
    assert!(tcp.id >> 63 == 1, "never a worker's id");

    drops.add(dropped(1, mesh_kernel::Reason::UncapturedTcp));
    assert!(
        !drops.due(now + Duration::from_millis(500)),
        "gathered for a second"
    );
    assert!(drops.due(now + Duration::from_millis(1_001)));
}

#[test]
fn a_flood_of_kinds_is_bounded() {
    let mut drops = Drops::default();
    for port in 0..=u16::MAX {
        let mut drop = dropped(1, mesh_kernel::Reason::UncapturedTcp);
        drop.destination.set_port(port);
        drops.add(drop);
    }
    assert_eq!(drops.flush(&Nobody).len(), KINDS_OF_DROP);
}

#[test]
fn an_inbound_drop_is_told_by_its_destination() {
    let mut drops = Drops::default();
    drops.add(dropped(1, mesh_kernel::Reason::InboundNoListener));
    let records = drops.flush(&Nobody);
    assert_eq!(records[0].direction, Direction::Inbound);
    assert_eq!(
        records[0].destination.workload,
        Some(Name::new("shop", "client"))
    );
    assert_eq!(bare_record().source, records[0].source);
}
