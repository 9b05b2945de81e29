//! Who is let in and who is told what: over real TLS, as the API server connects.

mod scene;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{StreamExt, stream};
use tokio::net::TcpStream;

use super::allowed;
use super::caller::Caller;
use scene::{ClientAuthority, served};

const FLOWS_OF_SHOP: &str = "/apis/api.warren.dev/v1alpha1/namespaces/shop/flows";
const STATUS: &str = "/apis/api.warren.dev/v1alpha1/status";

#[tokio::test]
async fn only_the_api_server_is_let_in() {
    let served = served(false).await;
    let header = [("x-remote-user", "root")];
    let other = ClientAuthority::new("front-proxy-ca");
    // Its own certificate, of the right authority and with the right name, is what makes the headers believed.
    for certificate in [
        None,
        Some(other.client("front-proxy")),
        Some(served.clients.client("somebody")),
    ] {
        let answer = served.ask(certificate, STATUS, &header).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    let good = served.clients.client("front-proxy");
    let (status, body) = served
        .ask(Some(good), STATUS, &header)
        .await
        .expect("an answer");
    assert_eq!(status, 200, "{body}");
}

#[tokio::test]
async fn a_request_that_does_not_say_who_asks_is_not_answered() {
    let served = served(false).await;
    for path in [
        STATUS,
        "/apis",
        "/apis/api.warren.dev/v1alpha1",
        "/anything",
        "/",
    ] {
        let certificate = served.clients.client("front-proxy");
        // What a client sends itself is not what the API server says.
        let headers = [("authorization", "Bearer x"), ("x-forwarded-user", "root")];
        let (status, body) = served
            .ask(Some(certificate), path, &headers)
            .await
            .expect("an answer");
        assert_eq!(status, 401, "{path}: {body}");
        assert!(body.contains("\"kind\":\"Status\""), "{body}");
    }
    assert!(
        served
            .mesh
            .refused
            .lock()
            .expect("not poisoned")
            .iter()
            .all(|label| *label == "nobody")
    );
}

#[tokio::test]
async fn a_user_is_told_what_the_user_may_know() {
    let served = served(false).await;
    let (status, _) = served.ask_for("jane", FLOWS_OF_SHOP).await;
    assert_eq!(status, 200);
    for (user, path) in [
        ("jane", "/apis/api.warren.dev/v1alpha1/flows"),
        ("jane", "/apis/api.warren.dev/v1alpha1/namespaces/ops/flows"),
        (
            "jane",
            "/apis/api.warren.dev/v1alpha1/namespaces/shop/workloads",
        ),
        ("jane", STATUS),
        ("joe", FLOWS_OF_SHOP),
    ] {
        let (status, said) = served.ask_for(user, path).await;
        assert_eq!(status, 403, "{user} {path}");
        assert_eq!(said["reason"], "Forbidden");
    }
    // What there is to ask, everybody may know.
    let (status, said) = served.ask_for("joe", "/apis/api.warren.dev/v1alpha1").await;
    assert_eq!(status, 200);
    let flows = said["resources"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["name"] == "flows");
    assert_eq!(
        flows.expect("flows")["verbs"],
        serde_json::json!(["list", "watch"])
    );
}

#[tokio::test]
async fn whoever_cannot_be_authorised_is_not_answered() {
    let served = served(true).await;
    let (status, said) = served.ask_for("root", STATUS).await;
    assert_eq!(status, 503, "{said}");
    assert_eq!(
        *served.mesh.refused.lock().expect("not poisoned"),
        ["not-now"]
    );
}

#[tokio::test]
async fn the_scope_of_a_question_is_its_path_and_not_its_query() {
    let served = served(false).await;
    let path = format!("{FLOWS_OF_SHOP}?ns=ops&scope=ops&watch=true");
    let (status, said) = served.ask_for("jane", &path).await;
    assert_eq!(status, 400, "{said}");
    let path = format!("{FLOWS_OF_SHOP}?ns=ops&watch=true&last=3");
    let (status, _) = served.ask_for("jane", &path).await;
    assert_eq!(status, 200);
    let asked = served.mesh.asked.lock().expect("not poisoned");
    let query = asked.last().expect("a query");
    assert_eq!(query.scope.as_deref(), Some("shop"));
    assert_eq!((query.last, query.follow), (Some(3), true));
}

#[tokio::test]
async fn mistakes_are_said_in_the_words_of_kubernetes() {
    let served = served(false).await;
    let check = async |user, path: &str, status, expected: &str| {
        let (got, said) = served.ask_for(user, path).await;
        assert_eq!(got, status, "{path}: {said}");
        let message = said["message"].as_str().unwrap_or_default();
        assert!(message.contains(expected), "{path}: {said}");
        assert_eq!(said["code"], status);
    };
    check(
        "jane",
        &format!("{FLOWS_OF_SHOP}?verdct=denied"),
        400,
        "did you mean verdict?",
    )
    .await;
    let explain = "/apis/api.warren.dev/v1alpha1/namespaces/shop/explain";
    check("jane", explain, 400, "source=WORKLOAD").await;
    check(
        "jane",
        &format!("{explain}?source=a&destination=b"),
        400,
        "a is not known",
    )
    .await;
    check(
        "root",
        &format!("{STATUS}?watch=true"),
        400,
        "cannot be watched",
    )
    .await;
    check(
        "root",
        "/apis/api.warren.dev/v1alpha1/flwos",
        404,
        "does not know",
    )
    .await;
    check(
        "root",
        "/apis/api.warren.dev/v2/status",
        404,
        "same version",
    )
    .await;
    // To the API server, a namespace's "status" is a part of the Namespace object.
    let path = "/apis/api.warren.dev/v1alpha1/namespaces/shop";
    check("root", &format!("{path}/status"), 404, "does not know").await;
    let (status, _) = served.ask_for("root", &format!("{path}/summary")).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn questions_end_when_the_controller_does() {
    let served = served(false).await;
    served.stop.send(true).expect("somebody listens");
    let closed = async {
        loop {
            if TcpStream::connect(served.address).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), closed)
        .await
        .expect("it no longer listens");
}

#[tokio::test]
async fn a_stream_ends_when_its_reader_may_not_see_it_any_more() {
    let served = served(false).await;
    // As from a channel: it gives others their turn.
    let endless = || {
        stream::repeat(Bytes::from_static(b"{}\n"))
            .then(async |line| {
                tokio::task::yield_now().await;
                line
            })
            .boxed()
    };
    let watcher = || allowed::Watcher {
        mesh: Arc::clone(&served.mesh),
        caller: Caller {
            user: "jane".to_owned(),
            ..Caller::default()
        },
        resource: "flows",
        scope: Some("shop".to_owned()),
    };
    let again = Duration::from_millis(1);
    let mut lines = allowed::while_allowed(watcher(), endless(), again);
    assert!(lines.next().await.is_some());
    // That the API server cannot be asked takes nothing away.
    served.mesh.unreachable.store(true, Ordering::Relaxed);
    let going_on = lines.by_ref().take(1_000).count();
    assert_eq!(going_on.await, 1_000);
    served.mesh.unreachable.store(false, Ordering::Relaxed);
    served.mesh.may.lock().expect("not poisoned").clear();
    let rest = async { lines.collect::<Vec<_>>().await };
    let rest = tokio::time::timeout(Duration::from_secs(10), rest).await;
    let rest = rest.expect("it ends");
    let last = String::from_utf8_lossy(rest.last().expect("a line")).into_owned();
    assert!(
        last.contains("\"Notice\"") && last.contains("may not see"),
        "{last}"
    );
    assert_eq!(
        *served.mesh.refused.lock().expect("not poisoned"),
        ["forbidden"]
    );
}
