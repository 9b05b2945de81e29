//! Everything that was observed, with the indexes that tell what depends on what.

mod index;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::workload::Name;

use self::index::{FewIndex, Index, SharedLabels};
use super::Unit;
use super::verdict::ObjectKey;
use super::{mesh_policies, policies};
use crate::observe::{
    Changed, Grant, Group, MeshLabel, Namespace, Node, Observation, Observed, Phase, Pod, Policy,
    Route, RouteKey, Service, Table,
};
use crate::source::Settings;

/// Everything that was observed.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Arc<Settings>,
    pub(crate) namespaces: Table<Namespace>,
    pub(crate) pods: Table<Pod>,
    pub(crate) services: Table<Service>,
    pub(crate) groups: Table<Group>,
    pub(crate) nodes: Table<Node>,
    pub(crate) routes: Table<Route>,
    pub(crate) grants: Table<Grant>,
    pub(crate) authorization_policies: Table<Policy>,
    pub(crate) mesh_policies: Table<Policy>,
    pods_of_namespace: Index<String, Name>,
    opted_in: Index<String, Name>,
    pods_of_node: Index<String, Name>,
    /// Pods with a network of their own that have not ended.
    pods_at: HashMap<IpAddr, Vec<Arc<Pod>>>,
    groups_of_service: HashMap<Name, BTreeMap<Name, Arc<Group>>>,
    groups_with_pod: FewIndex<Name, Name>,
    services_of_namespace: Index<String, Name>,
    routes_of_parent: Index<Name, RouteKey>,
    routes_to_backend: Index<Name, RouteKey>,
    policies_of_service: Index<Name, Name>,
    mesh_policies_of_service: Index<Name, Name>,
    mesh_policies_of_namespace: Index<String, Name>,
    labels: SharedLabels,
}

/// What a change touches.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// To be worked out again.
    pub(crate) units: BTreeSet<Unit>,
    /// Whose status has to be looked at.
    pub(crate) statuses: BTreeSet<ObjectKey>,
    /// About which there is nothing more to say, until it is worked out again.
    pub(crate) forgotten: Vec<ObjectKey>,
}

