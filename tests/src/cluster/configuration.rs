//! The configuration file that the stories write, built up object by object. JSON is YAML, so it is written as JSON.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::place::{Place, Selector};

/// The trust domain of every cluster.
pub const TRUST_DOMAIN: &str = "test.warren";

/// The namespace of every workload, unless a story says otherwise.
pub const NAMESPACE: &str = "shop";

/// A configuration in the making.
#[derive(Clone, Debug)]
pub struct Configuration {
    root: Map<String, Value>,
}

impl Configuration {
    pub(super) fn new(authority: &Path) -> Self {
        let mut configuration = Self { root: Map::new() };
        configuration
            .set("apiVersion", json!("warren.dev/v1alpha1"))
            .set("node", json!({"drain": "5s"}))
            .set("trustDomain", json!(TRUST_DOMAIN))
            .set(
                "identity",
                json!({"directory": authority, "certificateLifetime": "24h"}),
            )
            .set("mtls", json!({"mode": "strict"}));
        configuration
    }

    /// Sets a top-level key.
    pub fn set(&mut self, key: &str, value: Value) -> &mut Self {
        self.root.insert(key.to_owned(), value);
        self
    }

    /// Enrols a pod or host service, with its name as service account and as label `app`.
    pub fn enrol(&mut self, place: &Place) -> &mut Self {
        self.enrol_with(place, json!({}))
    }

    /// The same, with further keys or other values for some.
    pub fn enrol_with(&mut self, place: &Place, more: Value) -> &mut Self {
        let Some(selected) = &place.selected else {
            return self;
        };
        let mut workload = json!({
            "name": place.name(),
            "namespace": NAMESPACE,
            "node": selected.node,
            "addresses": [place.v4, place.v6],
            "labels": {"app": place.name()},
        });
        match &selected.by {
            Selector::Namespace => {
                workload["select"] = json!({"networkNamespace": place.namespace().path()});
                workload["udp"] = json!("allow");
            }
            Selector::Cgroup { ports } => {
                workload["select"] = json!({"cgroup": place.cgroup().name().unwrap_or_default()});
                workload["ports"] = json!(ports);
            }
        }
        merge(&mut workload, more);
        self.put("workloads", workload)
    }

    /// Takes a workload out again.
    pub fn remove_workload(&mut self, name: &str) -> &mut Self {
        self.remove("workloads", name)
    }

    /// Adds a service, or replaces it: addresses, one port, endpoints by workload. Each endpoint is a subset of its own.
    pub fn service(
        &mut self,
        name: &str,
        addresses: [IpAddr; 2],
        port: (u16, u16),
        endpoints: &[&Place],
    ) -> &mut Self {
        let subsets: Map<String, Value> = endpoints
            .iter()
            .map(|place| (place.name().to_owned(), json!({"app": place.name()})))
            .collect();
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|place| json!({"workload": place.name()}))
            .collect();
        self.put(
            "services",
            json!({
                "name": name,
                "namespace": NAMESPACE,
                "addresses": addresses,
                "ports": [{"port": port.0, "targetPort": port.1}],
                "endpoints": endpoints,
                "subsets": subsets,
            }),
        )
    }

    /// Splits a service by weight among its subsets.
    pub fn split(&mut self, service: &str, port: u16, weights: &[(&str, u32)]) -> &mut Self {
        let backends: Vec<Value> = weights
            .iter()
            .map(|(subset, weight)| json!({"subset": subset, "weight": weight}))
            .collect();
        self.put(
            "routes",
            json!({
                "name": format!("{service}-split"),
                "namespace": NAMESPACE,
                "service": service,
                "rules": [{"name": "split", "port": port, "backends": backends}],
            }),
        )
    }

    /// Adds a policy with a target and rules, or replaces it.
    pub fn policy(&mut self, name: &str, target: Value, rules: Value) -> &mut Self {
        self.put(
            "policies",
            json!({"name": name, "namespace": NAMESPACE, "target": target, "rules": rules}),
        )
    }

    /// Adds an object to a list, replacing one of the same name.
    pub fn put(&mut self, list: &str, object: Value) -> &mut Self {
        if let Some(name) = object["name"].as_str().map(str::to_owned) {
            self.remove(list, &name);
        }
        if let Value::Array(objects) = self.root.entry(list).or_insert_with(|| json!([])) {
            objects.push(object);
        }
        self
    }

    /// Takes an object out of a list.
    pub fn remove(&mut self, list: &str, name: &str) -> &mut Self {
        if let Some(Value::Array(objects)) = self.root.get_mut(list) {
            objects.retain(|object| object["name"] != name);
        }
        self
    }

    /// As it goes into the file.
    pub fn text(&self) -> String {
        format!("{:#}\n", Value::Object(self.root.clone()))
    }
}

/// The identity of a workload of a story.
pub fn identity_of(place: &Place) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{}", place.name())
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}
