//! Routes of the Gateway API (TCPRoute, HTTPRoute, GRPCRoute) and ReferenceGrants. The three kinds of route have the same
//! shape as far as it matters here; what is only asked for its presence is kept as it is.

use mesh_core::workload::Name;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Observed, created, name_of};
use kube::core::NotUsed;
use kube::core::object::Object;

/// A route as the API server gives it.
pub(crate) type RawRoute = Object<Option<Value>, Value>;
/// A grant as the API server gives it.
pub(crate) type RawGrant = Object<Option<GrantSpec>, NotUsed>;

/// The group of the Gateway API.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// Kinds of route.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum RouteKind {
    // In the order in which they are asked where several are attached to one service (GEP-1426).
    Grpc,
    Http,
    Tcp,
}

impl RouteKind {
    pub(crate) const ALL: [Self; 3] = [Self::Grpc, Self::Http, Self::Tcp];

    /// As in `kind:`.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    /// As in a path of the API.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Grpc => "grpcroutes",
            Self::Http => "httproutes",
            Self::Tcp => "tcproutes",
        }
    }

    /// As kubectl takes it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Grpc => "grpcroute",
            Self::Http => "httproute",
            Self::Tcp => "tcproute",
        }
    }
}

/// What tells one route from another.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct RouteKey {
    pub(crate) kind: RouteKind,
    pub(crate) name: Name,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Route {
    pub(crate) key: RouteKey,
    pub(crate) created: i64,
    pub(crate) generation: i64,
    pub(crate) resource_version: String,
    /// What it says; its parents only, when the rest is not understood.
    pub(crate) spec: RouteSpec,
    /// Why not all of it is understood.
    pub(crate) unreadable: Option<String>,
    /// `status.parents` as it is.
    pub(crate) parents_status: Vec<Value>,
}

impl Observed for Route {
    type Key = RouteKey;

    fn key(&self) -> RouteKey {
        self.key.clone()
    }
}

impl Route {
    pub(crate) fn read(kind: RouteKind, raw: RawRoute) -> Self {
        let (spec, unreadable) = read_spec(raw.spec.unwrap_or_default());
        let mut status = raw.status.unwrap_or_default();
        let parents = status.get_mut("parents").map(Value::take);
        Self {
            key: RouteKey {
                kind,
                name: name_of(&raw.metadata),
            },
            created: created(&raw.metadata),
            generation: raw.metadata.generation.unwrap_or_default(),
            resource_version: raw.metadata.resource_version.unwrap_or_default(),
            spec,
            unreadable,
            parents_status: match parents {
                Some(Value::Array(parents)) => parents,
                _ => Vec::new(),
            },
        }
    }

    /// Whether both ask for the same.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        self.spec == other.spec
            && self.unreadable == other.unreadable
            && self.created == other.created
            && self.generation == other.generation
    }

    pub(crate) fn parents(&self) -> &[ParentRef] {
        &self.spec.parent_refs
    }

    pub(crate) fn rules(&self) -> &[RouteRule] {
        &self.spec.rules
    }

    /// The services whose clients it is about.
    pub(crate) fn parent_services(&self) -> impl Iterator<Item = Name> + '_ {
        self.parents()
            .iter()
            .filter_map(|parent| parent.service(&self.key.name.namespace))
    }

    /// The services that it leads to.
    pub(crate) fn backend_services(&self) -> impl Iterator<Item = Name> + '_ {
        self.rules()
            .iter()
            .flat_map(|rule| &rule.backend_refs)
            .filter_map(|backend| backend.service(&self.key.name.namespace))
    }
}

fn read_spec(spec: Value) -> (RouteSpec, Option<String>) {
    let parents = spec.get("parentRefs").cloned();
    match serde_json::from_value(spec) {
        Ok(spec) => (spec, None),
        Err(error) => {
            let parent_refs = parents.map(serde_json::from_value).and_then(Result::ok);
            let spec = RouteSpec {
                parent_refs: parent_refs.unwrap_or_default(),
                rules: Vec::new(),
            };
            (spec, Some(error.to_string()))
        }
    }
}

/// What a route says.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RouteSpec {
    pub(crate) parent_refs: Vec<ParentRef>,
    pub(crate) rules: Vec<RouteRule>,
}

/// What a route is attached to. In a status it is written as it was read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ParentRef {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) section_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<i32>,
}

impl ParentRef {
    /// The service that it refers to, from a route of `namespace`; `None` for gateways and the like.
    pub(crate) fn service(&self, namespace: &str) -> Option<Name> {
        let group = self.group.as_deref().unwrap_or(GATEWAY_GROUP);
        let kind = self.kind.as_deref().unwrap_or("Gateway");
        if !matches!(group, "" | "core") || kind != "Service" {
            return None;
        }
        Some(referred(self.namespace.as_deref(), &self.name, namespace))
    }
}

/// One rule of a route.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RouteRule {
    pub(crate) name: Option<String>,
    pub(crate) matches: Option<Vec<Value>>,
    pub(crate) filters: Option<Vec<Value>>,
    pub(crate) backend_refs: Vec<BackendRef>,
    pub(crate) timeouts: Option<Value>,
    pub(crate) retry: Option<Value>,
    pub(crate) session_persistence: Option<Value>,
}

/// Where a rule leads.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BackendRef {
    pub(crate) group: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) port: Option<i32>,
    pub(crate) weight: Option<i64>,
    pub(crate) filters: Option<Vec<Value>>,
}

impl BackendRef {
    /// The service that it refers to, from a route of `namespace`; `None` for other kinds.
    pub(crate) fn service(&self, namespace: &str) -> Option<Name> {
        let group = self.group.as_deref().unwrap_or_default();
        let kind = self.kind.as_deref().unwrap_or("Service");
        if !matches!(group, "" | "core") || kind != "Service" {
            return None;
        }
        Some(referred(self.namespace.as_deref(), &self.name, namespace))
    }
}

fn referred(given: Option<&str>, name: &str, own: &str) -> Name {
    let namespace = given.filter(|namespace| !namespace.is_empty());
    Name::new(namespace.unwrap_or(own), name)
}

/// A ReferenceGrant: objects of other namespaces may refer to some of this one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grant {
    pub(crate) name: Name,
    from: Vec<GrantFrom>,
    to: Vec<GrantTo>,
}

impl Observed for Grant {
    type Key = Name;

    fn key(&self) -> Name {
        self.name.clone()
    }
}

/// What of a grant's specification is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrantSpec {
    from: Vec<GrantFrom>,
    to: Vec<GrantTo>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct GrantFrom {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct GrantTo {
    group: String,
    kind: String,
    name: Option<String>,
}

impl From<RawGrant> for Grant {
    fn from(raw: RawGrant) -> Self {
        let GrantSpec { from, to } = raw.spec.unwrap_or_default();
        Self {
            name: name_of(&raw.metadata),
            from,
            to,
        }
    }
}

impl Grant {
    /// Whether a route may lead to a service of the grant's namespace.
    pub(crate) fn allows(&self, route: &RouteKey, service: &Name) -> bool {
        let from = self.from.iter().any(|from| {
            from.group == GATEWAY_GROUP
                && from.kind == route.kind.kind()
                && from.namespace == route.name.namespace
        });
        let to = self.to.iter().any(|to| {
            to.group.is_empty()
                && to.kind == "Service"
                && to.name.as_ref().is_none_or(|name| *name == service.name)
        });
        self.name.namespace == service.namespace && from && to
    }
}
