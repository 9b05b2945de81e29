//! The calls of other replicas of the controller: the nodes that follow this one, and questions to them.

use std::time::SystemTime;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tonic::{Request, Response, Status};

use crate::hub::{Hub, NodeView};
use crate::proto::{
    AnswerPart, ConnectedNode, NodesReply, NodesRequest, RelayedQuestion, relay_server,
};
use crate::question::{AskError, Question, parts};

pub(super) struct RelayService {
    hub: Hub,
}

impl RelayService {
    pub(super) fn new(hub: Hub) -> Self {
        Self { hub }
    }
}

#[tonic::async_trait]
impl relay_server::Relay for RelayService {
    async fn nodes(&self, _: Request<NodesRequest>) -> Result<Response<NodesReply>, Status> {
        let nodes = self.hub.nodes().into_iter().map(connected).collect();
        Ok(Response::new(NodesReply { nodes }))
    }

    type AskStream = BoxStream<'static, Result<AnswerPart, Status>>;

    async fn ask(
        &self,
        request: Request<RelayedQuestion>,
    ) -> Result<Response<Self::AskStream>, Status> {
        let RelayedQuestion { node, question } = request.into_inner();
        let question = question.ok_or_else(|| Status::invalid_argument("there is no question"))?;
        let answer = self.hub.ask(&node, Question::from_wire(question)).await;
        let answer = answer.map_err(|error| status(&error))?;
        Ok(Response::new(parts(answer).map(Ok).boxed()))
    }
}

fn connected(view: NodeView) -> ConnectedNode {
    let NodeView {
        name,
        version,
        connected_since,
        current,
        held: _,
        report,
    } = view;
    let connected = SystemTime::now().duration_since(connected_since);
    ConnectedNode {
        name,
        version,
        connected_seconds: connected.unwrap_or_default().as_secs(),
        report: report.map(|report| report.to_wire()),
        current,
    }
}

fn status(error: &AskError) -> Status {
    let said = error.to_string();
    match error {
        AskError::NotConnected { .. } => Status::not_found(said),
        AskError::Busy { .. } => Status::resource_exhausted(said),
        AskError::Gone { .. } | AskError::Silent { .. } => Status::unavailable(said),
        AskError::Failed { .. } => Status::internal(said),
    }
}
