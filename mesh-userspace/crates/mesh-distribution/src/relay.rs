//! Replicas of the controller share the nodes: what is asked of a node may have to go through another replica.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tonic::{Code, Status};

use crate::channel::{self, Channel, Connect, Driver};
use crate::hub::{Hub, NodeReport};
use crate::proto::{ConnectedNode, NodesRequest, RelayedQuestion};
use crate::question::{Answer, AskError, Question, read};

/// How long another replica may take to be reached and to say who follows it.
const PATIENCE: Duration = Duration::from_secs(5);

/// All nodes of the mesh, whichever replica they follow.
#[derive(Clone)]
pub struct Fleet {
    hub: Hub,
    replicas: Arc<Mutex<Vec<Arc<Replica>>>>,
}

/// A node that follows some replica.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetNode {
    /// Its name.
    pub name: String,
    /// Its release.
    pub version: String,
    /// For how long.
    pub connected: Duration,
    /// It holds everything that it is to hold.
    pub current: bool,
    /// What it last said of itself.
    pub report: Option<NodeReport>,
    /// The replica; `None` for this one.
    pub replica: Option<String>,
}

struct Replica {
    name: String,
    connect: Arc<dyn Connect>,
    open: tokio::sync::Mutex<Option<(Channel, Driver)>>,
}

impl Fleet {
    /// The nodes of this replica.
    pub fn new(hub: Hub) -> Self {
        Self {
            hub,
            replicas: Arc::default(),
        }
    }

    /// The other replicas: their names (addresses, say) and how they are reached, with this replica's certificate of the
    /// controller. Those that were known stay connected.
    pub fn set_replicas(&self, replicas: Vec<(String, Arc<dyn Connect>)>) {
        let mut known = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        let now = replicas.into_iter().map(|(name, connect)| {
            let same = before.iter().find(|replica| replica.name == name);
            same.cloned().unwrap_or_else(|| {
                Arc::new(Replica {
                    name,
                    connect,
                    open: tokio::sync::Mutex::default(),
                })
            })
        });
        *known = now.collect();
    }

    /// All nodes, sorted by name, and why some may be missing. A node that has just moved is listed once, with the
    /// connection that is the younger.
    pub async fn nodes(&self) -> (Vec<FleetNode>, Vec<String>) {
        let mut nodes: Vec<FleetNode> = self.hub.nodes().into_iter().map(own).collect();
        let replicas = self.others();
        let asked = replicas.iter().map(|replica| replica.nodes());
        let mut problems = Vec::new();
        for (replica, answer) in replicas.iter().zip(join_all(asked).await) {
            match answer {
                Ok(others) => nodes.extend(others),
                Err(why) => problems.push(format!(
                    "the nodes that follow replica {} are missing: {why}",
                    replica.name
                )),
            }
        }
        nodes.sort_by(|a, b| (&a.name, a.connected).cmp(&(&b.name, b.connected)));
        nodes.dedup_by(|later, kept| later.name == kept.name);
        (nodes, problems)
    }

    /// Asks a node, through whichever replica it follows.
    ///
    /// # Errors
    /// As [`Hub::ask`].
    pub async fn ask(&self, node: &str, question: Question) -> Result<Answer, AskError> {
        let mut outcome = self.hub.ask(node, question.clone()).await;
        for replica in self.others() {
            if !matches!(outcome, Err(AskError::NotConnected { .. })) {
                break;
            }
            outcome = replica.ask(node, &question).await;
        }
        outcome
    }

    fn others(&self) -> Vec<Arc<Replica>> {
        let replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        replicas.clone()
    }
}

impl Replica {
    async fn nodes(&self) -> Result<Vec<FleetNode>, String> {
        let call = async {
            let channel = self.channel().await?;
            let reply = channel.relay().nodes(NodesRequest {}).await;
            let reply = reply.map_err(|status| status.message().to_owned())?;
            let nodes = reply.into_inner().nodes.into_iter();
            Ok(nodes.map(|node| self.other(node)).collect())
        };
        let late = || Err(format!("it said nothing for {} s", PATIENCE.as_secs()));
        tokio::time::timeout(PATIENCE, call)
            .await
            .unwrap_or_else(|_late| late())
    }

    async fn ask(&self, node: &str, question: &Question) -> Result<Answer, AskError> {
        let not_here = || AskError::NotConnected { node: node.into() };
        let channel = tokio::time::timeout(PATIENCE, self.channel()).await;
        let Ok(Ok(channel)) = channel else {
            return Err(not_here());
        };
        let question = RelayedQuestion {
            node: node.to_owned(),
            question: Some(question.to_wire(0)),
        };
        match channel.relay().ask(question).await {
            Ok(parts) => read(parts.into_inner(), node, ()).await,
            Err(status) => Err(relayed(node, &status)),
        }
    }

    /// The connection there is, or a new one.
    async fn channel(&self) -> Result<Channel, String> {
        let mut open = self.open.lock().await;
        if let Some((channel, _)) = open.as_ref().filter(|(channel, _)| !channel.is_over()) {
            return Ok(channel.clone());
        }
        let connection = self.connect.connect().await?;
        let (channel, driver) = channel::open(connection).await?;
        *open = Some((channel.clone(), driver));
        Ok(channel)
    }

    fn other(&self, node: ConnectedNode) -> FleetNode {
        let ConnectedNode {
            name,
            version,
            connected_seconds,
            report,
            current,
        } = node;
        FleetNode {
            name,
            version,
            connected: Duration::from_secs(connected_seconds),
            current,
            report: report.map(NodeReport::from_wire),
            replica: Some(self.name.clone()),
        }
    }
}

fn own(view: crate::hub::NodeView) -> FleetNode {
    let crate::hub::NodeView {
        name,
        version,
        connected_since,
        current,
        held: _,
        report,
    } = view;
    FleetNode {
        name,
        version,
        connected: connected_since.elapsed().unwrap_or_default(),
        current,
        report,
        replica: None,
    }
}

fn relayed(node: &str, status: &Status) -> AskError {
    let node = node.to_owned();
    match status.code() {
        Code::NotFound => AskError::NotConnected { node },
        Code::Unavailable => AskError::Gone { node },
        _ => AskError::Failed {
            node,
            why: status.message().to_owned(),
        },
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}
