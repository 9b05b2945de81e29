//! The answers to what people ask of the mesh as a whole: of what the controller knows itself, and of what nodes say.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderMap;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use mesh_distribution::question::Question;
use mesh_distribution::relay::Fleet;
use mesh_kubernetes::Client;
use mesh_kubernetes::access::{self, Attributes, User};
use mesh_kubernetes::view::View;
use tokio::sync::{Semaphore, watch};

use super::api::caller::Caller;
use super::api::flows::{self, Nodes, Pace};
use super::api::refusal::Refusal;
use super::api::routes::{Lines, Mesh, Scope};
use super::health::Health;
use super::keys::Keys;
use super::knowledge::Knowledge;
use super::tell::Told;
use crate::agent::describe;
use crate::api::cluster::ClusterStatus;
use crate::api::objects::{
    Certificate, Checks, Explanation, FlowQuery, List, Object, Policy, Problem, Route, Service,
    Workload,
};

mod checks;
mod explain;
mod nodes;
mod status;

/// How long the API server may take to say what somebody may know.
const REVIEW: Duration = Duration::from_secs(5);

/// Streams of flows at the same time.
pub(super) const STREAMS: usize = 64;

/// Everything that answers are made of.
pub(super) struct Answers {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) started_at: Timestamp,
    pub(super) client: Client,
    pub(super) keys: Arc<Keys>,
    pub(super) view: View,
    pub(super) fleet: Fleet,
    /// Where the other controllers are.
    pub(super) others: watch::Receiver<BTreeSet<String>>,
    pub(super) knowledge: Knowledge,
    pub(super) told: Arc<Told>,
    pub(super) health: Arc<Health>,
    pub(super) refused: Refused,
    pub(super) streams: Arc<Semaphore>,
}

/// Questions that were not answered, by reason.
#[derive(Debug, Default)]
pub(super) struct Refused([AtomicU64; LABELS.len()]);

/// The words of [`Refusal::label`].
const LABELS: [&str; 6] = [
    "nobody",
    "forbidden",
    "not-now",
    "invalid",
    "not-found",
    "busy",
];

impl Refused {
    fn count(&self, label: &str) {
        let counters = LABELS.iter().zip(&self.0);
        for (_, counter) in counters.filter(|(known, _)| **known == label) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many, by reason; every reason is there.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = LABELS.into_iter().zip(&self.0);
        counters.map(|(label, counter)| (label, counter.load(Ordering::Relaxed)))
    }
}

/// Room for as many streams of flows as are answered at the same time.
pub(super) fn streams() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(STREAMS))
}

/// Whether an object is among those that are asked about.
fn within<T: Object>(scope: &Scope) -> impl Fn(&T) -> bool {
    move |object| {
        scope
            .as_deref()
            .is_none_or(|namespace| object.namespace() == Some(namespace))
    }
}

fn of_scope<T: Object>(mut items: Vec<T>, scope: &Scope) -> List<T> {
    items.retain(within(scope));
    List::new(items)
}

impl Mesh for Answers {
    fn caller(&self, headers: &HeaderMap) -> Option<Caller> {
        self.keys.rules()?.caller(headers)
    }

