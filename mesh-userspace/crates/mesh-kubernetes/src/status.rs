//! Says on each object what became of it: conditions, with a reason that a person can act on. One replica writes, the one
//! that holds the lease; and only what differs from what is there.

mod conditions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::observe::RouteKey;
use crate::source::is_not_found;
use crate::translate::{ObjectKey, Said, State};
use crate::view::View;

/// How far the nodes are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Acknowledged {
    /// Every update up to this one is applied by every node that is connected.
    pub sequence: u64,
    /// Nodes that are behind, for the message of `Programmed`.
    pub waiting_for: Vec<String>,
}

/// Nodes mostly apply a change within this time: one write says all then, instead of two.
const PATIENCE: Duration = Duration::from_secs(1);

/// When to try again after somebody else changed an object: what they wrote is observed by then.
const AFTER_CONFLICT: Duration = Duration::from_millis(500);

/// When to try again after any other failure.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Writes what [`View`] has to say about routes and policies, while `holding` is true, as far as it differs from what is
/// there. Ends when a sender is gone.
pub async fn run(
    client: Client,
    view: View,
    mut holding: watch::Receiver<bool>,
    mut acknowledged: watch::Receiver<Acknowledged>,
) {
    let mut changed = view.changed();
    let mut writer = Writer {
        client,
        view,
        due: BTreeMap::new(),
        unprogrammed: BTreeMap::new(),
    };
    let mut held = false;
    loop {
        let holds = *holding.borrow_and_update();
        if holds && !held {
            writer.everything_is_due();
        }
        held = holds;
        if held {
            writer.note_what_changed();
            let acknowledged = acknowledged.borrow_and_update().clone();
            writer.write(&acknowledged, &holding).await;
        }
        let next = writer.next_due().filter(|_| held);
        let going_on = tokio::select! {
            result = holding.changed() => result,
            result = changed.changed(), if held => result,
            result = acknowledged.changed(), if held => {
                writer.look_at_unprogrammed();
                result
            }
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => Ok(()),
        };
        if going_on.is_err() {
            return;
        }
    }
}

struct Writer {
    client: Client,
    view: View,
    /// Objects to look at, and when.
    due: BTreeMap<ObjectKey, Instant>,
    /// Objects that the nodes do not all apply yet, and since when we know.
    unprogrammed: BTreeMap<ObjectKey, Instant>,
}

impl Writer {
    fn everything_is_due(&mut self) {
        let now = Instant::now();
        let all = self.view.with_said(|state, _| keys(state));
        self.due
            .extend(all.into_iter().flatten().map(|key| (key, now)));
    }

    fn note_what_changed(&mut self) {
        let now = Instant::now();
        self.due
            .extend(self.view.take_unsaid().into_iter().map(|key| (key, now)));
    }

    fn look_at_unprogrammed(&mut self) {
        let now = Instant::now();
        self.due
            .extend(self.unprogrammed.keys().map(|key| (key.clone(), now)));
    }

    fn next_due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Looks at what is due, as long as we hold the lease.
    async fn write(&mut self, acknowledged: &Acknowledged, holding: &watch::Receiver<bool>) {
        let now = Instant::now();
        let due = self.due.iter().filter(|(_, at)| **at <= now);
        let due: Vec<ObjectKey> = due.map(|(key, _)| key.clone()).collect();
        for key in due {
            if !*holding.borrow() {
                return;
            }
            match self.write_one(&key, acknowledged).await {
                Next::Done => {
                    self.due.remove(&key);
                }
                Next::At(at) => {
                    self.due.insert(key, at);
                }
            }
        }
    }

    async fn write_one(&mut self, key: &ObjectKey, acknowledged: &Acknowledged) -> Next {
        let now = Instant::now();
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let look = self.view.with_said(|state, said| {
            let said = said.get(key);
            let is_pending = said.is_some_and(|said| said.is_pending(acknowledged.sequence));
            let patch = conditions::patch(state, key, said, acknowledged, &time);
            (is_pending, patch)
        });
        // Not worked out yet; it is noted again when it is.
        let Some((is_pending, patch)) = look else {
            return Next::At(now + AFTER_CONFLICT);
        };
        if is_pending {
            let since = *self.unprogrammed.entry(key.clone()).or_insert(now);
            if now < since + PATIENCE {
                return Next::At(since + PATIENCE);
            }
        } else {
            self.unprogrammed.remove(key);
        }
        let Some(patch) = patch else {
            return Next::Done;
        };
        self.send(key, &patch, now).await
    }

    async fn send(&self, key: &ObjectKey, patch: &Value, now: Instant) -> Next {
        let Some(resource) = self.view.resource_of(key) else {
            return Next::Done;
        };
        let name = key.name();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &name.namespace, &resource);
        let params = PatchParams::default();
        match api
            .patch_status(&name.name, &params, &Patch::Merge(patch))
            .await
        {
            Ok(_) => Next::Done,
            Err(error) if is_not_found(&error) => Next::Done,
            Err(kube::Error::Api(status)) if status.code == 409 => Next::At(now + AFTER_CONFLICT),
            Err(error) => {
                tracing::warn!(%key, %error, "its status cannot be written");
                Next::At(now + AFTER_FAILURE)
            }
        }
    }
}

enum Next {
    Done,
    At(Instant),
}

/// Every object with a status of ours.
fn keys(state: &State) -> BTreeSet<ObjectKey> {
    let routes = state
        .routes
        .iter()
        .map(|route| ObjectKey::Route(route.key.clone()));
    let policies = state.authorization_policies.iter();
    let policies = policies.map(|policy| ObjectKey::AuthorizationPolicy(policy.name.clone()));
    let mesh = state.mesh_policies.iter();
    let mesh = mesh.map(|policy| ObjectKey::MeshPolicy(policy.name.clone()));
    routes.chain(policies).chain(mesh).collect()
}

/// The patch that makes an object's status say this.
fn status_patch(resource_version: &str, status: Value) -> Value {
    // With the version that was looked at, the server refuses the patch if anything changed since.
    json!({ "metadata": { "resourceVersion": resource_version }, "status": status })
}

impl Said {
    /// Whether it waits for nodes only.
    fn is_pending(&self, acknowledged: u64) -> bool {
        self.sequence > acknowledged && self.parents.values().any(|verdict| verdict.is_whole())
    }
}

impl ObjectKey {
    fn name(&self) -> &mesh_core::workload::Name {
        match self {
            Self::AuthorizationPolicy(name)
            | Self::MeshPolicy(name)
            | Self::Route(RouteKey { name, .. }) => name,
        }
    }
}
