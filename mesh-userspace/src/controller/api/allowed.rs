//! A stream that goes on only as long as whoever reads it may: rights are taken away while people watch.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::caller::Caller;
use super::refusal::Refusal;
use super::routes::{Lines, Mesh, Scope};
use crate::api::cluster::Notice;

/// How often is asked again.
pub(super) const AGAIN: Duration = Duration::from_secs(60);

/// Whose stream it is.
pub(super) struct Watcher<M> {
    pub(super) mesh: Arc<M>,
    pub(super) caller: Caller,
    pub(super) resource: &'static str,
    pub(super) scope: Scope,
}

/// The lines, until the watcher may not see them any more. An API server that cannot be asked ends nothing: it is through it
/// that they are read.
pub(super) fn while_allowed<M: Mesh>(watcher: Watcher<M>, lines: Lines, again: Duration) -> Lines {
    let mut looks = interval_at(Instant::now() + again, again);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = Some((watcher, lines, looks));
    stream::unfold(state, async |state| {
        let (watcher, mut lines, mut looks) = state?;
        match next(&watcher, &mut lines, &mut looks).await {
            Ok(line) => line.map(|line| (line, Some((watcher, lines, looks)))),
            Err(refusal) => {
                watcher.mesh.refused(&refusal);
                Some((ended(), None))
            }
        }
    })
    .boxed()
}

async fn next<M: Mesh>(
    watcher: &Watcher<M>,
    lines: &mut Lines,
    looks: &mut Interval,
) -> Result<Option<Bytes>, Refusal> {
    loop {
        tokio::select! {
            line = lines.next() => return Ok(line),
            _ = looks.tick() => {
                let Watcher { mesh, caller, resource, scope } = watcher;
                match mesh.authorize(caller, "watch", resource, scope).await {
                    Ok(()) | Err(Refusal::NotNow(_)) => {}
                    Err(refusal) => return Err(refusal),
                }
            }
        }
    }
}

/// The last line.
fn ended() -> Bytes {
    let notice = Notice::new("", "you may not see these flows any more, so they end here");
    let mut line = serde_json::to_vec(&notice).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
