//! The one call for those who have no certificate.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Tally;
use super::tally::count;
use crate::gatekeeper::{Enrolled, Enrolment, Gatekeeper, Refusal};
use crate::proto::enrolment_server;
use crate::proto::{EnrolReply, EnrolRequest};

pub(super) struct EnrolmentService<G> {
    gatekeeper: Arc<G>,
    tally: Arc<Tally>,
}

impl<G> EnrolmentService<G> {
    pub(super) fn new(gatekeeper: Arc<G>, tally: Arc<Tally>) -> Self {
        Self { gatekeeper, tally }
    }
}

#[tonic::async_trait]
impl<G: Gatekeeper> enrolment_server::Enrolment for EnrolmentService<G> {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let EnrolRequest {
            token,
            request,
            node,
            version,
        } = request.into_inner();
        let enrolment = Enrolment {
            token,
            request: request.into(),
            node,
            version,
        };
        let node = enrolment.node.clone();
        match self.gatekeeper.enrol(enrolment).await {
            Ok(enrolled) => {
                count(&self.tally.enrolled);
                tracing::info!(node, "a node has got its certificate");
                Ok(Response::new(reply(enrolled)))
            }
            Err(refusal) => {
                count(&self.tally.enrolments_refused);
                tracing::warn!(node, why = %refusal, "a node did not get a certificate");
                Err(status(refusal))
            }
        }
    }
}

fn reply(enrolled: Enrolled) -> EnrolReply {
    let Enrolled {
        chain,
        roots,
        lifetime,
    } = enrolled;
    EnrolReply {
        chain: chain.into_iter().map(Bytes::from).collect(),
        roots,
        lifetime_seconds: lifetime.as_secs(),
    }
}

/// A refusal of a whole call.
pub(super) fn status(refusal: Refusal) -> Status {
    let Refusal { why, try_again } = refusal;
    if try_again {
        Status::unavailable(why)
    } else {
        Status::permission_denied(why)
    }
}
