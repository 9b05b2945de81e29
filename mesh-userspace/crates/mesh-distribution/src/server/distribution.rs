//! The calls of nodes. Which node calls was proved by its certificate.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use mesh_control::facts::Fact;
use mesh_core::identity::SpiffeId;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::Tally;
use super::enrolment::status;
use super::serve::Node;
use super::tally::count;
use crate::gatekeeper::{Found, Gatekeeper, Pod, Refusal};
use crate::hub::{Ending, Hello, Hub, NodeReport, Opened, Session};
use crate::proto::from_node::Message;
use crate::proto::{
    AnswerPart, AnswerTaken, Chain, FindPodReply, FindPodRequest, FromNode, Refused, SignReply,
    SignRequest, Signed, Signing, ToNode, Unknown, answer_part, distribution_server,
    find_pod_reply, signed,
};
use crate::wire::{self, Hash};

/// How long a node may take to say hello, or which question it answers.
const FIRST_WORDS: Duration = Duration::from_secs(10);

/// Most that a node may say it holds: more than the largest clusters have.
const MOST_HELD: usize = 500_000;

/// Most certificates in one call: a node runs a few hundred pods.
const MOST_SIGNINGS: usize = 128;

pub(super) struct DistributionService<G> {
    hub: Hub,
    gatekeeper: Arc<G>,
    tally: Arc<Tally>,
}

impl<G> DistributionService<G> {
    pub(super) fn new(hub: Hub, gatekeeper: Arc<G>, tally: Arc<Tally>) -> Self {
        Self {
            hub,
            gatekeeper,
            tally,
        }
    }
}

#[tonic::async_trait]
impl<G: Gatekeeper> distribution_server::Distribution for DistributionService<G> {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignReply>, Status> {
        let node = node(&request)?;
        let SignRequest { signings } = request.into_inner();
        if signings.len() > MOST_SIGNINGS {
            return Err(Status::invalid_argument(format!(
                "{} certificates in one call, but at most {MOST_SIGNINGS} are given",
                signings.len()
            )));
        }
        let mut signed = Vec::with_capacity(signings.len());
        for signing in signings {
            let outcome = self.sign_one(&node, signing).await;
            let outcome = Some(outcome);
            signed.push(Signed { outcome });
        }
        Ok(Response::new(SignReply { signed }))
    }

    async fn find_pod(
        &self,
        request: Request<FindPodRequest>,
    ) -> Result<Response<FindPodReply>, Status> {
        let node = node(&request)?;
        count(&self.tally.pods_looked_up);
        let FindPodRequest {
            namespace,
            name,
            uid,
        } = request.into_inner();
        let pod = Pod {
            namespace,
            name,
            uid,
        };
        let found = self.gatekeeper.find_pod(&node, &pod).await;
        let outcome = match found.map_err(status)? {
            Found::Unknown => find_pod_reply::Outcome::Unknown(Unknown {}),
            Found::NotMeshed(why) => find_pod_reply::Outcome::NotMeshed(why),
            Found::Meshed(workload) => {
                let body = wire::body(&Fact::Workload(*workload))
                    .map_err(|error| Status::internal(error.to_string()))?;
                find_pod_reply::Outcome::Meshed(body.bytes)
            }
        };
        let outcome = Some(outcome);
        Ok(Response::new(FindPodReply { outcome }))
    }

    type FollowStream = BoxStream<'static, Result<ToNode, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<FromNode>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let node = node(&request)?;
        let mut said = request.into_inner();
        let hello = read_hello(&mut said).await?;
        let held = hello.held.len();
        let session = self.hub.follow(&node, hello).map_err(ending)?;
        tracing::info!(%node, held, "a node follows");
        Ok(Response::new(tell(session, said)))
    }

    async fn answer(
        &self,
        request: Request<Streaming<AnswerPart>>,
    ) -> Result<Response<AnswerTaken>, Status> {
        let node = node(&request)?;
        let mut parts = request.into_inner();
        let first = tokio::time::timeout(FIRST_WORDS, parts.message()).await;
        let first = first.map_err(|_late| Status::deadline_exceeded("nothing was answered"))??;
        let Some(answer_part::Part::Question(question)) = first.and_then(|part| part.part) else {
            return Err(Status::invalid_argument(
                "an answer begins with the question",
            ));
        };
        let nobody = || Status::not_found("nobody waits for this answer any more");
        let asker = self.hub.answers(&node, question).ok_or_else(nobody)?;
        let (taken, enough) = oneshot::channel();
        let parts = parts.boxed();
        asker
            .send(Opened { parts, taken })
            .map_err(|_withdrawn| nobody())?;
        // Ends when it is read to its end, or dropped before: both drop the sender, which never sends.
        match enough.await {
            Ok(()) | Err(_) => Ok(Response::new(AnswerTaken {})),
        }
    }
}

