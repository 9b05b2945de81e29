//! Health for orchestrators: alive, and ready to serve nodes.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use mesh_distribution::hub::Hub;
use mesh_kubernetes::view::View;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What being ready depends on.
#[derive(Clone)]
pub(super) struct Health {
    pub(super) hub: Hub,
    pub(super) view: View,
    pub(super) stopping: watch::Receiver<bool>,
}

impl Health {
    /// What is missing before nodes can be served, in words. That the authority is there is a matter of the start: without
    /// it nothing listens.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if *self.stopping.borrow() {
            missing.push("the controller is ending".to_owned());
        }
        if !self.view.is_complete() {
            missing.push("not everything of the cluster was listed yet".to_owned());
        } else if !self.hub.is_ready() {
            missing.push("what was listed is not told to nodes yet".to_owned());
        }
        missing
    }
}

/// Serves `/livez` and `/readyz`.
pub(super) async fn serve(listener: TcpListener, health: Arc<Health>) -> io::Result<()> {
    let readiness = get(async move || {
        let missing = health.not_ready();
        match missing.is_empty() {
            true => (StatusCode::OK, "ready\n".to_owned()),
            false => (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n"),
        }
    });
    // That the process answers is all that liveness says: a restart brings back no API server.
    let router = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", readiness);
    axum::serve(listener, router).await
}