impl State {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            namespaces: Table::default(),
            pods: Table::default(),
            services: Table::default(),
            groups: Table::default(),
            nodes: Table::default(),
            routes: Table::default(),
            grants: Table::default(),
            authorization_policies: Table::default(),
            mesh_policies: Table::default(),
            pods_of_namespace: Index::default(),
            opted_in: Index::default(),
            pods_of_node: Index::default(),
            pods_at: HashMap::new(),
            groups_of_service: HashMap::new(),
            groups_with_pod: FewIndex::default(),
            labels: SharedLabels::default(),
            services_of_namespace: Index::default(),
            routes_of_parent: Index::default(),
            routes_to_backend: Index::default(),
            policies_of_service: Index::default(),
            mesh_policies_of_service: Index::default(),
            mesh_policies_of_namespace: Index::default(),
        }
    }

    /// Pods with a network of their own that have this address.
    pub(crate) fn pods_at(&self, ip: &IpAddr) -> impl Iterator<Item = &Pod> {
        self.pods_at
            .get(ip)
            .into_iter()
            .flatten()
            .map(AsRef::as_ref)
    }

    /// The pods of a node.
    pub(crate) fn pods_of_node(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods_of_node
            .get(node)
            .filter_map(|name| self.pods.get(name))
    }

    /// Whether some pod of a namespace has the label that opts in.
    pub(crate) fn opted_in(&self, namespace: &str) -> bool {
        self.opted_in.has(namespace)
    }

    /// The endpoints of a service.
    pub(crate) fn groups_of_service(&self, service: &Name) -> impl Iterator<Item = &Arc<Group>> {
        self.groups_of_service
            .get(service)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// Routes that name a service as a parent, of whichever namespace.
    pub(crate) fn routes_of_parent(&self, service: &Name) -> impl Iterator<Item = &Arc<Route>> {
        self.routes_of_parent
            .get(service)
            .filter_map(|key| self.routes.get(key))
    }

    /// Whether a route that may speak for a service has it as a parent, or one that may lead to it as a backend.
    pub(crate) fn is_routed(&self, service: &Name) -> bool {
        self.is_parent(service) || self.is_backend(service)
    }

    /// Whether a route that may lead to a service does.
    pub(crate) fn is_backend(&self, service: &Name) -> bool {
        self.routes_to_backend.get(service).any(|route| {
            route.name.namespace == service.namespace || self.is_granted(route, service)
        })
    }

    /// Whether a route may lead to a service of another namespace.
    pub(crate) fn is_granted(&self, route: &RouteKey, service: &Name) -> bool {
        self.grants.iter().any(|grant| grant.allows(route, service))
    }

    fn is_parent(&self, service: &Name) -> bool {
        let mut routes = self.routes_of_parent.get(service);
        routes.any(|route| route.name.namespace == service.namespace)
    }

    /// The mesh policies of a namespace.
    pub(crate) fn mesh_policies_of(&self, namespace: &str) -> impl Iterator<Item = &Arc<Policy>> {
        self.mesh_policies_of_namespace
            .get(namespace)
            .filter_map(|name| self.mesh_policies.get(name))
    }

    /// Takes in what was seen, and notes what it touches. Whether anything differs.
    pub(crate) fn apply(&mut self, observation: Observation, touched: &mut Touched) -> bool {
        match observation {
            Observation::Namespaces(seen) => {
                let changes = self.namespaces.apply(seen, |_| true);
                self.each(changes, touched, Self::namespace_changed)
            }
            Observation::Pods(seen) => {
                let seen = seen.map(|mut pod: Pod| {
                    pod.labels = self.labels.shared(&pod.labels);
                    pod
                });
                let changes = self.pods.apply(seen, |_| true);
                self.each(changes, touched, Self::pod_changed)
            }
            Observation::Services(seen) => {
                let changes = self.services.apply(seen, |_| true);
                self.each(changes, touched, Self::service_changed)
            }
            Observation::Endpoints(seen) => {
                let changes = self.groups.apply(seen, |_| true);
                self.each(changes, touched, Self::group_changed)
            }
            Observation::Nodes(seen) => {
                let changes = self.nodes.apply(seen, |_| true);
                self.each(changes, touched, |_, _, _| {})
            }
            Observation::Routes(kind, seen) => {
                let changes = self.routes.apply(seen, |key| key.kind == kind);
                self.each(changes, touched, Self::route_changed)
            }
            Observation::Grants(seen) => {
                let changes = self.grants.apply(seen, |_| true);
                self.each(changes, touched, Self::grant_changed)
            }
            Observation::AuthorizationPolicies(seen) => {
                let changes = self.authorization_policies.apply(seen, |_| true);
                self.each(changes, touched, Self::authorization_policy_changed)
            }
            Observation::MeshPolicies(seen) => {
                let changes = self.mesh_policies.apply(seen, |_| true);
                self.each(changes, touched, Self::mesh_policy_changed)
            }
        }
    }

    fn each<T: Observed>(
        &mut self,
        changes: Vec<Changed<T>>,
        touched: &mut Touched,
        note: impl Fn(&mut Self, &Changed<T>, &mut Touched),
    ) -> bool {
        for change in &changes {
            note(self, change, touched);
        }
        !changes.is_empty()
    }

    fn namespace_changed(&mut self, change: &Changed<Namespace>, touched: &mut Touched) {
        let Some(name) = key_of(change) else { return };
        touched.units.insert(Unit::Namespace(name.clone()));
        for pod in self.pods_of_namespace.get(&name) {
            touched.units.insert(Unit::Workload(pod.clone()));
        }
        // Endpoints are only ever pods of the service's own namespace.
        for service in self.services_of_namespace.get(&name) {
            touched.units.insert(Unit::Service(service.clone()));
        }
    }

    fn pod_changed(&mut self, change: &Changed<Pod>, touched: &mut Touched) {
        if let Some(old) = &change.old {
            self.forget_pod(old, touched);
        }
        if let Some(new) = &change.new {
            self.learn_pod(new, touched);
        }
        let Some(name) = key_of(change) else { return };
        if !same_for_services(change) {
            for group in self.groups_with_pod.get(&name) {
                let group = self.groups.get(group);
                if let Some(service) = group.and_then(|group| group.service.clone()) {
                    touched.units.insert(Unit::Service(service));
                }
            }
        }
        touched.units.insert(Unit::Workload(name));
    }

    fn forget_pod(&mut self, pod: &Pod, touched: &mut Touched) {
        let namespace = &pod.name.namespace;
        self.pods_of_namespace.remove(namespace, &pod.name);
        if opts_in(pod) {
            self.opted_in.remove(namespace, &pod.name);
            touched.units.insert(Unit::Namespace(namespace.clone()));
        }
        if let Some(node) = &pod.node {
            self.pods_of_node.remove(node, &pod.name);
        }
        for ip in &pod.addresses {
            let Some(pods) = self.pods_at.get_mut(ip) else {
                continue;
            };
            pods.retain(|other| other.name != pod.name);
            touched
                .units
                .extend(pods.iter().map(|other| Unit::Workload(other.name.clone())));
            if pods.is_empty() {
                self.pods_at.remove(ip);
            }
        }
    }

    fn learn_pod(&mut self, pod: &Arc<Pod>, touched: &mut Touched) {
        let namespace = &pod.name.namespace;
        self.pods_of_namespace
            .insert(namespace.clone(), pod.name.clone());
        if opts_in(pod) {
            self.opted_in.insert(namespace.clone(), pod.name.clone());
            touched.units.insert(Unit::Namespace(namespace.clone()));
        }
        if let Some(node) = &pod.node {
            self.pods_of_node.insert(node.clone(), pod.name.clone());
        }
        if pod.host_network || pod.phase == Phase::Finished {
            return;
        }
        for ip in &pod.addresses {
            let pods = self.pods_at.entry(*ip).or_default();
            touched
                .units
                .extend(pods.iter().map(|other| Unit::Workload(other.name.clone())));
            pods.push(Arc::clone(pod));
        }
    }

    fn service_changed(&mut self, change: &Changed<Service>, touched: &mut Touched) {
        let Some(name) = key_of(change) else { return };
        match &change.new {
            Some(_) => self
                .services_of_namespace
                .insert(name.namespace.clone(), name.clone()),
            None => self.services_of_namespace.remove(&name.namespace, &name),
        }
        touched.units.insert(Unit::Service(name.clone()));
        self.touch_routes(&name, touched);
        let same_selector = match (&change.old, &change.new) {
            (Some(old), Some(new)) => old.selector == new.selector,
            _ => false,
        };
        if !same_selector {
            let policies = self.policies_of_service.get(&name).cloned();
            touched
                .units
                .extend(policies.map(Unit::AuthorizationPolicy));
            let policies = self.mesh_policies_of_service.get(&name).cloned();
            touched.units.extend(policies.map(Unit::MeshPolicy));
        }
    }

    /// Everything that routes which lead to or from a service decide.
    fn touch_routes(&self, service: &Name, touched: &mut Touched) {
        let routes = self
            .routes_of_parent
            .get(service)
            .chain(self.routes_to_backend.get(service));
        for route in routes.filter_map(|key| self.routes.get(key)) {
            touched
                .units
                .extend(route.parent_services().map(Unit::RoutesOf));
        }
    }

    fn group_changed(&mut self, change: &Changed<Group>, touched: &mut Touched) {
        if let Some(old) = &change.old {
            for pod in old.pods() {
                self.groups_with_pod.remove(&pod, &old.name);
            }
            if let Some(service) = &old.service {
                if let Some(groups) = self.groups_of_service.get_mut(service) {
                    groups.remove(&old.name);
                    if groups.is_empty() {
                        self.groups_of_service.remove(service);
                    }
                }
                touched.units.insert(Unit::Service(service.clone()));
            }
        }
        if let Some(new) = &change.new {
            for pod in new.pods() {
                self.groups_with_pod.insert(pod, new.name.clone());
            }
            if let Some(service) = &new.service {
                let groups = self.groups_of_service.entry(service.clone()).or_default();
                groups.insert(new.name.clone(), Arc::clone(new));
                touched.units.insert(Unit::Service(service.clone()));
            }
        }
    }

    fn route_changed(&mut self, change: &Changed<Route>, touched: &mut Touched) {
        let Some(key) = key_of(change) else { return };
        touched.statuses.insert(ObjectKey::Route(key.clone()));
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.asks_the_same(new)
        {
            return;
        }
        // Whatever is still to be said is found when its parents are worked out.
        touched.forgotten.push(ObjectKey::Route(key.clone()));
        for route in change.old.iter().chain(&change.new) {
            for parent in route.parent_services() {
                // With its first route, or without its last, a service may be told where it was not, or no longer.
                touched.units.insert(Unit::Service(parent.clone()));
                touched.units.insert(Unit::RoutesOf(parent));
            }
            touched
                .units
                .extend(route.backend_services().map(Unit::Service));
        }
        if let Some(old) = &change.old {
            for parent in old.parent_services() {
                self.routes_of_parent.remove(&parent, &key);
            }
            for backend in old.backend_services() {
                self.routes_to_backend.remove(&backend, &key);
            }
        }
        if let Some(new) = &change.new {
            for parent in new.parent_services() {
                self.routes_of_parent.insert(parent, key.clone());
            }
            for backend in new.backend_services() {
                self.routes_to_backend.insert(backend, key.clone());
            }
        }
    }

    fn grant_changed(&mut self, change: &Changed<Grant>, touched: &mut Touched) {
        let Some(name) = key_of(change) else { return };
        for route in self.routes.iter() {
            let own = &route.key.name.namespace;
            let backends = route.backend_services();
            let granted: Vec<Name> = backends
                .filter(|to| to.namespace == name.namespace)
                .collect();
            if *own != name.namespace && !granted.is_empty() {
                touched
                    .units
                    .extend(route.parent_services().map(Unit::RoutesOf));
                touched.units.extend(granted.into_iter().map(Unit::Service));
            }
        }
    }

    fn authorization_policy_changed(&mut self, change: &Changed<Policy>, touched: &mut Touched) {
        let Some(name) = key_of(change) else { return };
        let key = ObjectKey::AuthorizationPolicy(name.clone());
        touched.statuses.insert(key.clone());
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.asks_the_same(new)
        {
            return;
        }
        for service in change
            .old
            .iter()
            .flat_map(|old| policies::target_services(old))
        {
            self.policies_of_service.remove(&service, &name);
        }
        for service in change
            .new
            .iter()
            .flat_map(|new| policies::target_services(new))
        {
            self.policies_of_service.insert(service, name.clone());
        }
        touched.forgotten.push(key);
        touched.units.insert(Unit::AuthorizationPolicy(name));
    }

    fn mesh_policy_changed(&mut self, change: &Changed<Policy>, touched: &mut Touched) {
        let Some(name) = key_of(change) else { return };
        let key = ObjectKey::MeshPolicy(name.clone());
        touched.statuses.insert(key.clone());
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.asks_the_same(new)
        {
            return;
        }
        let namespace = name.namespace.clone();
        if let Some(old) = &change.old {
            for service in mesh_policies::target_services(old) {
                self.mesh_policies_of_service.remove(&service, &name);
            }
            self.mesh_policies_of_namespace.remove(&namespace, &name);
        }
        if let Some(new) = &change.new {
            for service in mesh_policies::target_services(new) {
                self.mesh_policies_of_service.insert(service, name.clone());
            }
            self.mesh_policies_of_namespace
                .insert(namespace.clone(), name.clone());
        }
        touched.forgotten.push(key);
        touched.units.insert(Unit::Namespace(namespace));
        touched.units.insert(Unit::MeshPolicy(name));
    }
}

fn key_of<T: Observed>(change: &Changed<T>) -> Option<T::Key> {
    change
        .new
        .as_ref()
        .or(change.old.as_ref())
        .map(|object| object.key())
}

fn opts_in(pod: &Pod) -> bool {
    pod.mesh == MeshLabel::Enabled && pod.phase == Phase::Live && !pod.host_network
}

/// Whether a pod's change is none to the services that list it: they ask only who it is and whether it is of the mesh.
fn same_for_services(change: &Changed<Pod>) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else {
        return false;
    };
    old.uid == new.uid
        && old.mesh == new.mesh
        && old.phase == new.phase
        && old.host_network == new.host_network
        && old.service_account == new.service_account
}
