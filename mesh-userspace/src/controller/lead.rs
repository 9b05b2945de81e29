//! What only one of several controllers does, the holder of the Lease: writing. The others would write the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_distribution::relay::Fleet;
use mesh_kubernetes::authority_secret::{self, Trust};
use mesh_kubernetes::view::View;
use mesh_kubernetes::{Client, aggregation, taint};
use tokio::sync::watch;

use super::keys::Keys;

/// How often is looked whether something is to be written.
const LOOK: Duration = Duration::from_secs(1);

/// As what is said to fail, where it has no better name.
const TRUST: &str = "trust";

/// How often is looked whether somebody changed what was written.
const LOOK_AGAIN: u32 = 30;

/// Writes, while `holding`.
pub(super) struct Writer {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) keys: Arc<Keys>,
    pub(super) view: View,
    pub(super) fleet: Fleet,
    pub(super) holding: watch::Receiver<bool>,
    pub(super) failing: Failing,
}

/// What cannot be written at the moment, so that it is said once and not with every try.
#[derive(Debug, Default)]
pub(super) struct Failing(BTreeMap<String, String>);

impl Failing {
    /// Whether this is the first time that `what` fails in this way.
    fn is_news(&mut self, what: &str, why: &str) -> bool {
        self.0.insert(what.to_owned(), why.to_owned()).as_deref() != Some(why)
    }

    fn is_over(&mut self, what: &str) {
        self.0.remove(what);
    }
}

impl Writer {
    /// Until dropped.
    pub(super) async fn run(mut self) {
        let mut looks = 0;
        let mut written = None;
        loop {
            if !*self.holding.borrow_and_update() {
                written = None;
                if self.holding.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let roots = self.keys.bundle().to_pem();
            if written.as_ref() != Some(&roots) || looks % LOOK_AGAIN == 0 {
                let done = self.publish(&roots).await;
                written = done.then_some(roots);
            }
            self.untaint().await;
            looks = looks.wrapping_add(1);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Tells everybody whom to trust: agents that have nothing yet, and the API server. Says whether that was done.
    async fn publish(&mut self, roots: &str) -> bool {
        let trust = Trust {
            bundle_pem: roots.to_owned(),
            trust_domain: self.keys.identity.trust_domain().to_string(),
        };
        let mut done = true;
        let published = authority_secret::publish_trust(&self.client, &self.namespace, &trust);
        match published.await {
            Ok(()) => self.failing.is_over(TRUST),
            Err(error) => {
                if self.failing.is_news(TRUST, &error.to_string()) {
                    tracing::warn!(%error, "whom to trust cannot be published: new nodes cannot come");
                }
                done = false;
            }
        }
        match aggregation::announce(&self.client, crate::api::API_SERVICE, roots).await {
            Ok(true) => {
                tracing::info!("the API server was told by what to recognise the controller")
            }
            Ok(false) => self.failing.is_over(crate::api::API_SERVICE),
            Err(error) => {
                if self
                    .failing
                    .is_news(crate::api::API_SERVICE, &error.to_string())
                {
                    tracing::warn!(
                        %error,
                        "the APIService {} cannot be changed: warren flows, status and explain do not reach the controller",
                        crate::api::API_SERVICE
                    );
                }
                done = false;
            }
        }
        done
    }

    /// Lets pods come to nodes whose agents are ready.
    async fn untaint(&mut self) {
        let tainted: BTreeSet<String> = self
            .view
            .nodes()
            .into_iter()
            .filter(|node| self.view.has_taint(node))
            .collect();
        if tainted.is_empty() {
            return;
        }
        let (nodes, _) = self.fleet.nodes().await;
        for node in nodes {
            let ready = node.report.as_ref().is_some_and(|report| report.ready);
            if !ready || !tainted.contains(&node.name) {
                continue;
            }
            match taint::remove(&self.client, &node.name).await {
                Ok(()) => {
                    self.failing.is_over(&node.name);
                    tracing::info!(node = node.name, "the agent is ready; the node takes pods");
                }
                Err(error) if self.failing.is_news(&node.name, &error.to_string()) => {
                    tracing::warn!(
                        node = node.name,
                        %error,
                        "the start-up taint cannot be removed; the node takes no pods"
                    );
                }
                Err(_) => {}
            }
        }
    }
}
