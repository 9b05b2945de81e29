//! Questions about what was observed last. Cheap: a short lock, no request.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use kube::discovery::ApiResource;
use mesh_control::objects::WorkloadSpec;
use mesh_core::identity::SpiffeId;
use mesh_core::workload::Name;
use tokio::sync::watch;

use crate::names::MESH_LABEL;
use crate::observe::{MeshLabel, Observation, Observed, Pod, RouteKind, Seen};
use crate::source::{Settings, Update};
use crate::translate::{
    Membership, ObjectKey, Said, State, Translator, identity, member, workload,
};

/// What the watchers see. Clones share it.
#[derive(Clone, Debug)]
pub struct View {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Arc<Settings>,
    translator: RwLock<Translator>,
    changed: watch::Sender<u64>,
    watches: Mutex<BTreeMap<Watch, WatchState>>,
}

/// Kinds that are watched.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Watch {
    Namespaces,
    Pods,
    Services,
    Endpoints,
    Nodes,
    Routes(RouteKind),
    Grants,
    AuthorizationPolicies,
    MeshPolicies,
}

/// How a watch is.
#[derive(Debug, Default)]
struct WatchState {
    /// It has listed everything once, or the server does not have it.
    known: bool,
    /// The server does not have it.
    absent: bool,
    /// How the server serves it, for kinds of which there are several versions.
    resource: Option<ApiResource>,
    /// The last failure.
    failure: Option<(Instant, String)>,
}

/// A failure that did not come again for so long is over.
const FAILURE_LASTS: Duration = Duration::from_secs(90);

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum PodAnswer {
    /// It is of the mesh.
    Meshed(Box<WorkloadSpec>),
    /// It is not, and why, as a sentence: `neither the pod nor namespace shop has the label warren.dev/mesh=enabled`.
    NotMeshed(String),
    /// Not seen yet with this UID on this node, or gone: ask again ([`View::changed`]).
    Unknown,
}

/// A pod that asks for the mesh, by its own label or its namespace's, and is not of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outside {
    /// The pod.
    pub pod: Name,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// Why, as a sentence.
    pub why: String,
}

