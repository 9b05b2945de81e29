use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};

use mesh_core::identity::TrustDomain;
use mesh_core::outcome::Reason;
use mesh_core::record::{Direction, Party, Transport};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::super::{Figures, Identities, LocalWorkload, Purpose, VERSION};
use super::*;

fn ends() -> (AgentEnd, WorkerEnd, OwnedFd) {
    let (agent, worker) = pair().unwrap();
    let raw = agent.try_clone().unwrap();
    (
        Endpoint::new(agent).unwrap(),
        Endpoint::new(worker).unwrap(),
        raw,
    )
}

/// How many descriptors of this process lead to the same (unnamed, so unique) file: tests run side by side.
fn holders(file: &OwnedFd) -> usize {
    let folder = std::path::Path::new("/proc/self/fd");
    let target = std::fs::read_link(folder.join(file.as_raw_fd().to_string())).unwrap();
    std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|link| *link == target)
        .count()
}

fn files(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map(|number| {
            let mut file = tempfile::tempfile().unwrap();
            write!(file, "{number}").unwrap();
            file.into()
        })
        .collect()
}

fn record(detail: usize) -> Record {
    Record {
        id: 1,
        direction: Direction::Outbound,
        started_at: SystemTime::UNIX_EPOCH,
        duration_us: 1,
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
        reason: Reason::Finished,
        detail: Some("x".repeat(detail)),
        bytes_sent: 0,
        bytes_received: 0,
        generation: 1,
    }
}

const DIAL: SocketKind = SocketKind {
    purpose: Purpose::Dial,
    ipv6: false,
};

#[tokio::test]
async fn messages_and_descriptors_arrive_in_order_and_close_on_exec() {
    let (agent, worker, _) = ends();
    let hello = ToWorker::Hello {
        version: VERSION,
        node: "a".to_owned(),
        generation: 7,
        threads: 2,
        tunnel_port: 15008,
    };
    let enrol = ToWorker::Enrol {
        workload: LocalWorkload {
            id: WorkloadId(1),
            name: mesh_core::workload::Name::new("shop", "web"),
            identity: "spiffe://demo.warren/ns/shop/sa/web".parse().unwrap(),
            addresses: vec!["10.1.0.2".parse().unwrap(), "fd01::2".parse().unwrap()],
            host: false,
        },
        listeners: Vec::new(),
    };
    let sent = files(3);
    let borrowed: Vec<BorrowedFd<'_>> = sent.iter().map(AsFd::as_fd).collect();
    agent.send(&hello, &[]).await.unwrap();
    agent.send(&enrol, &borrowed).await.unwrap();

    let received = worker.recv().await.unwrap().unwrap();
    assert_eq!(received.message, hello);
    assert!(received.descriptors.is_empty());
    let received = worker.recv().await.unwrap().unwrap();
    assert_eq!(received.message, enrol);
    for (number, descriptor) in received.descriptors.into_iter().enumerate() {
        let flags = fcntl(&descriptor, FcntlArg::F_GETFD).unwrap();
        assert!(FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC));
        let mut file = File::from(descriptor);
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, number.to_string());
    }

    worker
        .send(&ToAgent::Figures(Figures::default()), &[])
        .await
        .unwrap();
    assert!(matches!(
        agent.recv().await.unwrap().unwrap().message,
        ToAgent::Figures(_)
    ));
}

#[tokio::test]
async fn a_closed_end_is_none_for_the_receiver_and_an_error_for_the_sender() {
    let (agent, worker, raw) = ends();
    drop((agent, raw));
    assert!(worker.recv().await.unwrap().is_none());
    let error = worker
        .send(&ToAgent::Ready { version: VERSION }, &[])
        .await
        .unwrap_err();
    assert!(
        matches!(&error, LinkError::Socket { source, .. } if source.kind() == io::ErrorKind::BrokenPipe),
        "{error:?}"
    );
}

#[tokio::test]
async fn many_sockets_travel_in_several_packets() {
    let (agent, worker, _) = ends();
    let sockets: Vec<OwnedFd> = (0..300)
        .map(|_| File::open("/dev/null").unwrap().into())
        .collect();
    let send = agent.send_sockets(WorkloadId(4), DIAL, &sockets);
    let receive = async {
        let first = worker.recv().await.unwrap().unwrap();
        let second = worker.recv().await.unwrap().unwrap();
        (first.descriptors.len(), second.descriptors.len())
    };
    let (sent, received) = tokio::join!(send, receive);
    sent.unwrap();
    assert_eq!(received, (253, 47));
}