    async fn authorize(
        &self,
        caller: &Caller,
        verb: &'static str,
        resource: &'static str,
        scope: &Scope,
    ) -> Result<(), Refusal> {
        let user = User {
            name: caller.user.clone(),
            uid: caller.uid.clone(),
            groups: caller.groups.clone(),
            extra: caller.extra.clone(),
        };
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: crate::api::CLUSTER_GROUP.to_owned(),
            version: crate::api::CLUSTER_VERSION.to_owned(),
            resource: resource.to_owned(),
            namespace: scope.clone(),
            ..Attributes::default()
        };
        let review = access::authorize(&self.client, &user, &attributes);
        let reviewed = tokio::time::timeout(REVIEW, review).await;
        let place = match scope {
            Some(namespace) => format!("in the namespace {namespace:?}"),
            None => "at the cluster scope".to_owned(),
        };
        let what = format!(
            "{verb} resource {resource:?} in API group {:?} {place}",
            crate::api::CLUSTER_GROUP
        );
        match reviewed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(access::Refusal::Denied(why))) => Err(Refusal::Forbidden(format!(
                "{resource}.{} is forbidden: User {:?} cannot {what}{}",
                crate::api::CLUSTER_GROUP,
                caller.user,
                if why.is_empty() {
                    String::new()
                } else {
                    format!(": {why}")
                },
            ))),
            Ok(Err(access::Refusal::Unavailable(why))) => Err(Refusal::NotNow(format!(
                "whether {:?} may {what} cannot be found out, so there is no answer: {why}",
                caller.user
            ))),
            Err(_late) => Err(Refusal::NotNow(format!(
                "the API server does not say whether {:?} may {what}, so there is no answer; ask again",
                caller.user
            ))),
        }
    }

    fn refused(&self, refusal: &Refusal) {
        tracing::debug!(?refusal, "a question was not answered");
        self.refused.count(refusal.label());
    }

    async fn status(&self, scope: Scope) -> ClusterStatus {
        self.tell_status(scope).await
    }

    async fn workloads(&self, scope: Scope) -> List<Workload> {
        self.tell_workloads(scope).await
    }

    async fn services(&self, scope: Scope) -> List<Service> {
        let known = self.knowledge.now().await;
        of_scope(describe::services(&known.snapshot), &scope)
    }

    async fn routes(&self, scope: Scope) -> List<Route> {
        let known = self.knowledge.now().await;
        of_scope(describe::routes(&known.snapshot.world), &scope)
    }

    async fn policies(&self, scope: Scope) -> List<Policy> {
        let known = self.knowledge.now().await;
        of_scope(describe::policies(&known.snapshot.world), &scope)
    }

    async fn certificates(&self, scope: Scope) -> List<Certificate> {
        self.tell_certificates(scope).await
    }

    async fn checks(&self, scope: Scope) -> Checks {
        self.tell_checks(scope).await
    }

    async fn explain(
        &self,
        scope: Scope,
        source: &str,
        destination: &str,
    ) -> Result<Explanation, Problem> {
        let known = self.knowledge.now().await;
        explain::explain(&known.snapshot, scope.as_deref(), source, destination)
    }

    async fn flows(&self, query: FlowQuery) -> Result<Lines, Refusal> {
        let Ok(place) = Arc::clone(&self.streams).try_acquire_owned() else {
            return Err(Refusal::Busy(format!(
                "{STREAMS} streams of flows are being answered already; end one, or ask again later"
            )));
        };
        let nodes = Arc::new(Asking(self.fleet.clone()));
        let lines = flows::merged(nodes, query, Pace::default());
        // The place is given back when the stream is dropped.
        Ok(lines
            .map(move |line| {
                let _held = &place;
                line
            })
            .boxed())
    }
}

/// The nodes, as flows are asked of them.
struct Asking(Fleet);

impl Nodes for Asking {
    async fn names(&self) -> BTreeSet<String> {
        let (nodes, problems) = self.0.nodes().await;
        for why in problems {
            tracing::debug!(why, "not all nodes are known");
        }
        nodes.into_iter().map(|node| node.name).collect()
    }

    async fn flows(
        &self,
        node: &str,
        query: &FlowQuery,
    ) -> Result<BoxStream<'static, Result<Bytes, String>>, String> {
        let question = Question {
            method: "POST".to_owned(),
            path: "/v1/flows".to_owned(),
            body: serde_json::to_vec(query)
                .map_err(|error| error.to_string())?
                .into(),
        };
        let answer = self
            .0
            .ask(node, question)
            .await
            .map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!(
                "node {node} refuses (HTTP status {})",
                answer.status
            ));
        }
        Ok(answer
            .body
            .map(|chunk| chunk.map_err(|broken| broken.to_string()))
            .boxed())
    }
}
