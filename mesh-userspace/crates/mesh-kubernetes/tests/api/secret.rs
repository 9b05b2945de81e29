//! The root key's Secret, and whom everybody trusts.

use std::convert::Infallible;

use mesh_kubernetes::authority_secret::{
    SecretData, Trust, follow_secret, follow_trust, publish_trust, read, read_or_create,
    read_trust, replace,
};
use serde_json::json;
use tokio::sync::watch;

use super::cluster;

fn key(text: &str) -> SecretData {
    SecretData([("ca.key".to_owned(), text.as_bytes().to_vec())].into())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn of_several_that_make_it_at_once_one_wins() {
    let client = cluster::server().await;
    let namespace = cluster::namespace(&client, json!({})).await;
    assert_eq!(
        read(&client, &namespace).await.expect("the server answers"),
        None
    );
    let makers = (0..8).map(|number| {
        let (client, namespace) = (client.clone(), namespace.clone());
        tokio::spawn(async move {
            let make = || Ok::<_, Infallible>(key(&format!("made by {number}")));
            read_or_create(&client, &namespace, make)
                .await
                .expect("a key")
        })
    });
    let mut made = Vec::new();
    for maker in makers.collect::<Vec<_>>() {
        made.push(maker.await.expect("a maker"));
    }
    let kept = read(&client, &namespace)
        .await
        .expect("the server answers")
        .expect("a key");
    assert!(made.iter().all(|one| *one == kept), "all have the same one");
    assert_eq!(
        format!("{kept:?}"),
        "{\"ca.key\"}",
        "its value is never printed"
    );

    let (sender, mut latest) = watch::channel(None);
    let following = tokio::spawn(follow_secret(client.clone(), namespace.clone(), sender));
    latest
        .wait_for(|latest| latest.as_ref() == Some(&kept))
        .await
        .expect("it is followed");
    let rotated = key("rotated");
    replace(&client, &namespace, &kept, &rotated)
        .await
        .expect("it is replaced");
    latest
        .wait_for(|latest| latest.as_ref() == Some(&rotated))
        .await
        .expect("it is followed");
    let late = replace(&client, &namespace, &kept, &key("late")).await;
    let late = late
        .expect_err("based on what is there no more")
        .to_string();
    assert!(late.contains("somebody else changed it"), "{late}");
    cluster::delete(
        &client,
        &json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "warren-ca", "namespace": namespace } }),
    )
    .await;
    latest
        .wait_for(Option::is_none)
        .await
        .expect("it is followed");
    drop(latest);
    following.await.expect("it ends when nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an API server: cargo xtask test --kubernetes"]
async fn trust_is_published_once_and_followed() {
    let client = cluster::server().await;
    let namespace = cluster::namespace(&client, json!({})).await;
    let trust = |bundle: &str| Trust {
        bundle_pem: bundle.to_owned(),
        trust_domain: "cluster.local".to_owned(),
    };
    assert_eq!(
        read_trust(&client, &namespace)
            .await
            .expect("the server answers"),
        None
    );
    let (sender, mut latest) = watch::channel(None);
    let following = tokio::spawn(follow_trust(client.clone(), namespace.clone(), sender));
    publish_trust(&client, &namespace, &trust("one"))
        .await
        .expect("it is written");
    latest
        .wait_for(|latest| *latest == Some(trust("one")))
        .await
        .expect("it is followed");
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "warren-trust", "namespace": namespace } });
    let version = cluster::get(&client, &map).await.metadata.resource_version;
    publish_trust(&client, &namespace, &trust("one"))
        .await
        .expect("it is there");
    assert_eq!(
        cluster::get(&client, &map).await.metadata.resource_version,
        version,
        "not written again"
    );
    publish_trust(&client, &namespace, &trust("one\ntwo"))
        .await
        .expect("it is written");
    latest
        .wait_for(|latest| *latest == Some(trust("one\ntwo")))
        .await
        .expect("it is followed");
    // What does not say what it should changes nothing.
    let mut broken = map.clone();
    broken["data"] = json!({ "bundle.pem": "" });
    cluster::apply(&client, broken).await;
    let error = read_trust(&client, &namespace)
        .await
        .expect_err("it says nothing")
        .to_string();
    assert!(
        error.contains("warren-trust: it has no bundle.pem"),
        "{error}"
    );
    publish_trust(&client, &namespace, &trust("three"))
        .await
        .expect("it is mended");
    latest
        .wait_for(|latest| *latest == Some(trust("three")))
        .await
        .expect("it is followed");
    following.abort();
}
