//! The server side of the node API: routes to functions of [`Node`]. It knows nothing of how a node works.

use std::future::Future;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::broadcast::{self, error::RecvError};

use super::flow::Flow;
use crate::cni::wire::{self, PodAnswer, PodRequest};

use super::objects::{
    Bookmark, Certificate, Checks, Explanation, FlowQuery, List, Lost, Object, Policy, Problem,
    Route, Service, Status, Workload,
};

/// What a node can be asked. Every answer is a value of the moment.
pub(crate) trait Node: Send + Sync + 'static {
    /// Makes what the other questions tell as new as can be.
    fn refresh(&self) -> impl Future<Output = ()> + Send;
    fn status(&self) -> Status;
    fn workloads(&self) -> Vec<Workload>;
    fn services(&self) -> Vec<Service>;
    fn routes(&self) -> Vec<Route>;
    fn policies(&self) -> Vec<Policy>;
    fn certificates(&self) -> Vec<Certificate>;
    fn checks(&self) -> Checks;
    /// The flows of the past that are meant, and those to come.
    fn flows(&self, query: &FlowQuery) -> (Vec<Arc<Flow>>, broadcast::Receiver<Arc<Flow>>);
    fn explain(&self, source: &str, destination: &str) -> Result<Explanation, Problem>;
    /// Opens the mesh, for an uninstall of a whole cluster: until it follows, and no longer than this, nobody is refused. Answers
    /// when that holds.
    fn open(&self, within: Duration) -> impl Future<Output = Result<(), Problem>> + Send;
    /// Takes every trace of the mesh from the node; the agent exits afterwards. Gives what was removed, in words.
    fn uninstall(&self) -> impl Future<Output = Result<Vec<String>, Problem>> + Send;
    /// A container runtime announces a pod. Answers when the mesh is enforced for it, or it has nothing to do with it.
    fn add_pod(&self, pod: PodRequest) -> impl Future<Output = Result<PodAnswer, Problem>> + Send;
    /// It takes one down.
    fn remove_pod(&self, pod: PodRequest) -> impl Future<Output = Result<(), Problem>> + Send;
    /// It asks whether one is enforced.
    fn check_pod(&self, pod: PodRequest)
    -> impl Future<Output = Result<PodAnswer, Problem>> + Send;
    /// The next agent is there, for as long as the future is not dropped. It does not end.
    fn announced(&self) -> impl Future<Output = ()> + Send;
    /// Leaves the node to the next agent; answers when that can have it.
    fn hand_over(&self) -> impl Future<Output = Result<(), Problem>> + Send;
}

/// Where the next agent asks for the node.
pub(crate) const HAND_OVER: &str = "/v1/handover";

/// Where it says that it is there, for as long as it does not hang up.
pub(crate) const ANNOUNCE: &str = "/v1/successor";

/// Opens the socket, for root alone. A stale one of a dead agent is replaced: the caller holds the run directory's lock.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the API until the future is dropped.
pub(crate) async fn serve<N: Node>(listener: UnixListener, node: Arc<N>) -> io::Result<()> {
    axum::serve(listener, of_the_node(node)).await
}

/// What is asked on the node itself.
fn of_the_node<N: Node>(node: Arc<N>) -> Router {
    let own = Router::new()
        .route(wire::ADD, post(add_pod::<N>))
        .route(wire::DELETE, post(remove_pod::<N>))
        .route(wire::CHECK, post(check_pod::<N>))
        .route(HAND_OVER, post(hand_over::<N>))
        .route(ANNOUNCE, post(announce::<N>))
        .route("/v1/open", post(open::<N>))
        .route("/v1/uninstall", post(uninstall::<N>))
        .with_state(Arc::clone(&node));
    router(node).merge(own)
}

/// What can be asked from elsewhere, too, through the controller.
pub(crate) fn router<N: Node>(node: Arc<N>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<N>))
        .route("/v1/workloads", get(workloads::<N>))
        .route("/v1/services", get(async |State(node): State<Arc<N>>| list(node.services())))
        .route("/v1/routes", get(async |State(node): State<Arc<N>>| list(node.routes())))
        .route("/v1/policies", get(async |State(node): State<Arc<N>>| list(node.policies())))
        .route("/v1/certs", get(async |State(node): State<Arc<N>>| list(node.certificates())))
        .route("/v1/check", get(checks::<N>))
        .route("/v1/explain", get(explain::<N>))
        .route("/v1/flows", post(flows::<N>))
        .fallback(async || {
            let problem = Problem::new(
                "this agent does not know the request: the command line and the agent are of different versions; \
                 run `warren version` and restart the agent with the newer one",
            );
            (StatusCode::NOT_FOUND, Json(problem))
        })
        .with_state(node)
}

