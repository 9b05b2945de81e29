//! What the plugin and the agent say to each other, over the node's socket.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Versions of the CNI specification that the plugin speaks, oldest first. Those before chain no plugins.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", NEWEST];

/// The newest of them.
pub(crate) const NEWEST: &str = "1.1.0";

/// Where pods are announced; answered when they are enforced.
pub(crate) const ADD: &str = "/v1/cni/add";

/// Where they are signed off.
pub(crate) const DELETE: &str = "/v1/cni/del";

/// Where it is asked whether they are enforced.
pub(crate) const CHECK: &str = "/v1/cni/check";

/// A pod, as the runtime knows it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PodRequest {
    /// The runtime's id of its sandbox.
    pub(crate) container_id: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Empty where the runtime does not tell it.
    #[serde(default)]
    pub(crate) uid: String,
    /// Its network namespace: a path on the node; empty where it is gone.
    #[serde(default)]
    pub(crate) netns: PathBuf,
    /// Its interface.
    #[serde(default)]
    pub(crate) interface: String,
    /// The addresses that it was given.
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
}

/// What the agent says of it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub(crate) enum PodAnswer {
    /// Whatever it sends and receives from now on is the mesh's.
    Enforced,
    /// It has nothing to do with the mesh.
    NotMeshed {
        /// Why not.
        why: String,
    },
}
