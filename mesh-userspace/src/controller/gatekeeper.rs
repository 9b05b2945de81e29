//! Who gets which certificate. A node shows the token of its agent's pod, which the API server reviews; from then on its own
//! certificate says who it is, and it gets certificates for what runs on it and for nothing else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_core::identity::SpiffeId;
use mesh_distribution::gatekeeper::{Enrolled, Enrolment, Found, Gatekeeper, Pod, Refusal};
use mesh_identity::NodeIdentity;
use mesh_identity::registrar::{Asked, Refusal as NotSigned};
use mesh_kubernetes::access::{self, Expected};
use mesh_kubernetes::view::{PodAnswer, View};
use mesh_kubernetes::{Client, names};

use super::keys::Keys;

/// How long a node's own certificate is valid. A stolen one is good for no longer.
const NODE_LIFETIME: Duration = Duration::from_secs(24 * 3_600);

/// How long a pod is waited for that a node knows of before we do: the watch is behind by milliseconds, mostly.
const POD_PATIENCE: Duration = Duration::from_secs(3);

/// Decides with what was observed of the cluster.
pub(super) struct Gate {
    client: Client,
    keys: Arc<Keys>,
    view: View,
    expected: Expected,
    lifetime: Duration,
}

impl Gate {
    /// For agents of the mesh's own namespace; certificates of workloads are valid for `lifetime`.
    pub(super) fn new(
        client: Client,
        keys: Arc<Keys>,
        view: View,
        namespace: &str,
        lifetime: Duration,
    ) -> Self {
        Self {
            client,
            keys,
            view,
            expected: Expected {
                audience: names::TOKEN_AUDIENCE.to_owned(),
                namespace: namespace.to_owned(),
                service_account: names::NODE.to_owned(),
            },
            lifetime,
        }
    }

    /// Whether a node may have an identity: a meshed pod on it has it. The controller's own nobody may have, whatever runs
    /// on the node: who has it is taken for a controller.
    fn may_have(&self, node: &NodeIdentity, identity: &SpiffeId) -> bool {
        *identity != self.keys.identity && self.view.identities_of(node.name()).contains(identity)
    }

    fn node(&self, name: &str) -> Result<NodeIdentity, Refusal> {
        let domain = self.keys.identity.trust_domain().clone();
        NodeIdentity::new(domain, name).map_err(|error| self.refuse(error.into(), name))
    }

    /// Counts a refusal, and puts it into words.
    fn refuse(&self, refusal: NotSigned, node: &str) -> Refusal {
        told(&self.keys.registrar.refuse(refusal, node))
    }
}

/// What a node is told. What runs where changes by itself, and another controller may know it already.
fn told(refusal: &NotSigned) -> Refusal {
    let words = refusal.in_words();
    match refusal {
        NotSigned::NotOnNode { .. } | NotSigned::CannotSign { .. } => Refusal::not_now(words),
        _ => Refusal::denied(words),
    }
}

fn der(chain: mesh_identity::registrar::Chain) -> Vec<Vec<u8>> {
    chain.into_iter().map(|one| one.to_vec()).collect()
}

impl Gatekeeper for Gate {
    async fn enrol(&self, enrolment: Enrolment) -> Result<Enrolled, Refusal> {
        let Enrolment {
            token,
            request,
            node,
            version: _,
        } = enrolment;
        let agent = access::review_agent(&self.client, &self.expected, &token)
            .await
            .map_err(|refusal| match refusal {
                access::Refusal::Unavailable(why) => Refusal::not_now(why),
                access::Refusal::Denied(why) => self.refuse(NotSigned::Token { why }, &node),
            })?;
        let chain = self
            .keys
            .registrar
            .enrol(
                &agent.node,
                &node,
                &request,
                NODE_LIFETIME,
                SystemTime::now(),
            )
            .map_err(|refusal| told(&refusal))?;
        Ok(Enrolled {
            chain: der(chain),
            roots: self.keys.bundle().to_pem(),
            lifetime: NODE_LIFETIME,
        })
    }

    async fn sign(
        &self,
        node: &str,
        identity: &SpiffeId,
        request: &[u8],
    ) -> Result<Vec<Vec<u8>>, Refusal> {
        if !self.view.is_complete() {
            return Err(Refusal::not_now(
                "this controller does not know the cluster yet; ask again in a moment",
            ));
        }
        let node = self.node(node)?;
        let identity = identity.to_string();
        let asked = Asked {
            identity: &identity,
            csr: request,
        };
        self.keys
            .registrar
            .sign(
                &node,
                asked,
                |node, identity| self.may_have(node, identity),
                self.lifetime,
                SystemTime::now(),
            )
            .map(der)
            .map_err(|refusal| told(&refusal))
    }

    async fn find_pod(&self, node: &str, pod: &Pod) -> Result<Found, Refusal> {
        let mut changed = self.view.changed();
        let look = async {
            loop {
                changed.borrow_and_update();
                match self
                    .view
                    .find_pod(node, &pod.namespace, &pod.name, &pod.uid)
                {
                    PodAnswer::Meshed(spec) => return Found::Meshed(spec),
                    PodAnswer::NotMeshed(why) => return Found::NotMeshed(why),
                    PodAnswer::Unknown => {}
                }
                if changed.changed().await.is_err() {
                    return Found::Unknown;
                }
            }
        };
        Ok(tokio::time::timeout(POD_PATIENCE, look)
            .await
            .unwrap_or(Found::Unknown))
    }
}
