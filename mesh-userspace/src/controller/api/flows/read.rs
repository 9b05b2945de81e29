//! Reading what one node says about flows. A node is believed about its own flows, and about nothing else.

use std::sync::Arc;

use axum::body::Bytes;
use futures_util::StreamExt;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Nodes;
use crate::api::flow::{self, Flow};
use crate::api::objects::{Bookmark, FlowQuery, Lost};

/// Longest line that a node may say: a flow has about 1 KiB.
const LONGEST_LINE: usize = 64 << 10;

/// What a node says.
pub(super) enum Said {
    /// A flow that was asked for: when it ended (or was last heard of), and its line.
    Flow(Timestamp, Bytes),
    /// What whoever reads should know beside the flows.
    Remark(Bytes),
    /// The past is told.
    Present,
    /// There will be nothing more, and why.
    Broken(String),
}

/// What kind of line it is.
#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// Reads until the node has nothing more to say, or nobody wants to know.
pub(super) async fn run<N: Nodes>(
    nodes: Arc<N>,
    node: String,
    query: FlowQuery,
    said: mpsc::Sender<Said>,
) {
    let broken = match read(&*nodes, &node, &query, &said).await {
        Ok(()) if !query.follow => return,
        // Its controller has gone, or it is another agent's turn.
        Ok(()) => format!(
            "node {node} has ended its answer: its flows are missing until it is asked again"
        ),
        Err(why) => format!("{why}: flows of node {node} are missing"),
    };
    // Nobody may want to know any more.
    said.send(Said::Broken(broken)).await.ok();
}

async fn read<N: Nodes>(
    nodes: &N,
    node: &str,
    query: &FlowQuery,
    said: &mpsc::Sender<Said>,
) -> Result<(), String> {
    let mut body = nodes.flows(node, query).await?;
    let mut held: Vec<u8> = Vec::new();
    while let Some(chunk) = body.next().await {
        held.extend_from_slice(&chunk?);
        let mut begin = 0;
        while let Some(length) = held[begin..].iter().position(|byte| *byte == b'\n') {
            let line = &held[begin..begin + length];
            begin += length + 1;
            if let Some(heard) = heard(node, query, line)?
                && said.send(heard).await.is_err()
            {
                return Ok(());
            }
        }
        held.drain(..begin);
        if held.len() > LONGEST_LINE {
            return Err(format!(
                "node {node} says a line of more than {LONGEST_LINE} bytes"
            ));
        }
    }
    Ok(())
}

/// What a line means; `None`: nothing to whoever asked.
fn heard(node: &str, query: &FlowQuery, text: &[u8]) -> Result<Option<Said>, String> {
    let not_understood = |error: serde_json::Error| {
        format!("node {node} says what is not understood ({error}); is it of another version?")
    };
    let Kind { kind } = serde_json::from_slice(text).map_err(not_understood)?;
    let mut line = text.to_vec();
    line.push(b'\n');
    Ok(match kind.as_str() {
        flow::KIND => {
            let flow: Flow = serde_json::from_slice(text).map_err(not_understood)?;
            // The limit of what may be seen is kept here: a node's word is not enough for that.
            (flow.node == node && query.means(&flow))
                .then(|| Said::Flow(flow.ended_at(), line.into()))
        }
        Bookmark::KIND => Some(Said::Present),
        Lost::KIND => Some(Said::Remark(line.into())),
        // A remark of a later version is not worth an error.
        _ => None,
    })
}

/// An object as a line.
pub(super) fn line<T: Serialize>(object: &T) -> Option<Bytes> {
    let mut line = serde_json::to_vec(object).ok()?;
    line.push(b'\n');
    Some(line.into())
}