/// Something a person should see to.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Problem {
    /// What it is about: `watch of pods`, `service web.shop`.
    pub about: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl View {
    /// A view of nothing yet.
    pub fn new(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let all = Watch::ALL.map(|watch| (watch, WatchState::default()));
        Self {
            inner: Arc::new(Inner {
                translator: RwLock::new(Translator::new(Arc::clone(&settings))),
                settings,
                changed: watch::Sender::new(0),
                watches: Mutex::new(all.into()),
            }),
        }
    }

    /// What the controller was started with.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Whether everything was listed at least once, so that answers can be relied on. For the readiness probe.
    pub fn is_complete(&self) -> bool {
        self.watches().values().all(|watch| watch.known)
    }

    /// Changes whenever something was observed.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// The identities of the meshed pods that run on a node: what its agent may have certificates for.
    pub fn identities_of(&self, node: &str) -> BTreeSet<SpiffeId> {
        let translator = self.read();
        let state = translator.state();
        state
            .pods_of_node(node)
            .filter(|pod| member(state, pod) == Membership::Meshed)
            .filter_map(|pod| identity(state, pod).ok())
            .collect()
    }

    /// The node of a pod, if it has one and is the very pod of this UID.
    pub fn node_of_pod(&self, namespace: &str, name: &str, uid: &str) -> Option<String> {
        let translator = self.read();
        let pod = translator.state().pods.get(&Name::new(namespace, name))?;
        pod.node.clone().filter(|_| pod.uid == uid)
    }

    /// What the agent of `node` is to do with a pod.
    pub fn find_pod(&self, node: &str, namespace: &str, name: &str, uid: &str) -> PodAnswer {
        if !self.is_complete() {
            return PodAnswer::Unknown;
        }
        let translator = self.read();
        let state = translator.state();
        let Some(pod) = state.pods.get(&Name::new(namespace, name)) else {
            return PodAnswer::Unknown;
        };
        let is_its_own = pod.uid == uid && pod.node.as_deref().is_none_or(|own| own == node);
        if !is_its_own || state.namespaces.get(&namespace.to_owned()).is_none() {
            return PodAnswer::Unknown;
        }
        match member(state, pod) {
            Membership::Not(why) => PodAnswer::NotMeshed(why.to_string()),
            // Seen before it was seen to be on a node.
            Membership::Meshed => workload(state, pod)
                .map_or(PodAnswer::Unknown, |spec| PodAnswer::Meshed(Box::new(spec))),
        }
    }

    /// Pods that ask for the mesh, by their own label or their namespace's, and are not of it: those that use the node's
    /// network, first of all.
    pub fn outside(&self) -> Vec<Outside> {
        let translator = self.read();
        let state = translator.state();
        let outside = state.pods.iter().filter(|pod| asks(state, pod));
        let mut outside: Vec<Outside> = outside
            .filter_map(|pod| match member(state, pod) {
                Membership::Meshed => None,
                Membership::Not(why) => Some(Outside {
                    pod: pod.name.clone(),
                    node: pod.node.clone(),
                    why: why.to_string(),
                }),
            })
            .collect();
        outside.sort_by(|left, right| left.pod.cmp(&right.pod));
        outside
    }

    /// Names of the nodes.
    pub fn nodes(&self) -> BTreeSet<String> {
        self.read()
            .state()
            .nodes
            .iter()
            .map(|node| node.name.clone())
            .collect()
    }

    /// Whether a node has the start-up taint.
    pub fn has_taint(&self, node: &str) -> bool {
        let translator = self.read();
        translator
            .state()
            .nodes
            .get(&node.to_owned())
            .is_some_and(|node| node.tainted)
    }

    /// What a person should see to: watches that fail, labels that say nothing, services that Warren serves differently
    /// than Kubernetes does.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.problems_of_watches();
        let translator = self.read();
        let state = translator.state();
        let mut add = |about: String, message: String| problems.push(Problem { about, message });
        for namespace in state.namespaces.iter() {
            let about = || format!("namespace {}", namespace.name);
            if let MeshLabel::Other(value) = &namespace.mesh {
                add(about(), unclear_label(value));
            }
            if namespace.mesh == MeshLabel::Enabled
                && namespace.name == state.settings.system_namespace
            {
                let message = format!(
                    "it is Warren's own, which is never meshed; take the label {MESH_LABEL} from it"
                );
                add(about(), message);
            }
        }
        for pod in state.pods.iter() {
            if let MeshLabel::Other(value) = &pod.mesh {
                add(format!("pod {}", pod.name), unclear_label(value));
            }
        }
        for service in state.services.iter() {
            let told = translator.is_told(&service.name);
            for difference in service.differences.iter().filter(|_| told) {
                add(
                    format!("service {}", service.name),
                    (*difference).to_owned(),
                );
            }
            if told
                && state
                    .groups_of_service(&service.name)
                    .any(|group| group.truncated)
            {
                let message = "the API server lists only 1000 of its endpoints; the others get no connections through the mesh until it serves EndpointSlices";
                add(format!("service {}", service.name), message.to_owned());
            }
        }
        problems.sort();
        problems
    }

    fn problems_of_watches(&self) -> Vec<Problem> {
        let watches = self.watches();
        let mut problems = Vec::new();
        for (watch, state) in watches.iter() {
            let about = format!("watch of {watch}");
            let failure = state.failure.as_ref();
            let recent = failure.filter(|(since, _)| since.elapsed() < FAILURE_LASTS);
            let message = match (recent, state.known) {
                (Some((_, failure)), true) => failure.clone(),
                (Some((_, failure)), false) => {
                    format!("{failure}; nodes are told nothing new until it succeeds")
                }
                (None, false) => "it has not listed everything yet".to_owned(),
                (None, true) if state.absent && watch.is_own() => format!(
                    "the API server does not know {watch}: install Warren's custom resource definitions (warren install --crds)"
                ),
                (None, true) => continue,
            };
            problems.push(Problem { about, message });
        }
        problems
    }

    pub(crate) fn observe(&self, observations: impl Iterator<Item = Observation>) {
        let mut changed = false;
        {
            let mut translator = self.write();
            for observation in observations {
                let (watch, is_list) = observation.watch();
                self.watch_succeeded(watch, is_list);
                changed |= translator.observe(observation);
            }
        }
        if changed {
            self.note_change();
        }
    }

    /// Whether [`Self::settle`] would find something.
    pub(crate) fn has_work(&self) -> bool {
        !self.read().is_settled()
    }

    /// Works out what changed; `None` as long as not everything is known, or when nodes are not told anything.
    pub(crate) fn settle(&self) -> Option<Update> {
        if !self.is_complete() {
            return None;
        }
        let (sequence, change) = self.write().settle();
        self.note_change();
        (!change.is_empty()).then_some(Update { sequence, change })
    }

    fn note_change(&self) {
        self.inner.changed.send_modify(|count| *count += 1);
    }

    fn watch_succeeded(&self, watch: Watch, is_list: bool) {
        let mut watches = self.watches();
        let state = watches.entry(watch).or_default();
        state.known |= is_list;
        state.failure = None;
    }

    /// Notes that the server does not have a kind.
    pub(crate) fn watch_is_absent(&self, watch: Watch) {
        let mut watches = self.watches();
        let state = watches.entry(watch).or_default();
        state.absent = true;
        state.resource = None;
    }

    /// Notes how the server serves a kind.
    pub(crate) fn watch_is_served(&self, watch: Watch, resource: &ApiResource) {
        let mut watches = self.watches();
        let state = watches.entry(watch).or_default();
        state.absent = false;
        state.resource = Some(resource.clone());
    }

    /// How the server serves the kind of an object.
    pub(crate) fn resource_of(&self, key: &ObjectKey) -> Option<ApiResource> {
        let watch = match key {
            ObjectKey::AuthorizationPolicy(_) => Watch::AuthorizationPolicies,
            ObjectKey::MeshPolicy(_) => Watch::MeshPolicies,
            ObjectKey::Route(key) => Watch::Routes(key.kind),
        };
        self.watches().get(&watch)?.resource.clone()
    }

    pub(crate) fn watch_failed(&self, watch: Watch, message: String) {
        tracing::warn!(%watch, message, "a watch fails");
        self.watches().entry(watch).or_default().failure = Some((Instant::now(), message));
    }

    /// Looks at what is to be said; `None` while that is not worked out.
    pub(crate) fn with_said<T>(
        &self,
        look: impl FnOnce(&State, &BTreeMap<ObjectKey, Said>) -> T,
    ) -> Option<T> {
        let translator = self.read();
        let is_known = translator.is_settled() && self.is_complete();
        is_known.then(|| look(translator.state(), translator.said()))
    }

    /// Objects about which something else is to be said since the last call.
    pub(crate) fn take_unsaid(&self) -> BTreeSet<ObjectKey> {
        if !self.read().has_unsaid() {
            return BTreeSet::new();
        }
        self.write().take_unsaid()
    }

    fn read(&self) -> RwLockReadGuard<'_, Translator> {
        self.inner
            .translator
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Translator> {
        self.inner
            .translator
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn watches(&self) -> MutexGuard<'_, BTreeMap<Watch, WatchState>> {
        self.inner
            .watches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a pod's label, or its namespace's, asks for the mesh.
fn asks(state: &State, pod: &Pod) -> bool {
    let namespace = state.namespaces.get(&pod.name.namespace);
    match pod.mesh {
        MeshLabel::Enabled => true,
        MeshLabel::Disabled => false,
        MeshLabel::Absent | MeshLabel::Other(_) => {
            namespace.is_some_and(|namespace| namespace.mesh == MeshLabel::Enabled)
        }
    }
}

fn unclear_label(value: &str) -> String {
    format!("the label {MESH_LABEL}={value} says nothing; its values are enabled and disabled")
}

impl Observation {
    /// The watch that it comes from, and whether it tells of everything there is.
    fn watch(&self) -> (Watch, bool) {
        fn is_list<T: Observed>(seen: &Seen<T>) -> bool {
            matches!(seen, Seen::All(_))
        }
        match self {
            Self::Namespaces(seen) => (Watch::Namespaces, is_list(seen)),
            Self::Pods(seen) => (Watch::Pods, is_list(seen)),
            Self::Services(seen) => (Watch::Services, is_list(seen)),
            Self::Endpoints(seen) => (Watch::Endpoints, is_list(seen)),
            Self::Nodes(seen) => (Watch::Nodes, is_list(seen)),
            Self::Routes(kind, seen) => (Watch::Routes(*kind), is_list(seen)),
            Self::Grants(seen) => (Watch::Grants, is_list(seen)),
            Self::AuthorizationPolicies(seen) => (Watch::AuthorizationPolicies, is_list(seen)),
            Self::MeshPolicies(seen) => (Watch::MeshPolicies, is_list(seen)),
        }
    }
}

impl Watch {
    const ALL: [Self; 11] = [
        Self::Namespaces,
        Self::Pods,
        Self::Services,
        Self::Endpoints,
        Self::Nodes,
        Self::Routes(RouteKind::Grpc),
        Self::Routes(RouteKind::Http),
        Self::Routes(RouteKind::Tcp),
        Self::Grants,
        Self::AuthorizationPolicies,
        Self::MeshPolicies,
    ];

    /// Whether it is of a kind of ours, which is installed with us.
    fn is_own(self) -> bool {
        matches!(self, Self::AuthorizationPolicies | Self::MeshPolicies)
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "namespaces",
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Nodes => "nodes",
            Self::Routes(kind) => kind.plural(),
            Self::Grants => "referencegrants",
            Self::AuthorizationPolicies => "authorizationpolicies.warren.dev",
            Self::MeshPolicies => "meshpolicies.warren.dev",
        })
    }
}
