//! Flows of every node as one stream: those of the past in the order of time, then those to come as they come. A node that
//! does not answer is named in the stream, and nobody waits for it longer than a [`Pace`] says.
//!
//! Nothing is gathered: of each node, the next flow is held and few behind it, so that an answer costs the controller the
//! same whether nodes remember a hundred flows or all they can.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::{self, BoxStream, SelectAll};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::routes::Lines;
use crate::api::cluster::Notice;
use crate::api::objects::FlowQuery;

mod read;

use read::Said;

/// Flows of one node that wait for their turn, beside the next one.
const BEHIND: usize = 16;

/// Lines that wait for whoever reads them.
const READY: usize = 64;

/// Most flows of the past of which the last are wanted: they are held until the last one is known.
const MOST_LAST: usize = 10_000;

/// How long is waited for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// For the next flow of a node, while the past is put in order.
    patience: Duration,
    /// Before looking again for nodes that have come since.
    look: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(3),
            look: Duration::from_secs(2),
        }
    }
}

/// Whoever can be asked for the flows of single nodes.
pub(crate) trait Nodes: Send + Sync + 'static {
    /// The nodes that have flows to tell.
    fn names(&self) -> impl Future<Output = BTreeSet<String>> + Send;
    /// Asks one of them. The answer goes on for as long as it is read.
    fn flows(
        &self,
        node: &str,
        query: &FlowQuery,
    ) -> impl Future<Output = Result<BoxStream<'static, Result<Bytes, String>>, String>> + Send;
}

/// The flows of all nodes, as lines.
pub(crate) fn merged<N: Nodes>(nodes: Arc<N>, mut query: FlowQuery, pace: Pace) -> Lines {
    query.last = query.last.map(|last| last.min(MOST_LAST));
    query.bookmark = true;
    let (out, lines) = mpsc::channel(READY);
    tokio::spawn(async move {
        let merge = Merge {
            nodes,
            query,
            pace,
            out: out.clone(),
            readers: JoinSet::new(),
            missing: BTreeSet::new(),
        };
        // Whoever asked may go away while there is nothing to tell.
        tokio::select! {
            _ended = merge.run() => {}
            () = out.closed() => {}
        }
    });
    stream::unfold(lines, async |mut lines| Some((lines.recv().await?, lines))).boxed()
}

/// Nobody reads any more.
struct Unread;

struct Merge<N> {
    nodes: Arc<N>,
    query: FlowQuery,
    pace: Pace,
    out: mpsc::Sender<Bytes>,
    /// One per node; all end with this.
    readers: JoinSet<()>,
    /// Nodes of which it was said that their flows are missing, and which have not been heard of since.
    missing: BTreeSet<String>,
}

/// What a node says.
struct Source {
    node: String,
    said: mpsc::Receiver<Said>,
}

/// Where a source stands after it was asked for its next flow of the past.
enum Next {
    Flow(Timestamp, Bytes),
    /// Its past is told.
    Present,
    /// It has nothing more to say, for a reason if that is not as it should be.
    Over(Option<String>),
    /// It takes too long.
    Late,
}

impl<N: Nodes> Merge<N> {
    async fn run(mut self) -> Result<(), Unread> {
        let mut sources = Vec::new();
        for node in self.nodes.names().await {
            let query = self.query.clone();
            sources.push(self.begin(node, query));
        }
        let sources = self.past(sources).await?;
        match self.query.follow {
            true => self.present(sources).await,
            false => Ok(()),
        }
    }

    /// Begins to read what a node says.
    fn begin(&mut self, node: String, query: FlowQuery) -> Source {
        let (sender, said) = mpsc::channel(BEHIND);
        let nodes = Arc::clone(&self.nodes);
        self.readers
            .spawn(read::run(nodes, node.clone(), query, sender));
        Source { node, said }
    }

