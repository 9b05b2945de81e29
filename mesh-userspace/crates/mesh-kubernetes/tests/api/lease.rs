//! Two candidates for one Lease.

use std::time::{Duration, Instant};

use mesh_kubernetes::lease::{self, Settings};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use super::cluster;

fn settings(namespace: &str, holder: &str) -> Settings {
    Settings {
        duration: Duration::from_secs(4),
        renew_every: Duration::from_millis(800),
        ..Settings::new(namespace, "writer", holder)
    }
}

async fn until(held: &mut watch::Receiver<bool>, wanted: bool, what: &str) {
    let waited = timeout(
        Duration::from_secs(20),
        held.wait_for(|held| *held == wanted),
    )
    .await;
    waited
        .unwrap_or_else(|_| panic!("not within 20 s: {what}"))
        .expect("the candidate runs");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn one_writes_at_a_time_and_another_takes_over() {
    let client = cluster::server().await;
    let namespace = cluster::namespace(&client, json!({})).await;
    let start = |holder: &str| {
        let (held, holding) = watch::channel(false);
        (
            tokio::spawn(lease::run(
                client.clone(),
                settings(&namespace, holder),
                held,
            )),
            holding,
        )
    };
    let (first, mut first_holds) = start("a");
    until(&mut first_holds, true, "the first one has it").await;
    let (second, mut second_holds) = start("b");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(
        *first_holds.borrow() && !*second_holds.borrow(),
        "renewed, it stays"
    );
    let holder = lease::holder(&client, &namespace, "writer")
        .await
        .expect("the lease");
    assert_eq!(holder.as_deref(), Some("a"));

    // Stopped in order, it gives it back: nobody waits for it to run out.
    let since = Instant::now();
    drop(first_holds);
    first.await.expect("it ends by itself");
    until(&mut second_holds, true, "the second one takes over").await;
    assert!(
        since.elapsed() < Duration::from_secs(3),
        "{:?}",
        since.elapsed()
    );

    // Killed, it does not: it runs out.
    let (third, mut third_holds) = start("c");
    second.abort();
    until(&mut third_holds, true, "the third one takes over").await;
    third.abort();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn whoever_lost_it_is_told_before_another_one_has_it() {
    let client = cluster::server().await;
    let namespace = cluster::namespace(&client, json!({})).await;
    let (held, mut holding) = watch::channel(false);
    let task = tokio::spawn(lease::run(client.clone(), settings(&namespace, "a"), held));
    until(&mut holding, true, "it has it").await;
    // Somebody takes it by force, as after a long pause of the machine.
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "writer", "namespace": namespace },
        "spec": { "holderIdentity": "z", "leaseDurationSeconds": 60 },
    });
    cluster::apply(&client, lease).await;
    until(&mut holding, false, "it knows that it lost it").await;
    task.abort();
}
