//! Health for orchestrators: alive, and ready to serve.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::routing::get;
use serde::Deserialize;
use tokio::net::TcpListener;

use super::view::View;

/// Whose readiness is meant.
#[derive(Deserialize)]
struct Whose {
    /// The agent's pod. Two agents of one node share its address.
    pod: Option<String>,
}

/// Serves `/livez` and `/readyz`. `pod` is the agent's own, if it has one.
pub(crate) async fn serve(
    listener: TcpListener,
    view: Arc<View>,
    pod: Option<String>,
) -> io::Result<()> {
    let readiness = get(async move |Query(whose): Query<Whose>| {
        let mut missing = view.not_ready();
        if whose.pod.is_some() && whose.pod != pod {
            missing.push("the agent of another pod serves this node".to_owned());
        }
        match missing.is_empty() {
            true => (StatusCode::OK, "ready\n".to_owned()),
            false => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
        }
    });
    // That the process answers is all that liveness says: a restart repairs nothing that a worker or a file lacks.
    let router = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", readiness);
    axum::serve(listener, router).await
}
