use super::*;

struct Fixed(Cell<Option<Reason>>);

impl Carrier for Fixed {
    fn bytes(&self) -> (u64, u64) {
        (3, 4)
    }
    fn cut(&self, reason: Reason) {
        self.0.set(Some(reason));
    }
}

struct Scene {
    connections: Rc<Connections>,
    sink: Sink,
    records: Receiver<Record>,
    lost: Arc<AtomicU64>,
}

fn scene() -> Scene {
    let lost = Arc::new(AtomicU64::new(0));
    let (sink, records) = Sink::new(2, Arc::clone(&lost));
    Scene {
        connections: Rc::default(),
        sink,
        records,
        lost,
    }
}

impl Scene {
    fn open(&self) -> Recorder {
        Recorder::open(&self.connections, &self.sink, Direction::Outbound, 5)
    }

    fn one(&mut self) -> Record {
        let record = self.records.try_recv().unwrap();
        assert!(self.records.try_recv().is_err(), "exactly one");
        record
    }
}

fn finished() -> Ended {
    Ended {
        reason: Reason::Finished,
        detail: None,
        sent: 10,
        received: 20,
    }
}

#[test]
fn a_connection_ends_in_exactly_one_record() {
    let mut scene = scene();
    let recorder = scene.open();
    recorder.fill(|record| record.route = Some("route web.shop".to_owned()));
    assert_eq!(scene.connections.count(), 1);
    recorder.close(finished());
    assert_eq!(scene.connections.count(), 0);
    let record = scene.one();
    assert_eq!(record.reason, Reason::Finished);
    assert_eq!((record.bytes_sent, record.bytes_received), (10, 20));
    assert_eq!(record.route.as_deref(), Some("route web.shop"));
    assert_eq!(record.id >> 40, 2);
    assert_eq!(record.generation, 5);
}

#[test]
fn a_story_that_forgets_to_close_is_a_fault_with_its_bytes() {
    let mut scene = scene();
    let recorder = scene.open();
    recorder.carried(Rc::new(Fixed(Cell::new(None))), Standing::Undecided);
    drop(recorder);
    let record = scene.one();
    assert_eq!(record.reason, Reason::Fault);
    assert_eq!((record.bytes_sent, record.bytes_received), (3, 4));
}

#[test]
fn a_cut_connection_says_why_whatever_its_carrier_says() {
    let mut scene = scene();
    let recorder = scene.open();
    let carrier = Rc::new(Fixed(Cell::new(None)));
    recorder.live().cut(Reason::PolicyRevoked, None, None);
    recorder.carried(carrier.clone(), Standing::Undecided);
    let rule = Some("policy web.shop rule no".to_owned());
    recorder
        .live()
        .cut(Reason::PolicyRevoked, rule.clone(), None);
    recorder.live().cut(Reason::Drained, None, None);
    assert_eq!(carrier.0.get(), Some(Reason::Drained));
    recorder.close(finished());
    let record = scene.one();
    assert_eq!(record.reason, Reason::PolicyRevoked);
    assert_eq!(record.rule, rule);
}

#[test]
fn long_connections_are_reported_while_they_last() {
    let mut scene = scene();
    let recorder = scene.open();
    let at = |seconds| recorder.live.started + Duration::from_secs(seconds);
    recorder.live.report(at(5), &scene.sink);
    assert!(scene.records.try_recv().is_err(), "not carried yet");
    recorder.carried(Rc::new(Fixed(Cell::new(None))), Standing::Undecided);
    let mut reported = Vec::new();
    for second in 0..=25 {
        recorder.live.report(at(second), &scene.sink);
        while let Ok(record) = scene.records.try_recv() {
            assert_eq!(record.reason, Reason::Open);
            assert_eq!((record.bytes_sent, record.bytes_received), (3, 4));
            reported.push(second);
        }
    }
    assert_eq!(reported, [1, 11, 21]);
    recorder.close(finished());
    assert_eq!(scene.one().reason, Reason::Finished);
}

#[test]
fn a_full_queue_loses_records_and_counts_them() {
    let scene = scene();
    for _ in 0..QUEUE + 7 {
        scene.open().close(finished());
    }
    assert_eq!(scene.lost.load(Ordering::Relaxed), 7);
}

#[test]
fn details_cannot_reach_a_terminal_unescaped() {
    let mut scene = scene();
    let evil = format!("\u{1b}[2J\n{}", "ä".repeat(1000));
    scene.open().close(Ended::before(Reason::Fault, evil));
    let detail = scene.one().detail.unwrap();
    assert!(!detail.chars().any(char::is_control));
    assert!(detail.len() <= MAX_DETAIL + 8);
}
