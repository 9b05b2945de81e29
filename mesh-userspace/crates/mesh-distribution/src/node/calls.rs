//! What a node asks of the controller.

use std::time::Duration;

use bytes::Bytes;
use mesh_control::facts::Fact;
use mesh_core::identity::SpiffeId;
use tonic::{Code, Status};

use super::Connect;
use crate::channel::{self, Channel};
use crate::gatekeeper::{Enrolled, Enrolment, Found, Pod, Refusal};
use crate::proto;
use crate::proto::{find_pod_reply, signed};

/// How long a call may take: the controller asks the Kubernetes API for some of them.
const PATIENCE: Duration = Duration::from_secs(15);

/// A certificate that a node wants for a workload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signing {
    /// The workload's identity.
    pub identity: SpiffeId,
    /// The certificate request, PKCS#10, DER. The key stays on the node.
    pub request: Vec<u8>,
}

/// What became of it: the chain, DER, the leaf first.
pub type Certified = Result<Vec<Vec<u8>>, Refusal>;

/// Why a call did not succeed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallError {
    /// There is no connection.
    #[error("no controller answers: {why}")]
    NotConnected {
        /// Why.
        why: String,
    },
    /// The controller said no.
    #[error("the controller refuses: {0}")]
    Refused(Refusal),
    /// The connection broke, or the controller failed.
    #[error("the controller did not answer: {why}")]
    Failed {
        /// How.
        why: String,
    },
}

impl CallError {
    /// It may succeed later without anybody changing anything.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NotConnected { .. } | Self::Failed { .. } => true,
            Self::Refused(refusal) => refusal.try_again,
        }
    }
}

/// Enrols a node, over a connection of its own in which no certificate is shown.
///
/// # Errors
/// No controller answers, or it refuses.
pub async fn enrol(connect: &dyn Connect, enrolment: Enrolment) -> Result<Enrolled, CallError> {
    let not_connected = |why| CallError::NotConnected { why };
    let connection = connect.connect().await.map_err(not_connected)?;
    let (channel, _driver) = channel::open(connection).await.map_err(not_connected)?;
    let Enrolment {
        token,
        request,
        node,
        version,
    } = enrolment;
    let request = proto::EnrolRequest {
        token,
        request: request.into(),
        node,
        version,
    };
    let mut client = channel.enrolment();
    let reply = in_time(client.enrol(request)).await?;
    let proto::EnrolReply {
        chain,
        roots,
        lifetime_seconds,
    } = reply;
    Ok(Enrolled {
        chain: certificates(chain),
        roots,
        lifetime: Duration::from_secs(lifetime_seconds),
    })
}

/// Certificates for workloads, in the order in which they are wanted.
pub(super) async fn sign(
    channel: &Channel,
    signings: Vec<Signing>,
) -> Result<Vec<Certified>, CallError> {
    let count = signings.len();
    let signings = signings.into_iter().map(|signing| proto::Signing {
        identity: signing.identity.to_string(),
        request: signing.request.into(),
    });
    let request = proto::SignRequest {
        signings: signings.collect(),
    };
    let mut client = channel.distribution();
    let reply = in_time(client.sign(request)).await?;
    if reply.signed.len() != count {
        return Err(CallError::Failed {
            why: format!(
                "it answered {} of {count} certificate requests",
                reply.signed.len()
            ),
        });
    }
    Ok(reply.signed.into_iter().map(certified).collect())
}

/// Whether a pod is of the mesh.
pub(super) async fn find_pod(channel: &Channel, pod: Pod) -> Result<Found, CallError> {
    let Pod {
        namespace,
        name,
        uid,
    } = pod;
    let request = proto::FindPodRequest {
        namespace,
        name,
        uid,
    };
    let mut client = channel.distribution();
    let reply = in_time(client.find_pod(request)).await?;
    let unreadable = |why: String| CallError::Failed { why };
    match reply.outcome {
        Some(find_pod_reply::Outcome::NotMeshed(why)) => Ok(Found::NotMeshed(why)),
        Some(find_pod_reply::Outcome::Unknown(_)) => Ok(Found::Unknown),
        Some(find_pod_reply::Outcome::Meshed(body)) => match serde_json::from_slice(&body) {
            Ok(Fact::Workload(workload)) => Ok(Found::Meshed(Box::new(workload))),
            Ok(other) => Err(unreadable(format!("{} is no workload", other.key()))),
            Err(error) => Err(unreadable(format!("the workload cannot be read: {error}"))),
        },
        None => Err(unreadable(
            "this release does not know what it answered".to_owned(),
        )),
    }
}

fn certified(signed: proto::Signed) -> Certified {
    match signed.outcome {
        Some(signed::Outcome::Chain(chain)) => Ok(certificates(chain.certificates)),
        Some(signed::Outcome::Refused(refused)) => {
            let proto::Refused { why, try_again } = refused;
            Err(Refusal { why, try_again })
        }
        None => Err(Refusal::not_now(
            "this release does not know what the controller answered",
        )),
    }
}

fn certificates(chain: Vec<Bytes>) -> Vec<Vec<u8>> {
    chain.into_iter().map(Vec::from).collect()
}

async fn in_time<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(failure(&status)),
        Err(_late) => Err(CallError::Failed {
            why: format!("nothing came within {} s", PATIENCE.as_secs()),
        }),
    }
}

fn failure(status: &Status) -> CallError {
    let why = status.message().to_owned();
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
            CallError::Refused(Refusal::denied(why))
        }
        Code::Unavailable => CallError::Refused(Refusal::not_now(why)),
        code => CallError::Failed {
            why: if why.is_empty() {
                code.description().to_owned()
            } else {
                why
            },
        },
    }
}
