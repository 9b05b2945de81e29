//! Looks after the plugin while the agent runs: the folder of network configurations is watched, so that another writer
//! who replaces the one in use (an upgrade of the cluster's network does) leaves it without our entry for a moment only.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

use super::Installer;
use crate::agent::supervise::chain;

/// What a watch misses (a folder that was itself replaced) is found within this.
const LOOK: Duration = Duration::from_secs(5);

/// Writers write in pieces.
const SETTLE: Duration = Duration::from_millis(50);

/// Whether the plugin is in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum InPlace {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// It is, in the network configuration of this name.
    Yes(String),
    /// It is not, and why.
    No(String),
}

/// Keeps the plugin in place until nobody wants to know any more; says how it stands.
pub(crate) async fn keep(installer: Installer, state: watch::Sender<InPlace>) {
    let (changed, mut changes) = mpsc::channel(1);
    let state = Arc::new(state);
    let mut watcher = Watch::default();
    let mut seen = None;
    loop {
        watcher.begin(&installer.conf_dir, &changed);
        let (installer, wanted) = (installer.clone(), Arc::clone(&state));
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = super::turn();
            (!wanted.is_closed()).then(|| (installer.ensure(&mut seen), seen))
        });
        let now = match looked.await {
            Ok(None) => return,
            Ok(Some((looked, stamp))) => {
                seen = stamp;
                match looked {
                    Ok(name) => InPlace::Yes(name),
                    Err(error) => InPlace::No(chain(&error)),
                }
            }
            Err(error) => InPlace::No(error.to_string()),
        };
        state.send_if_modified(|before| {
            let other = *before != now;
            if let (true, InPlace::No(why)) = (other, &now) {
                tracing::warn!(why, "the CNI plugin is not in place; trying again");
            }
            *before = now;
            other
        });
        if let Ok(Some(())) = tokio::time::timeout(LOOK, changes.recv()).await {
            tokio::time::sleep(SETTLE).await;
            while changes.try_recv().is_ok() {}
        }
    }
}

/// The watch, once the folder is there.
#[derive(Default)]
struct Watch(Option<RecommendedWatcher>);

impl Watch {
    fn begin(&mut self, folder: &Path, changed: &mpsc::Sender<()>) {
        if self.0.is_some() || !folder.is_dir() {
            return;
        }
        let changed = changed.clone();
        let begun = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            // One notice waits already, or nobody does any more.
            changed.try_send(()).unwrap_or_default();
        })
        .and_then(|mut watcher| {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match begun {
            Ok(watcher) => self.0 = Some(watcher),
            Err(error) => {
                tracing::debug!(folder = %folder.display(), %error, "cannot be watched; it is looked at now and then");
            }
        }
    }
}