async fn status<N: Node>(State(node): State<Arc<N>>) -> Json<Status> {
    node.refresh().await;
    Json(node.status())
}

async fn checks<N: Node>(State(node): State<Arc<N>>) -> Json<Checks> {
    node.refresh().await;
    Json(node.checks())
}

/// What is wanted of the workloads.
#[derive(Deserialize)]
struct WorkloadsQuery {
    /// Only those of this node.
    #[serde(default)]
    local: bool,
    /// Only those of this namespace.
    namespace: Option<String>,
}

async fn workloads<N: Node>(
    State(node): State<Arc<N>>,
    Query(query): Query<WorkloadsQuery>,
) -> Json<List<Workload>> {
    let mut workloads = node.workloads();
    workloads.retain(|workload| {
        (!query.local || workload.enrolment.is_some())
            && query
                .namespace
                .as_ref()
                .is_none_or(|namespace| workload.namespace == *namespace)
    });
    list(workloads)
}

fn list<T: Object + Serialize>(items: Vec<T>) -> Json<List<T>> {
    Json(List::new(items))
}

#[derive(Deserialize)]
struct ExplainQuery {
    source: String,
    destination: String,
}

async fn explain<N: Node>(
    State(node): State<Arc<N>>,
    Query(query): Query<ExplainQuery>,
) -> Response {
    answer(
        node.explain(&query.source, &query.destination),
        StatusCode::BAD_REQUEST,
    )
}

/// For how long a mesh is opened.
#[derive(Debug, Deserialize)]
struct Opening {
    #[serde(default = "Opening::default_seconds")]
    seconds: u64,
}

impl Opening {
    /// What command lines mean that do not say it.
    const fn default_seconds() -> u64 {
        15 * 60
    }
}

async fn open<N: Node>(State(node): State<Arc<N>>, Query(opening): Query<Opening>) -> Response {
    let within = Duration::from_secs(opening.seconds);
    answer(node.open(within).await, StatusCode::INTERNAL_SERVER_ERROR)
}

async fn uninstall<N: Node>(State(node): State<Arc<N>>) -> Response {
    answer(node.uninstall().await, StatusCode::INTERNAL_SERVER_ERROR)
}

async fn add_pod<N: Node>(State(node): State<Arc<N>>, Json(pod): Json<PodRequest>) -> Response {
    later(node.add_pod(pod).await)
}

async fn remove_pod<N: Node>(State(node): State<Arc<N>>, Json(pod): Json<PodRequest>) -> Response {
    later(node.remove_pod(pod).await)
}

async fn check_pod<N: Node>(State(node): State<Arc<N>>, Json(pod): Json<PodRequest>) -> Response {
    later(node.check_pod(pod).await)
}

async fn hand_over<N: Node>(State(node): State<Arc<N>>) -> Response {
    later(node.hand_over().await)
}

async fn announce<N: Node>(State(node): State<Arc<N>>) {
    node.announced().await;
}

/// An answer that may be another one later.
fn later<T: Serialize>(answer: Result<T, Problem>) -> Response {
    self::answer(answer, StatusCode::SERVICE_UNAVAILABLE)
}

/// An answer, or a problem with its status.
fn answer<T: Serialize>(answer: Result<T, Problem>, otherwise: StatusCode) -> Response {
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => (otherwise, Json(problem)).into_response(),
    }
}

async fn flows<N: Node>(State(node): State<Arc<N>>, Json(query): Json<FlowQuery>) -> Response {
    let (past, coming) = node.flows(&query);
    let past = stream::iter(past).map(|flow| line(&*flow));
    let end = query.bookmark.then(|| line(&Bookmark::new()));
    let past = past.chain(stream::iter(end));
    let body = if query.follow {
        Body::from_stream(past.chain(follow(coming, query)))
    } else {
        Body::from_stream(past)
    };
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn follow(
    coming: broadcast::Receiver<Arc<Flow>>,
    query: FlowQuery,
) -> impl futures_util::Stream<Item = Result<Bytes, serde_json::Error>> {
    stream::unfold((coming, query), async |(mut coming, query)| {
        loop {
            let next = match coming.recv().await {
                Ok(flow) if query.means(&flow) => line(&*flow),
                Ok(_) => continue,
                // The ring never waits for a reader: one that is too slow is told what it missed.
                Err(RecvError::Lagged(count)) => line(&Lost {
                    api_version: super::VERSION.to_owned(),
                    kind: Lost::KIND.to_owned(),
                    count,
                }),
                Err(RecvError::Closed) => return None,
            };
            return Some((next, (coming, query)));
        }
    })
}

fn line<T: Serialize>(value: &T) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line.into())
}

#[cfg(test)]
mod tests;
