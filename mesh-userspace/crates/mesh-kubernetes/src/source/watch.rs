//! One watch per kind: listed in pages, then followed, with bookmarks, for ever. Objects are made small as they come in.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::object::Object;
use kube::discovery::ApiResource;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::discover::{Optional, find, is_not_found};
use crate::crds;
use crate::observe::{
    GATEWAY_GROUP, Group, Observation, Observed, RawGrant, RawNamespace, RawNode, RawPod,
    RawPolicy, RawRoute, RawService, Route, RouteKind, Seen,
};
use crate::view::{View, Watch};

/// The server ends a watch after this time, and it is begun again: a connection that is dead without saying so is found out
/// soon after.
pub(crate) const LONGEST_WATCH: u32 = 60;

/// A kind that was there and is not found any more is taken as gone after this time: a server that starts may not know it
/// yet, and forgetting policies opens what they close.
const GONE_AFTER: Duration = Duration::from_secs(30);

/// The same for a kind that was never there.
const ABSENT_AFTER: Duration = Duration::from_secs(2);

/// Starts all of them.
pub(super) fn start(
    tasks: &mut JoinSet<()>,
    client: &Client,
    view: &View,
    to: &mpsc::Sender<Observation>,
) {
    let follower = |watch| Follower {
        client: client.clone(),
        view: view.clone(),
        to: to.clone(),
        watch,
    };
    let it = follower(Watch::Namespaces);
    tasks.spawn(async move {
        let api: Api<RawNamespace> = it.all::<Namespace, _, _>();
        it.follow_for_ever(api, everything(), Into::into, Observation::Namespaces)
            .await;
    });
    let it = follower(Watch::Pods);
    tasks.spawn(async move {
        let api: Api<RawPod> = it.all::<Pod, _, _>();
        // Pods that have ended leave the watch as if they were deleted.
        let live = everything().fields("status.phase!=Succeeded,status.phase!=Failed");
        it.follow_for_ever(api, live, Into::into, Observation::Pods)
            .await;
    });
    let it = follower(Watch::Services);
    tasks.spawn(async move {
        let api: Api<RawService> = it.all::<Service, _, _>();
        it.follow_for_ever(api, everything(), Into::into, Observation::Services)
            .await;
    });
    let it = follower(Watch::Nodes);
    tasks.spawn(async move {
        let api: Api<RawNode> = it.all::<Node, _, _>();
        it.follow_for_ever(api, everything(), Into::into, Observation::Nodes)
            .await;
    });
    tasks.spawn(endpoints(follower(Watch::Endpoints)));
    for kind in RouteKind::ALL {
        let it = follower(Watch::Routes(kind));
        tasks.spawn(it.follow_where_served::<RawRoute, Route>(
            Optional {
                group: GATEWAY_GROUP,
                versions: match kind {
                    RouteKind::Tcp => &["v1", "v1alpha2"],
                    RouteKind::Http => &["v1", "v1beta1"],
                    RouteKind::Grpc => &["v1"],
                },
                kind: kind.kind(),
                plural: kind.plural(),
            },
            move |raw| Route::read(kind, raw),
            move |seen| Observation::Routes(kind, seen),
        ));
    }
    let it = follower(Watch::Grants);
    tasks.spawn(it.follow_where_served::<RawGrant, _>(
        Optional {
            group: GATEWAY_GROUP,
            versions: &["v1", "v1beta1"],
            kind: "ReferenceGrant",
            plural: "referencegrants",
        },
        Into::into,
        Observation::Grants,
    ));
    let own = |kind, plural| Optional {
        group: crds::GROUP,
        versions: &[crds::VERSION],
        kind,
        plural,
    };
    let it = follower(Watch::AuthorizationPolicies);
    tasks.spawn(it.follow_where_served::<RawPolicy, _>(
        own("AuthorizationPolicy", "authorizationpolicies"),
        Into::into,
        Observation::AuthorizationPolicies,
    ));
    let it = follower(Watch::MeshPolicies);
    tasks.spawn(it.follow_where_served::<RawPolicy, _>(
        own("MeshPolicy", "meshpolicies"),
        Into::into,
        Observation::MeshPolicies,
    ));
}

fn everything() -> watcher::Config {
    watcher::Config::default().timeout(LONGEST_WATCH)
}

