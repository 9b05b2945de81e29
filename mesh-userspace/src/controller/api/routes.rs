//! Paths to functions of [`Mesh`], for whoever may ask: the API server has authorised the caller, and is asked once more
//! whether it has, so that a mistake in who may speak for it opens nothing.

use std::future::Future;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde::Serialize;

use super::allowed::{AGAIN, Watcher, while_allowed};
use super::caller::Caller;
use super::discovery;
use super::refusal::Refusal;
use crate::api::cluster::ClusterStatus;
use crate::api::objects::{
    Certificate, Checks, Explanation, FlowQuery, List, Policy, Problem, Route, Service, Workload,
};

/// What is asked about: everything, or one namespace.
pub(crate) type Scope = Option<String>;

/// A URL's query.
type Pairs = Query<Vec<(String, String)>>;

/// Lines of JSON, each with its end.
pub(crate) type Lines = BoxStream<'static, Bytes>;

/// What the mesh of a cluster can be asked. Everything that is told of a namespace has to do with it.
pub(crate) trait Mesh: Send + Sync + 'static {
    /// Who asks, as the API server says; `None`: it does not, or it is not known how it would.
    fn caller(&self, headers: &HeaderMap) -> Option<Caller>;
    /// Whether a caller may know this.
    fn authorize(
        &self,
        caller: &Caller,
        verb: &'static str,
        resource: &'static str,
        scope: &Scope,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Told of every answer that is no success.
    fn refused(&self, refusal: &Refusal);

    fn status(&self, scope: Scope) -> impl Future<Output = ClusterStatus> + Send;
    fn workloads(&self, scope: Scope) -> impl Future<Output = List<Workload>> + Send;
    fn services(&self, scope: Scope) -> impl Future<Output = List<Service>> + Send;
    fn routes(&self, scope: Scope) -> impl Future<Output = List<Route>> + Send;
    fn policies(&self, scope: Scope) -> impl Future<Output = List<Policy>> + Send;
    fn certificates(&self, scope: Scope) -> impl Future<Output = List<Certificate>> + Send;
    fn checks(&self, scope: Scope) -> impl Future<Output = Checks> + Send;
    fn explain(
        &self,
        scope: Scope,
        source: &str,
        destination: &str,
    ) -> impl Future<Output = Result<Explanation, Problem>> + Send;
    /// The flows that are meant, of every node.
    fn flows(&self, query: FlowQuery) -> impl Future<Output = Result<Lines, Refusal>> + Send;
}

/// Everything that can be asked.
pub(crate) fn router<M: Mesh>(mesh: Arc<M>) -> Router {
    let path = crate::api::CLUSTER_PATH;
    let group = format!("/apis/{}", crate::api::CLUSTER_GROUP);
    Router::new()
        .route("/apis", get(document::<M>))
        .route(&group, get(document::<M>))
        .route(path, get(document::<M>))
        .route(&format!("{path}/{{resource}}"), get(everywhere::<M>))
        .route(
            &format!("{path}/namespaces/{{namespace}}/{{resource}}"),
            get(in_namespace::<M>),
        )
        // The API server asks by itself, again and again; that there is none is no mistake of anybody's.
        .route("/openapi/{*document}", get(async || StatusCode::NOT_FOUND))
        .fallback(unknown::<M>)
        .method_not_allowed_fallback(unknown::<M>)
        .with_state(mesh)
}

/// What there is to ask. Every caller may know that, as with every other group.
async fn document<M: Mesh>(State(mesh): State<Arc<M>>, headers: HeaderMap, uri: Uri) -> Response {
    if mesh.caller(&headers).is_none() {
        return refuse(&*mesh, Refusal::Nobody);
    }
    let document = match uri.path() {
        "/apis" => discovery::groups(),
        path if path == crate::api::CLUSTER_PATH => discovery::resources(),
        _ => discovery::group(),
    };
    Json(document).into_response()
}

async fn everywhere<M: Mesh>(
    State(mesh): State<Arc<M>>,
    Path(resource): Path<String>,
    query: Pairs,
    headers: HeaderMap,
) -> Response {
    said(
        &*mesh,
        answer(&mesh, &headers, &resource, None, query).await,
    )
}

