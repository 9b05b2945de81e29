//! What a controller tells nodes, one fact at a time, and the objects that a node makes of them. A fact stands for itself:
//! it is replaced or removed as a whole, by its key. It knows nothing of how facts travel, nor of where they come from.
//!
//! Facts are read by releases before and after the one that wrote them: fields are only ever added, with a default, and
//! unknown ones are ignored.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use mesh_core::identity::TrustDomain;
use mesh_core::policy::MtlsMode;
use mesh_core::service::Route;
use mesh_core::workload::Name;
use serde::{Deserialize, Serialize};

use crate::objects::{MtlsSpec, Objects, PolicySpec, ServiceSpec, Settings, WorkloadSpec};

/// One thing that nodes are told.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fact {
    /// About the mesh as a whole.
    Mesh(MeshSpec),
    /// A namespace.
    Namespace(NamespaceSpec),
    /// A workload.
    Workload(WorkloadSpec),
    /// A service.
    Service(ServiceSpec),
    /// A route.
    Route(Route),
    /// A policy.
    Policy(PolicySpec),
    /// An exception from the default mode of mutual TLS.
    Mtls(MtlsSpec),
}

/// About the mesh as a whole. There is exactly one.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshSpec {
    /// Trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// How long connections may go on when a proxy stops.
    pub drain: Duration,
    /// Port of the tunnels.
    pub tunnel_port: u16,
    /// Lifetime of a workload's certificate.
    pub certificate_lifetime: Duration,
    /// Mutual TLS where no exception speaks.
    pub default_mtls: MtlsMode,
}

/// What nodes know of a namespace.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSpec {
    /// Its name.
    pub name: String,
    /// Its pods are of the mesh, unless their own label says otherwise.
    #[serde(default)]
    pub meshed: bool,
    /// Some pod of it is of the mesh by its own label.
    #[serde(default)]
    pub pods_opt_in: bool,
    /// The namespaces that its workloads dial; `None`: all. Its own is always among them.
    #[serde(default)]
    pub reach: Option<BTreeSet<String>>,
}

/// Kinds of fact, in the order in which a reader understands them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FactKind {
    /// [`Fact::Mesh`].
    Mesh,
    /// [`Fact::Namespace`].
    Namespace,
    /// [`Fact::Workload`].
    Workload,
    /// [`Fact::Service`].
    Service,
    /// [`Fact::Route`].
    Route,
    /// [`Fact::Policy`].
    Policy,
    /// [`Fact::Mtls`].
    Mtls,
}

/// What tells one fact from another.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FactKey {
    /// Its kind.
    pub kind: FactKind,
    /// The namespace that owns it; empty for the mesh, and for namespaces themselves.
    pub namespace: String,
    /// Its name, unique for its kind in the namespace; empty for the mesh.
    pub name: String,
}

/// A change of facts. All of it applies at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FactChange {
    /// Facts that are new or different.
    pub set: Vec<Fact>,
    /// Facts that are no more. A key that is also in `set` is set.
    pub removed: Vec<FactKey>,
}

impl Default for MeshSpec {
    fn default() -> Self {
        let Settings {
            node: _,
            drain,
            tunnel_port,
            trust_domain,
            authority_directory: _,
            certificate_lifetime,
        } = Settings::default();
        Self {
            trust_domain,
            drain,
            tunnel_port,
            certificate_lifetime,
            default_mtls: MtlsMode::default(),
        }
    }
}

impl Fact {
    /// Its key.
    pub fn key(&self) -> FactKey {
        match self {
            Self::Mesh(_) => FactKey::mesh(),
            Self::Namespace(spec) => FactKey::of_namespace(spec.name.clone()),
            Self::Workload(spec) => FactKey::named(FactKind::Workload, &spec.name),
            Self::Service(spec) => FactKey::named(FactKind::Service, &spec.name),
            Self::Route(spec) => FactKey::named(FactKind::Route, &spec.name),
            Self::Policy(spec) => FactKey::named(FactKind::Policy, &spec.name),
            Self::Mtls(spec) => FactKey::named(FactKind::Mtls, &spec.name),
        }
    }
}

impl FactKey {
    /// The key of [`Fact::Mesh`].
    pub fn mesh() -> Self {
        Self {
            kind: FactKind::Mesh,
            namespace: String::new(),
            name: String::new(),
        }
    }

    /// The key of a namespace.
    pub fn of_namespace(name: impl Into<String>) -> Self {
        Self {
            kind: FactKind::Namespace,
            namespace: String::new(),
            name: name.into(),
        }
    }

    /// The key of an object in a namespace.
    pub fn named(kind: FactKind, name: &Name) -> Self {
        let Name { namespace, name } = name.clone();
        Self {
            kind,
            namespace,
            name,
        }
    }
}

impl FactChange {
    /// Nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }
}

impl FactKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Mesh,
        Self::Namespace,
        Self::Workload,
        Self::Service,
        Self::Route,
        Self::Policy,
        Self::Mtls,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Namespace => "namespace",
            Self::Workload => "workload",
            Self::Service => "service",
            Self::Route => "route",
            Self::Policy => "policy",
            Self::Mtls => "mtls exception",
        }
    }
}

impl fmt::Display for FactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
        } = self;
        match (namespace.as_str(), name.as_str()) {
            ("", "") => write!(f, "{}", kind.word()),
            ("", name) => write!(f, "{} {name}", kind.word()),
            (namespace, name) => write!(f, "{} {name}.{namespace}", kind.word()),
        }
    }
}

impl Objects {
    /// The objects that facts speak of, each kind in the order in which its facts come. Without [`Fact::Mesh`] the
    /// settings are the defaults. Namespaces are not objects: what they decide was decided before (which pods are
    /// workloads, what is told to whom).
    pub fn from_facts<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> Self {
        let mut objects = Self::default();
        for fact in facts {
            match fact {
                Fact::Mesh(spec) => objects.set_mesh(spec.clone()),
                Fact::Namespace(_) => {}
                Fact::Workload(spec) => objects.workloads.push(spec.clone()),
                Fact::Service(spec) => objects.services.push(spec.clone()),
                Fact::Route(route) => objects.routes.push(route.clone()),
                Fact::Policy(spec) => objects.policies.push(spec.clone()),
                Fact::Mtls(spec) => objects.mtls.push(spec.clone()),
            }
        }
        objects
    }

    fn set_mesh(&mut self, spec: MeshSpec) {
        let MeshSpec {
            trust_domain,
            drain,
            tunnel_port,
            certificate_lifetime,
            default_mtls,
        } = spec;
        self.settings = Settings {
            drain,
            tunnel_port,
            trust_domain,
            certificate_lifetime,
            ..Settings::default()
        };
        self.default_mtls = default_mtls;
    }
}
