use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::SystemTime;

use futures_util::stream;

use super::*;
use crate::api::flow::Flow;

/// Nodes whose answers are known beforehand; `None`: one that never answers.
#[derive(Default)]
struct Known {
    nodes: Mutex<BTreeMap<String, Option<Vec<Bytes>>>>,
    /// Goes on after the answers.
    quiet: bool,
}

impl Known {
    fn with(self, node: &str, lines: Option<Vec<Bytes>>) -> Self {
        self.nodes
            .lock()
            .expect("not poisoned")
            .insert(node.to_owned(), lines);
        self
    }
}

impl Nodes for Known {
    async fn names(&self) -> BTreeSet<String> {
        let nodes = self.nodes.lock().expect("not poisoned");
        nodes.keys().cloned().collect()
    }

    async fn flows(
        &self,
        node: &str,
        _query: &FlowQuery,
    ) -> Result<BoxStream<'static, Result<Bytes, String>>, String> {
        let lines = self.nodes.lock().expect("not poisoned")[node].clone();
        match lines {
            None => std::future::pending().await,
            Some(lines) if lines.is_empty() => Err(format!("node {node} is not connected")),
            Some(lines) => {
                let body = stream::iter(lines.into_iter().map(Ok));
                Ok(match self.quiet {
                    true => body.chain(stream::pending()).boxed(),
                    false => body.boxed(),
                })
            }
        }
    }
}

const QUICK: Pace = Pace {
    patience: Duration::from_millis(200),
    look: Duration::from_millis(20),
};

/// A flow of `node` that ended so many seconds after the epoch, between two workloads of `shop`.
fn flow(node: &str, seconds: u64) -> Bytes {
    let mut record = crate::api::tests::full_record();
    record.started_at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    record.duration_us = 0;
    read::line(&Flow::from_record(&record, node)).expect("a line")
}

fn bookmark() -> Bytes {
    read::line(&crate::api::objects::Bookmark::new()).expect("a line")
}

/// What is told: seconds of flows, words of notices.
async fn told(nodes: Known, query: FlowQuery, most: usize) -> Vec<String> {
    let lines = merged(Arc::new(nodes), query, QUICK).take(most);
    lines
        .map(|line| {
            let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            match value["kind"].as_str() {
                Some("Flow") => {
                    let flow: Flow = serde_json::from_value(value).expect("a flow");
                    format!("{} {}", flow.node, flow.time.as_second())
                }
                _ => value["message"].as_str().unwrap_or_default().to_owned(),
            }
        })
        .collect()
        .await
}

#[tokio::test]
async fn the_past_is_told_in_the_order_of_time() {
    let nodes = Known::default()
        .with(
            "a",
            Some(vec![flow("a", 1), flow("a", 4), flow("a", 5), bookmark()]),
        )
        .with(
            "b",
            Some(vec![flow("b", 2), flow("b", 3), flow("b", 6), bookmark()]),
        )
        .with("c", Some(vec![bookmark()]));
    assert_eq!(
        told(nodes, FlowQuery::default(), 99).await,
        ["a 1", "b 2", "b 3", "a 4", "a 5", "b 6"]
    );
}

#[tokio::test]
async fn the_last_are_the_last_of_all_nodes() {
    let nodes = Known::default()
        .with("a", Some(vec![flow("a", 1), flow("a", 9), bookmark()]))
        .with("b", Some(vec![flow("b", 7), flow("b", 8), bookmark()]));
    let query = FlowQuery {
        last: Some(2),
        ..FlowQuery::default()
    };
    assert_eq!(told(nodes, query, 99).await, ["b 8", "a 9"]);
}

#[tokio::test]
async fn nobody_waits_for_a_node_that_says_nothing_and_it_is_named() {
    let nodes = Known::default()
        .with("a", Some(vec![flow("a", 1), bookmark()]))
        .with("dead", None)
        .with("gone", Some(Vec::new()));
    let mut said = told(nodes, FlowQuery::default(), 99).await;
    said.sort_unstable();
    assert_eq!(
        said,
        [
            "a 1",
            "node dead did not answer within 200ms: its flows are missing",
            "node gone is not connected: flows of node gone are missing",
        ]
    );
}

#[tokio::test]
async fn a_node_speaks_for_itself_alone_and_within_what_may_be_seen() {
    let foreign = flow("b", 2);
    let nodes = Known::default().with("a", Some(vec![flow("a", 1), foreign, bookmark()]));
    assert_eq!(told(nodes, FlowQuery::default(), 99).await, ["a 1"]);
    let elsewhere = FlowQuery {
        scope: Some("ops".to_owned()),
        ..FlowQuery::default()
    };
    let nodes = Known::default().with("a", Some(vec![flow("a", 1), bookmark()]));
    assert!(told(nodes, elsewhere, 99).await.is_empty());
}

#[tokio::test]
async fn a_line_without_an_end_is_not_gathered() {
    let endless = Bytes::from(vec![b' '; 100_000]);
    let nodes = Known::default().with("a", Some(vec![endless]));
    let said = told(nodes, FlowQuery::default(), 99).await;
    assert!(said[0].contains("a line of more than"), "{said:?}");
}

#[tokio::test]
async fn a_node_that_stops_telling_is_named_and_asked_again() {
    let nodes = Known::default().with("a", Some(vec![flow("a", 1), bookmark()]));
    let query = FlowQuery {
        follow: true,
        ..FlowQuery::default()
    };
    let said = told(nodes, query, 4).await;
    assert_eq!(
        said,
        [
            "a 1",
            "node a has ended its answer: its flows are missing until it is asked again",
            // Asked again: it answers as if nothing had been.
            "a 1",
            "node a has ended its answer: its flows are missing until it is asked again",
        ]
    );
}

#[tokio::test]
async fn following_goes_on_with_what_comes_and_with_nodes_that_come() {
    let nodes = Arc::new(
        Known {
            quiet: true,
            ..Known::default()
        }
        .with("a", Some(vec![flow("a", 5), bookmark(), flow("a", 3)])),
    );
    let query = FlowQuery {
        follow: true,
        ..FlowQuery::default()
    };
    let mut lines = merged(Arc::clone(&nodes), query, QUICK);
    let mut next = async || {
        let line = lines.next().await.expect("a line");
        serde_json::from_slice::<Flow>(&line).expect("a flow").node
    };
    assert_eq!(next().await, "a");
    assert_eq!(next().await, "a");
    nodes
        .nodes
        .lock()
        .expect("not poisoned")
        .insert("late".to_owned(), Some(vec![bookmark(), flow("late", 1)]));
    assert_eq!(next().await, "late");
}
