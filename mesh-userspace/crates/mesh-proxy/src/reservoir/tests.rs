use std::fs::File;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

const DIAL: SocketKind = SocketKind {
    purpose: Purpose::Dial,
    ipv6: false,
};

fn reservoir() -> (Arc<Reservoir>, UnboundedReceiver<ToAgent>) {
    let (agent, asked) = unbounded_channel();
    let reservoir = Reservoir::new(WorkloadId(3), agent, Arc::default());
    (Arc::new(reservoir), asked)
}

fn sockets(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map(|_| File::open("/dev/null").unwrap().into())
        .collect()
}

fn asked(messages: &mut UnboundedReceiver<ToAgent>) -> usize {
    let mut sum = 0;
    while let Ok(ToAgent::NeedSockets {
        count, workload, ..
    }) = messages.try_recv()
    {
        assert_eq!(workload, WorkloadId(3));
        sum += usize::from(count);
    }
    sum
}

fn stock(reservoir: &Reservoir) -> usize {
    reservoir.shelf(DIAL).lock().sockets.len()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(200)
}

#[tokio::test]
async fn an_idle_workload_holds_two() {
    let (reservoir, mut messages) = reservoir();
    reservoir.prime(DIAL);
    reservoir.prime(DIAL);
    assert_eq!(asked(&mut messages), 1);
    reservoir.put(DIAL, sockets(1));
    reservoir.take(DIAL, soon()).await.unwrap();
    let refill = asked(&mut messages);
    assert!((2..=12).contains(&refill), "{refill}");
    reservoir.put(DIAL, sockets(refill));
    for _ in 0..300 {
        reservoir.tick();
    }
    assert!(
        (2..=8).contains(&stock(&reservoir)),
        "{}",
        stock(&reservoir)
    );
    assert_eq!(asked(&mut messages), 0);
}

#[tokio::test]
async fn demand_grows_the_stock_and_silence_shrinks_it() {
    let (reservoir, mut messages) = reservoir();
    reservoir.put(DIAL, sockets(1));
    for _ in 0..5_000 {
        reservoir.take(DIAL, soon()).await.unwrap();
        let count = asked(&mut messages);
        reservoir.put(DIAL, sockets(count));
    }
    let busy = stock(&reservoir);
    assert!((500..=2 * MOST).contains(&busy), "{busy}");
    reservoir.tick();
    for _ in 0..300 {
        reservoir.tick();
    }
    assert!(stock(&reservoir) <= 4 * IDLE, "{}", stock(&reservoir));
}

#[tokio::test]
async fn an_empty_shelf_waits_for_the_agent_and_gives_up_at_the_deadline() {
    let (reservoir, mut messages) = reservoir();
    let before = Instant::now();
    assert!(reservoir.take(DIAL, soon()).await.is_err());
    assert!(before.elapsed() >= Duration::from_millis(200));
    assert!(asked(&mut messages) >= 1);
    assert_eq!(reservoir.waits.load(Ordering::Relaxed), 1);
    assert_eq!(reservoir.shelf(DIAL).lock().waiting, 0);
}

#[tokio::test]
async fn waiting_dials_are_all_served_by_one_batch() {
    let (reservoir, mut messages) = reservoir();
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let dials: Vec<_> = (0..20)
                .map(|_| {
                    let reservoir = Arc::clone(&reservoir);
                    tokio::task::spawn_local(async move { reservoir.take(DIAL, soon()).await })
                })
                .collect();
            tokio::task::yield_now().await;
            let count = asked(&mut messages);
            assert!(count >= 20, "{count}");
            reservoir.put(DIAL, sockets(20));
            for dial in dials {
                dial.await.unwrap().unwrap();
            }
        })
        .await;
}

#[tokio::test]
async fn a_lost_request_is_repeated() {
    let (reservoir, mut messages) = reservoir();
    let deadline = Instant::now() + Duration::from_secs(5);
    let take = reservoir.take(DIAL, deadline);
    let answer = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(asked(&mut messages) > 0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(asked(&mut messages) > 0, "asked again");
        reservoir.put(DIAL, sockets(1));
    };
    let (taken, ()) = tokio::join!(take, answer);
    taken.unwrap();
}

#[test]
fn unused_sockets_close_with_the_workload() {
    let (reservoir, _messages) = reservoir();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    reservoir.put(DIAL, vec![writer]);
    drop(reservoir);
    assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
}
