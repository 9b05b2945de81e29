//! A node's stay with a hub, from its hello to its end: the hub's edge towards connections.

use std::fmt;
use std::sync::Arc;

use foldhash::HashMap;
use futures_util::stream::BoxStream;
use mesh_control::facts::FactKey;
use tokio::sync::{Notify, oneshot};

use super::follower::Follower;
use super::{Hub, NodeReport};
use crate::proto;
use crate::proto::to_node::Message;
use crate::question::{AskError, Question};
use crate::wire::Hash;

/// Questions that a node answers at a time.
const MOST_QUESTIONS: usize = 32;

/// What a node says when it comes.
#[derive(Debug, Default)]
pub(crate) struct Hello {
    pub(crate) version: String,
    /// What it holds; without a hash: to be told again.
    pub(crate) held: HashMap<FactKey, Option<Hash>>,
}

/// A node that follows. Dropping it ends its stay.
pub(crate) struct Session {
    hub: Hub,
    node: Arc<str>,
    id: u64,
    wake: Arc<Notify>,
    welcomed: bool,
}

/// Why a session ends from the hub's side.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Ending {
    #[error("this controller has not read the whole cluster yet")]
    NotReady,
    #[error("this controller is stopping")]
    Stopping,
    #[error("another connection of this node has taken over")]
    Superseded,
    #[error("this node is too far behind to be told of changes; it begins again")]
    TooFarBehind,
}

/// An answer that has begun.
pub(crate) struct Opened {
    pub(crate) parts: BoxStream<'static, Result<proto::AnswerPart, tonic::Status>>,
    /// Dropped when nobody wants more of it.
    pub(crate) taken: oneshot::Sender<()>,
}

/// A question that was put. Dropping it withdraws it.
pub(super) struct Asked {
    hub: Hub,
    node: String,
    session: u64,
    question: u64,
}

impl Hub {
    /// A node comes. It takes the place of an earlier session of its own: that one's connection may be dead without
    /// anybody having noticed.
    pub(crate) fn follow(&self, node: &str, hello: Hello) -> Result<Session, Ending> {
        let Hello { version, held } = hello;
        let node: Arc<str> = node.into();
        let wake = Arc::new(Notify::new());
        let id = {
            let mut state = self.lock();
            if state.stopping {
                return Err(Ending::Stopping);
            }
            if !state.is_ready() {
                return Err(Ending::NotReady);
            }
            let id = state.next_id();
            let different = state.difference(&node, held);
            let follower = Follower::new(id, version, different, wake.clone());
            if let Some(mut earlier) = state.followers.insert(node.clone(), follower) {
                earlier.end(Ending::Superseded);
            }
            id
        };
        self.nodes_have_changed();
        Ok(Session {
            hub: self.clone(),
            node,
            id,
            wake,
            welcomed: false,
        })
    }

    /// Puts a question in front of a node.
    pub(super) fn put(
        &self,
        node: &str,
        question: &Question,
    ) -> Result<(Asked, oneshot::Receiver<Opened>), AskError> {
        let mut state = self.lock();
        let id = state.next_id();
        let not_connected = || AskError::NotConnected { node: node.into() };
        let follower = state.followers.get_mut(node).ok_or_else(not_connected)?;
        if follower.questions() >= MOST_QUESTIONS {
            return Err(AskError::Busy {
                node: node.into(),
                count: follower.questions(),
            });
        }
        let (sender, opened) = oneshot::channel();
        follower.ask(question.to_wire(id), sender);
        let asked = Asked {
            hub: self.clone(),
            node: node.to_owned(),
            session: follower.id,
            question: id,
        };
        Ok((asked, opened))
    }

    /// A node begins to answer. `None`: nobody waits for it.
    pub(crate) fn answers(&self, node: &str, question: u64) -> Option<oneshot::Sender<Opened>> {
        self.lock().followers.get_mut(node)?.answers(question)
    }
}

impl Session {
    /// The next message for the node, as soon as there is one. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Message, Ending> {
        if !self.welcomed {
            self.welcomed = true;
            return Ok(Message::Welcome(proto::Welcome { hub: self.hub.0.id }));
        }
        loop {
            if let Some(message) = self.poll()? {
                return Ok(message);
            }
            self.wake.notified().await;
        }
    }

    /// The next message, if there is one now.
    pub(super) fn poll(&self) -> Result<Option<Message>, Ending> {
        let mut state = self.hub.lock();
        let own = state.followers.get(&self.node);
        match own.filter(|follower| follower.id == self.id) {
            None => Err(Ending::Superseded),
            Some(Follower {
                ending: Some(ending),
                ..
            }) => Err(*ending),
            Some(_) => Ok(state.next_message(&self.node)),
        }
    }

    /// What the node says of itself, for as long as it stays.
    pub(crate) fn listener(&self) -> Listener {
        Listener {
            hub: self.hub.clone(),
            node: self.node.clone(),
            id: self.id,
        }
    }
}

/// Takes what a node says.
pub(crate) struct Listener {
    hub: Hub,
    node: Arc<str>,
    id: u64,
}

impl Listener {
    pub(crate) fn acknowledged(&self, generation: u64) {
        self.with(|follower| follower.acknowledge(generation));
    }

    pub(crate) fn reported(&self, report: NodeReport) {
        self.with(|follower| follower.report(report));
        self.hub.nodes_have_changed();
    }

    /// The node will say nothing more: its connection is over.
    pub(crate) fn ended(&self) {
        self.hub.forget(&self.node, self.id);
    }

    fn with(&self, act: impl FnOnce(&mut Follower)) {
        let mut state = self.hub.lock();
        let follower = state.followers.get_mut(&self.node);
        if let Some(follower) = follower.filter(|follower| follower.id == self.id) {
            act(follower);
        }
    }
}

impl Hub {
    fn forget(&self, node: &Arc<str>, id: u64) {
        {
            let mut state = self.lock();
            let own = state.followers.get(node);
            if own.is_none_or(|follower| follower.id != id) {
                return;
            }
            if let Some(follower) = state.followers.remove(node) {
                follower.wake();
            }
        }
        self.nodes_have_changed();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.forget(&self.node, self.id);
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        let follower = state.followers.get_mut(self.node.as_str());
        if let Some(follower) = follower.filter(|follower| follower.id == self.session) {
            follower.withdraw(self.question);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("node", &self.node)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
