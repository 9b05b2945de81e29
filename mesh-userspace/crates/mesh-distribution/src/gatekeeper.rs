//! Who gets which certificate, and what becomes of a pod that starts: questions that nodes put, which only the controller
//! as a whole can answer. The composition of the controller implements [`Gatekeeper`].

use std::future::Future;
use std::time::Duration;

use mesh_control::objects::WorkloadSpec;
use mesh_core::identity::SpiffeId;

/// Decides on what nodes ask for. Every refusal is counted by the caller and said to the node in its words.
pub trait Gatekeeper: Send + Sync + 'static {
    /// A node that has no certificate yet shows its token.
    fn enrol(&self, enrolment: Enrolment)
    -> impl Future<Output = Result<Enrolled, Refusal>> + Send;

    /// A node wants a certificate for the identity of a workload. Returns the chain, DER, the leaf first.
    fn sign(
        &self,
        node: &str,
        identity: &SpiffeId,
        request: &[u8],
    ) -> impl Future<Output = Result<Vec<Vec<u8>>, Refusal>> + Send;

    /// Whether a pod that is about to start on a node is of the mesh.
    fn find_pod(
        &self,
        node: &str,
        pod: &Pod,
    ) -> impl Future<Output = Result<Found, Refusal>> + Send;
}

/// What a node shows to get its certificate.
#[derive(Clone)]
pub struct Enrolment {
    /// The token of its pod.
    pub token: String,
    /// A certificate request, PKCS#10, DER. Only its public key is to be taken from it.
    pub request: Vec<u8>,
    /// The node that it says it is.
    pub node: String,
    /// Its release.
    pub version: String,
}

/// A token must not get into a log.
impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment")
            .field("node", &self.node)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What a node gets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Enrolled {
    /// Its certificate chain, DER, the leaf first.
    pub chain: Vec<Vec<u8>>,
    /// PEM of all roots.
    pub roots: String,
    /// How long the certificate is valid from now on.
    pub lifetime: Duration,
}

/// A pod, as a CNI plugin is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; empty where the container runtime does not say.
    pub uid: String,
}

/// What the controller knows of a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Found {
    /// It is of the mesh, and this is its workload.
    Meshed(Box<WorkloadSpec>),
    /// It is not, and why, for people.
    NotMeshed(String),
    /// The controller does not know it, or not yet.
    Unknown,
}

/// Why something was not granted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{why}")]
pub struct Refusal {
    /// What was wrong and what to do, for people.
    pub why: String,
    /// It may be granted later without anybody changing anything.
    pub try_again: bool,
}

impl Refusal {
    /// Not granted until somebody changes something.
    pub fn denied(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            try_again: false,
        }
    }

    /// Not granted now.
    pub fn not_now(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            try_again: true,
        }
    }
}