/// EndpointSlices where the server has them in v1, else core Endpoints.
async fn endpoints(it: Follower) {
    let slices = Optional {
        group: "discovery.k8s.io",
        versions: &["v1"],
        kind: "EndpointSlice",
        plural: "endpointslices",
    };
    let has_slices = loop {
        match find(&it.client, slices).await {
            Ok(found) => break found.is_some(),
            Err(error) => it.failed(&error).await,
        }
    };
    if has_slices {
        let api: Api<EndpointSlice> = Api::all(it.client.clone());
        it.follow_for_ever(api, everything(), Group::from, Observation::Endpoints)
            .await;
    } else {
        let api: Api<Endpoints> = Api::all(it.client.clone());
        it.follow_for_ever(api, everything(), Group::from, Observation::Endpoints)
            .await;
    }
}

struct Follower {
    client: Client,
    view: View,
    to: mpsc::Sender<Observation>,
    watch: Watch,
}

impl Follower {
    /// All objects of a kind, read by a type of our own.
    fn all<K, P, U>(&self) -> Api<Object<P, U>>
    where
        K: Resource<DynamicType = ()>,
        P: Clone,
        U: Clone,
    {
        let resource = ApiResource::erase::<K>(&());
        Api::all_with(self.client.clone(), &resource)
    }

    /// Follows a kind that every server has.
    async fn follow_for_ever<K, T>(
        self,
        api: Api<K>,
        config: watcher::Config,
        read: impl Fn(K) -> T + Send,
        wrap: impl Fn(Seen<T>) -> Observation + Send,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Observed + Send,
        T::Key: Send,
    {
        loop {
            self.follow(api.clone(), config.clone(), &read, &wrap).await;
            if self.to.is_closed() {
                return;
            }
            sleep(ABSENT_AFTER).await;
        }
    }

    /// Follows a kind while the server has it, and waits for it where it has not.
    async fn follow_where_served<K, T>(
        self,
        kind: Optional,
        read: impl Fn(K) -> T + Send,
        wrap: impl Fn(Seen<T>) -> Observation + Send,
    ) where
        K: Resource<DynamicType = ApiResource> + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Observed + Send,
        T::Key: Send,
    {
        let mut patience = ABSENT_AFTER;
        let mut missing_since: Option<Instant> = None;
        loop {
            match find(&self.client, kind).await {
                Ok(Some(resource)) => {
                    missing_since = None;
                    patience = GONE_AFTER;
                    self.view.watch_is_served(self.watch, &resource);
                    let api: Api<K> = Api::all_with(self.client.clone(), &resource);
                    self.follow(api, everything(), &read, &wrap).await;
                }
                Ok(None) => {
                    let since = *missing_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= patience {
                        self.view.watch_is_absent(self.watch);
                        self.send(wrap(Seen::All(Vec::new()))).await;
                    }
                }
                Err(error) => self.failed(&error).await,
            }
            if self.to.is_closed() {
                return;
            }
            let is_doubtful = missing_since.is_some_and(|since| since.elapsed() < patience);
            sleep(if is_doubtful || missing_since.is_none() {
                ABSENT_AFTER / 2
            } else {
                self.view.settings().discover_every
            })
            .await;
        }
    }

    /// Follows a kind until the server does not know it any more.
    async fn follow<K, T>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        read: &(impl Fn(K) -> T + Send),
        wrap: &(impl Fn(Seen<T>) -> Observation + Send),
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Observed + Send,
        T::Key: Send,
    {
        let mut events = pin!(watch(api, config).default_backoff());
        let mut listed = Vec::new();
        loop {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                // A watch never ends by itself.
                Ok(None) => return,
                Err(error) => {
                    if is_gone(&error) {
                        return;
                    }
                    self.view.watch_failed(self.watch, error.to_string());
                    continue;
                }
            };
            let seen = match event {
                Event::Init => {
                    listed.clear();
                    continue;
                }
                Event::InitApply(object) => {
                    listed.push(read(object));
                    continue;
                }
                Event::InitDone => Seen::All(std::mem::take(&mut listed)),
                Event::Apply(object) => Seen::Is(read(object)),
                Event::Delete(object) => Seen::Gone(read(object).key()),
            };
            self.send(wrap(seen)).await;
        }
    }

    async fn send(&self, observation: Observation) {
        // The receiver is gone when nobody wants to know any more; then this task is about to end, too.
        if self.to.send(observation).await.is_err() {
            self.view
                .watch_failed(self.watch, "it is being stopped".to_owned());
        }
    }

    async fn failed(&self, error: &kube::Error) {
        self.view.watch_failed(self.watch, error.to_string());
        sleep(ABSENT_AFTER).await;
    }
}

/// Whether the kind itself is not there.
fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_not_found(error),
        watcher::Error::WatchError(status) => status.code == 404,
        watcher::Error::NoResourceVersion => false,
    }
}