impl<G: Gatekeeper> DistributionService<G> {
    async fn sign_one(&self, node: &str, signing: Signing) -> signed::Outcome {
        let Signing { identity, request } = signing;
        let granted = match identity.parse::<SpiffeId>() {
            Err(error) => Err(Refusal::denied(error.to_string())),
            Ok(identity) => self.gatekeeper.sign(node, &identity, &request).await,
        };
        match granted {
            Ok(chain) => {
                count(&self.tally.signed);
                let certificates = chain.into_iter().map(Bytes::from).collect();
                signed::Outcome::Chain(Chain { certificates })
            }
            Err(Refusal { why, try_again }) => {
                count(&self.tally.signings_refused);
                tracing::warn!(node, identity, why, "a certificate was refused to a node");
                signed::Outcome::Refused(Refused { why, try_again })
            }
        }
    }
}

/// The node that calls.
fn node<T>(request: &Request<T>) -> Result<Arc<str>, Status> {
    let node = request.extensions().get::<Node>();
    node.map(|Node(name)| name.clone())
        .ok_or_else(|| Status::unauthenticated("this call needs the certificate of a node"))
}

async fn read_hello(said: &mut Streaming<FromNode>) -> Result<Hello, Status> {
    let mut hello = Hello::default();
    let mut held = HashMap::default();
    loop {
        let piece = tokio::time::timeout(FIRST_WORDS, said.message()).await;
        let piece = piece.map_err(|_late| Status::deadline_exceeded("the node said nothing"))??;
        let Some(Message::Hello(piece)) = piece.and_then(|piece| piece.message) else {
            return Err(Status::invalid_argument("a node begins with hello"));
        };
        hello.version = piece.version;
        for one in piece.held {
            // A kind that this release does not know: it was told by a later one, which alone can take it back.
            if let Some(key) = one.key.and_then(wire::key_from_wire) {
                held.insert(key, Hash::from_bytes(&one.hash));
            }
        }
        if held.len() > MOST_HELD {
            return Err(Status::invalid_argument("a node cannot hold this much"));
        }
        if !piece.more {
            break;
        }
    }
    hello.held = held;
    Ok(hello)
}

/// What a session has to say, for as long as the connection lasts, while what the node says is listened to.
fn tell(
    session: Session,
    mut said: Streaming<FromNode>,
) -> BoxStream<'static, Result<ToNode, Status>> {
    let listener = session.listener();
    let listening = AbortOnDrop(tokio::spawn(async move {
        while let Ok(Some(FromNode { message })) = said.message().await {
            match message {
                Some(Message::Ack(ack)) => listener.acknowledged(ack.generation),
                Some(Message::Report(report)) => {
                    listener.reported(NodeReport::from_wire(report));
                }
                Some(Message::Hello(_)) | None => {}
            }
        }
        listener.ended();
    }));
    let state = Some((session, listening));
    stream::unfold(state, |state| async move {
        let (mut session, listening) = state?;
        match session.next().await {
            Ok(message) => {
                let message = Some(message);
                Some((Ok(ToNode { message }), Some((session, listening))))
            }
            Err(why) => Some((Err(ending(why)), None)),
        }
    })
    .boxed()
}

fn ending(why: Ending) -> Status {
    match why {
        Ending::NotReady | Ending::Stopping => Status::unavailable(why.to_string()),
        Ending::Superseded | Ending::TooFarBehind => Status::aborted(why.to_string()),
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