    /// Tells the past in order; gives the sources that go on.
    async fn past(&mut self, mut sources: Vec<Source>) -> Result<Vec<Source>, Unread> {
        let mut heads: BinaryHeap<Reverse<(Timestamp, usize, Bytes)>> = BinaryHeap::new();
        let mut over = BTreeSet::new();
        let firsts = join_all(sources.iter_mut().map(|source| self.next(source))).await;
        for (index, next) in firsts.into_iter().enumerate() {
            self.take(index, next?, &sources, &mut heads, &mut over)
                .await?;
        }
        let mut held = VecDeque::new();
        while let Some(Reverse((_, index, line))) = heads.pop() {
            match self.query.last {
                Some(last) => {
                    held.push_back(line);
                    if held.len() > last {
                        held.pop_front();
                    }
                }
                None => self.tell(line).await?,
            }
            if let Some(source) = sources.get_mut(index) {
                let next = self.next(source).await?;
                self.take(index, next, &sources, &mut heads, &mut over)
                    .await?;
            }
        }
        for line in held {
            self.tell(line).await?;
        }
        let (mut index, missing) = (0, &mut self.missing);
        sources.retain(|source| {
            let goes_on = !over.contains(&index);
            index += 1;
            if !goes_on {
                missing.insert(source.node.clone());
            }
            goes_on
        });
        Ok(sources)
    }

    async fn take(
        &self,
        index: usize,
        next: Next,
        sources: &[Source],
        heads: &mut BinaryHeap<Reverse<(Timestamp, usize, Bytes)>>,
        over: &mut BTreeSet<usize>,
    ) -> Result<(), Unread> {
        let node = sources.get(index).map_or("", |source| source.node.as_str());
        match next {
            Next::Flow(at, line) => heads.push(Reverse((at, index, line))),
            Next::Present => {}
            Next::Over(why) => {
                over.insert(index);
                if let Some(why) = why {
                    self.notice(node, &why).await?;
                }
            }
            Next::Late if self.query.follow => {
                let why = format!("node {node} has not answered yet: its flows come out of order");
                self.notice(node, &why).await?;
            }
            Next::Late => {
                let why = format!(
                    "node {node} did not answer within {:?}: its flows are missing",
                    self.pace.patience
                );
                self.notice(node, &why).await?;
            }
        }
        Ok(())
    }

    /// The next of a source's past. What it says beside flows is told at once.
    async fn next(&self, source: &mut Source) -> Result<Next, Unread> {
        loop {
            let Ok(said) = tokio::time::timeout(self.pace.patience, source.said.recv()).await
            else {
                return Ok(Next::Late);
            };
            match said {
                Some(Said::Flow(at, line)) => return Ok(Next::Flow(at, line)),
                Some(Said::Remark(line)) => self.tell(line).await?,
                Some(Said::Present) => return Ok(Next::Present),
                Some(Said::Broken(why)) => return Ok(Next::Over(Some(why))),
                None => return Ok(Next::Over(None)),
            }
        }
    }

    /// Tells what comes, also of nodes that come.
    async fn present(mut self, sources: Vec<Source>) -> Result<(), Unread> {
        let mut known: BTreeSet<String> = BTreeSet::new();
        let mut coming = SelectAll::new();
        for source in sources {
            known.insert(source.node.clone());
            coming.push(heard(source));
        }
        let mut look = tokio::time::interval(self.pace.look);
        loop {
            tokio::select! {
                Some((node, said)) = coming.next() => match said {
                    Some(Said::Flow(_, line) | Said::Remark(line)) => self.tell(line).await?,
                    Some(Said::Present) => {
                        self.missing.remove(&node);
                    }
                    // It is asked again and again; that it is missing is said once.
                    Some(Said::Broken(_)) if self.missing.contains(&node) => {}
                    Some(Said::Broken(why)) => {
                        self.notice(&node, &why).await?;
                        self.missing.insert(node);
                    }
                    None => {
                        known.remove(&node);
                    }
                },
                _ = look.tick() => {
                    // Those that were not there at the beginning, or went and came back.
                    for node in self.nodes.names().await {
                        if known.insert(node.clone()) {
                            let query = FlowQuery { last: Some(0), ..self.query.clone() };
                            coming.push(heard(self.begin(node, query)));
                        }
                    }
                }
            }
        }
    }

    async fn notice(&self, node: &str, why: &str) -> Result<(), Unread> {
        match read::line(&Notice::new(node, why)) {
            Some(line) => self.tell(line).await,
            None => Ok(()),
        }
    }

    async fn tell(&self, line: Bytes) -> Result<(), Unread> {
        self.out.send(line).await.map_err(|_closed| Unread)
    }
}

/// What a source says, with its name; then `None`, once.
fn heard(source: Source) -> BoxStream<'static, (String, Option<Said>)> {
    stream::unfold(Some(source), async |source| {
        let mut source = source?;
        let said = source.said.recv().await;
        let node = source.node.clone();
        let rest = said.is_some().then_some(source);
        Some(((node, said), rest))
    })
    .boxed()
}

#[cfg(test)]
mod tests;