async fn in_namespace<M: Mesh>(
    State(mesh): State<Arc<M>>,
    Path((namespace, resource)): Path<(String, String)>,
    query: Pairs,
    headers: HeaderMap,
) -> Response {
    let scope = Some(namespace);
    said(
        &*mesh,
        answer(&mesh, &headers, &resource, scope, query).await,
    )
}

async fn unknown<M: Mesh>(
    State(mesh): State<Arc<M>>,
    headers: HeaderMap,
    method: Method,
    uri: Uri,
) -> Response {
    let refusal = match mesh.caller(&headers) {
        None => Refusal::Nobody,
        Some(_) => not_known(&format!("{method} {}", uri.path())),
    };
    refuse(&*mesh, refusal)
}

fn not_known(what: &str) -> Refusal {
    Refusal::NotFound(format!(
        "this controller does not know {what}; are command line and controller of the same version? warren version"
    ))
}

fn said<M: Mesh>(mesh: &M, answer: Result<Response, Refusal>) -> Response {
    answer.unwrap_or_else(|refusal| refuse(mesh, refusal))
}

fn refuse<M: Mesh>(mesh: &M, refusal: Refusal) -> Response {
    mesh.refused(&refusal);
    refusal.into_response()
}

/// Who asks, may they, and the answer.
async fn answer<M: Mesh>(
    mesh: &Arc<M>,
    headers: &HeaderMap,
    resource: &str,
    scope: Scope,
    Query(pairs): Pairs,
) -> Result<Response, Refusal> {
    let caller = mesh.caller(headers).ok_or(Refusal::Nobody)?;
    let discovery::Resource {
        name: resource,
        verbs,
        ..
    } = *discovery::RESOURCES
        .iter()
        .find(|known| known.name == resource && (scope.is_none() || known.of_namespaces))
        .ok_or_else(|| not_known(&format!("the resource {resource}")))?;
    // As the API server reads it: the verb that it has authorised.
    let watch = pairs
        .iter()
        .any(|(name, value)| name == "watch" && matches!(value.as_str(), "true" | "1"));
    let verb = if watch { "watch" } else { "list" };
    mesh.authorize(&caller, verb, resource, &scope).await?;
    if !verbs.contains(&verb) {
        return Err(Refusal::Invalid(format!(
            "{resource} cannot be watched; ask again, without watch=true"
        )));
    }
    match resource {
        "certs" => Ok(object(mesh.certificates(scope).await)),
        "checks" => Ok(object(mesh.checks(scope).await)),
        "explain" => explain(&**mesh, scope, &pairs).await,
        "flows" => flows(mesh, caller, scope, &pairs).await,
        "policies" => Ok(object(mesh.policies(scope).await)),
        "routes" => Ok(object(mesh.routes(scope).await)),
        "services" => Ok(object(mesh.services(scope).await)),
        "status" | "summary" => Ok(object(mesh.status(scope).await)),
        "workloads" => Ok(object(mesh.workloads(scope).await)),
        other => Err(not_known(&format!("the resource {other}"))),
    }
}

fn object<T: Serialize>(object: T) -> Response {
    Json(object).into_response()
}

async fn explain<M: Mesh>(
    mesh: &M,
    scope: Scope,
    pairs: &[(String, String)],
) -> Result<Response, Refusal> {
    let value = |wanted: &str| {
        pairs
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.as_str())
            .ok_or_else(|| {
                Refusal::Invalid("say ?source=WORKLOAD&destination=SERVICE:PORT".to_owned())
            })
    };
    mesh.explain(scope, value("source")?, value("destination")?)
        .await
        .map(object)
        .map_err(|problem| Refusal::Invalid(problem.message))
}

async fn flows<M: Mesh>(
    mesh: &Arc<M>,
    caller: Caller,
    scope: Scope,
    pairs: &[(String, String)],
) -> Result<Response, Refusal> {
    let pairs = pairs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut query =
        FlowQuery::from_pairs(pairs).map_err(|error| Refusal::Invalid(error.to_string()))?;
    query.scope.clone_from(&scope);
    let follow = query.follow;
    let mut lines = mesh.flows(query).await?;
    if follow {
        let watcher = Watcher {
            mesh: Arc::clone(mesh),
            caller,
            resource: "flows",
            scope,
        };
        lines = while_allowed(watcher, lines, AGAIN);
    }
    let body = Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}
