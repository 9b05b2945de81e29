//! Health for orchestrators: alive, and ready to serve.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use super::view::View;

/// Serves `/livez` and `/readyz`.
pub(crate) async fn serve(listener: TcpListener, view: Arc<View>) -> io::Result<()> {
    let readiness = get(async move || {
        let missing = view.not_ready();
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
