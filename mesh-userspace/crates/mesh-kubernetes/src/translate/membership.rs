//! Which pods are of the mesh, and why the others are not.

use std::fmt;

use crate::names::MESH_LABEL;
use crate::observe::{MeshLabel, Namespace, Phase, Pod};

/// Whether a pod is of the mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Membership {
    Meshed,
    Not(WhyNot),
}

/// Why a pod is not of the mesh.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum WhyNot {
    /// Neither it nor its namespace has the label.
    NoLabel { namespace: String },
    /// Its own label says no.
    OptedOut,
    /// Its namespace's label says no, or something that is not understood.
    NamespaceSays { namespace: String, value: String },
    /// It shares the node's network namespace.
    HostNetwork,
    /// It has ended.
    Finished,
    /// It is of Warren itself.
    SystemNamespace { namespace: String },
    /// It cannot have an identity.
    NoIdentity { why: String },
}

impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLabel { namespace } => write!(
                f,
                "neither the pod nor namespace {namespace} has the label {MESH_LABEL}=enabled"
            ),
            Self::OptedOut => write!(f, "the pod has the label {MESH_LABEL}=disabled"),
            Self::NamespaceSays { namespace, value } => {
                write!(f, "namespace {namespace} has the label {MESH_LABEL}={value}")
            }
            Self::HostNetwork => f.write_str(
                "the pod uses the node's network (hostNetwork: true), where it cannot be told from the node",
            ),
            Self::Finished => f.write_str("the pod has ended"),
            Self::SystemNamespace { namespace } => {
                write!(f, "namespace {namespace} is Warren's own, which is never meshed")
            }
            Self::NoIdentity { why } => write!(f, "the pod cannot have an identity: {why}"),
        }
    }
}

/// Whether the pods of a namespace are of the mesh unless their own label says otherwise.
pub(crate) fn is_meshed(namespace: &Namespace, system_namespace: &str) -> bool {
    namespace.mesh == MeshLabel::Enabled && namespace.name != system_namespace
}

/// Whether a pod is of the mesh. Its own label beats its namespace's; one that is neither `enabled` nor `disabled` says
/// nothing. A namespace that is not known yet says nothing either.
pub(crate) fn membership(
    pod: &Pod,
    namespace: Option<&Namespace>,
    system_namespace: &str,
) -> Membership {
    let name = &pod.name.namespace;
    let not = |why| Membership::Not(why);
    if name == system_namespace {
        let namespace = name.clone();
        return not(WhyNot::SystemNamespace { namespace });
    }
    if pod.phase == Phase::Finished {
        return not(WhyNot::Finished);
    }
    let asked = match &pod.mesh {
        MeshLabel::Disabled => Err(WhyNot::OptedOut),
        MeshLabel::Enabled => Ok(()),
        MeshLabel::Absent | MeshLabel::Other(_) => match namespace.map(|of| &of.mesh) {
            Some(MeshLabel::Enabled) => Ok(()),
            None | Some(MeshLabel::Absent) => Err(WhyNot::NoLabel {
                namespace: name.clone(),
            }),
            Some(MeshLabel::Disabled) => Err(WhyNot::NamespaceSays {
                namespace: name.clone(),
                value: "disabled".to_owned(),
            }),
            Some(MeshLabel::Other(value)) => Err(WhyNot::NamespaceSays {
                namespace: name.clone(),
                value: value.clone(),
            }),
        },
    };
    match asked {
        Err(why) => not(why),
        Ok(()) if pod.host_network => not(WhyNot::HostNetwork),
        Ok(()) => Membership::Meshed,
    }
}