#[tokio::test]
async fn a_message_that_does_not_decode_closes_its_descriptors_and_the_link_goes_on() {
    let (agent, worker, raw) = ends();
    let sent = files(5);
    let rights: Vec<_> = sent.iter().map(AsRawFd::as_raw_fd).collect();
    sendmsg::<()>(
        raw.as_raw_fd(),
        &[IoSlice::new(&[0xff, 0xff, 0xff])],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    assert!(matches!(worker.recv().await, Err(LinkError::Message(_))));
    assert!(sent.iter().all(|file| holders(file) == 1));
    agent.send(&ToWorker::World, &[]).await.unwrap();
    assert_eq!(
        worker.recv().await.unwrap().unwrap().message,
        ToWorker::World
    );
}

#[tokio::test]
async fn an_oversized_packet_is_refused_and_its_descriptors_are_closed() {
    let (_agent, worker, raw) = ends();
    let sent = files(2);
    let rights: Vec<_> = sent.iter().map(AsRawFd::as_raw_fd).collect();
    sendmsg::<()>(
        raw.as_raw_fd(),
        &[IoSlice::new(&vec![0; MAX_PACKET + 1])],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    assert!(
        matches!(worker.recv().await, Err(LinkError::TooLarge { size, .. }) if size == MAX_PACKET + 1)
    );
    assert!(sent.iter().all(|file| holders(file) == 1));
}

#[tokio::test]
async fn big_batches_of_records_are_split_and_a_giant_is_counted_as_lost() {
    let (agent, worker, _) = ends();
    let mut records: Vec<Record> = (0..100).map(|_| record(8 << 10)).collect();
    records.push(record(MAX_PACKET));
    let send = worker.send_records(records);
    let receive = async {
        let mut arrived = 0;
        while arrived < 100 {
            let ToAgent::Records(records) = agent.recv().await.unwrap().unwrap().message else {
                panic!("records expected");
            };
            assert!(!records.is_empty() && records.len() <= MAX_RECORDS);
            arrived += records.len();
        }
        arrived
    };
    let (lost, arrived) = tokio::join!(send, receive);
    assert_eq!((lost.unwrap(), arrived), (1, 100));
}

#[tokio::test]
async fn a_slow_receiver_holds_the_sender_back_without_loss() {
    let (agent, worker, _) = ends();
    let mut sent = 0;
    while worker
        .try_send(&ToAgent::Complaint("x".repeat(60_000)), &[])
        .unwrap()
    {
        sent += 1;
    }
    assert!(sent > 0);
    let mut blocked = Box::pin(worker.send_records(vec![record(1)]));
    let soon = tokio::time::timeout(Duration::from_millis(20), &mut blocked).await;
    assert!(soon.is_err(), "the queue is full");
    for _ in 0..sent {
        agent.recv().await.unwrap().unwrap();
    }
    blocked.await.unwrap();
    assert!(matches!(
        agent.recv().await.unwrap().unwrap().message,
        ToAgent::Records(_)
    ));
}

#[tokio::test]
async fn worlds_and_identities_travel_sealed() {
    let (agent, worker, _) = ends();
    let world = World {
        generation: 9,
        ..World::default()
    };
    agent.send_world(&world).await.unwrap();
    let received = worker.recv().await.unwrap().unwrap();
    assert_eq!(
        payload::unseal::<World>(&received.descriptors[0]).unwrap(),
        world
    );
    let identities = Identities {
        trust_domain: TrustDomain::default(),
        certificates: vec![vec![1, 2, 3]],
        roots: vec![vec![4]],
        generation: 2,
    };
    agent.send_identities(&identities).await.unwrap();
    let received = worker.recv().await.unwrap().unwrap();
    let back: Identities = payload::unseal(&received.descriptors[0]).unwrap();
    assert_eq!(back.certificates, identities.certificates);
}

#[test]
fn a_payload_must_be_sealed_and_cannot_be_changed_afterwards() {
    let sealed = payload::seal_bytes(b"keys").unwrap();
    assert!(nix::unistd::write(&sealed, b"x").is_err());
    assert!(nix::unistd::ftruncate(&sealed, 1).is_err());
    assert_eq!(payload::unseal_bytes(&sealed).unwrap().as_slice(), b"keys");

    let open = nix::sys::memfd::memfd_create(c"open", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING)
        .unwrap();
    assert!(matches!(
        payload::unseal_bytes(&open),
        Err(LinkError::Payload(_))
    ));
    let file: OwnedFd = tempfile::tempfile_in("/")
        .unwrap_or_else(|_| tempfile::tempfile().unwrap())
        .into();
    assert!(payload::unseal_bytes(&file).is_err());
}

#[tokio::test]
async fn who_hangs_up_is_heard_to_the_end_and_still_hears() {
    let (agent, worker, _also_held) = ends();
    let file = files(1);
    let descriptors: Vec<BorrowedFd<'_>> = file.iter().map(AsFd::as_fd).collect();
    let message = ToWorker::Unenrol {
        workload: mesh_core::workload::WorkloadId(7),
    };
    agent.send(&message, &descriptors).await.unwrap();
    agent.hang_up().unwrap();
    let heard = worker.recv().await.unwrap().expect("sent before");
    assert!(matches!(heard.message, ToWorker::Unenrol { workload } if workload.0 == 7));
    assert_eq!(heard.descriptors.len(), 1);
    // Although the descriptor is still open, as in a process that takes its time to end.
    assert!(worker.recv().await.unwrap().is_none());
    worker
        .send(&ToAgent::Ready { version: VERSION }, &[])
        .await
        .unwrap();
    assert!(agent.recv().await.unwrap().is_some());
}
