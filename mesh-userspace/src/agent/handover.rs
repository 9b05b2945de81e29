//! From one agent of a node to the next, also when both are there: during an update a cluster starts the new one beside the
//! old.
//!
//! ```text
//!   old   serves ──────────────► leaves (its worker goes on) ──► stands by ──► ends when it is told to
//!                 "hand over"  ▲                                     │  or begins anew, when the
//!   new   prepares ────────────┘  takes the node ──► serves          ▼  node is nobody's for long
//! ```
//! So an update to a release that cannot run leaves the node with the agent that could.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::AgentError;
use super::run_dir::RunDir;
use crate::api::SOCKET_NAME;
use crate::api::server::{ANNOUNCE, HAND_OVER};
use crate::cni::agent;

/// How long another agent may take to leave: it hands its worker sockets first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// How often one that stands by looks whether the node is anybody's.
const WATCH: Duration = Duration::from_secs(1);

/// A node that is nobody's for so long has no other agent. One that is started again takes less.
const ABANDONED: Duration = Duration::from_secs(15);

/// That this agent is about to take the node over: the other one says it is not ready while this is held, since whoever
/// asks after the readiness of this one's pod is answered by the other one until then.
pub(super) struct Announced(#[expect(dead_code, reason = "it is held")] UnixStream);

/// Announces this agent to the one that has the node.
pub(super) fn announce(run_dir: &Path) -> Option<Announced> {
    let mut stream = UnixStream::connect(run_dir.join(SOCKET_NAME)).ok()?;
    let request = format!("POST {ANNOUNCE} HTTP/1.1\r\nhost: warren\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    Some(Announced(stream))
}

/// Takes the run directory; from another agent, if need be.
pub(super) async fn take(path: &Path) -> Result<RunDir, AgentError> {
    let begun = Instant::now();
    let mut asked = false;
    loop {
        match RunDir::take(path) {
            Err(AgentError::Running { path }) if begun.elapsed() < PATIENCE => {
                if !asked {
                    asked = ask(&path).await;
                }
                tokio::time::sleep(LOOK).await;
            }
            other => return other,
        }
    }
}

/// Asks the agent for the node; `true`: it leaves it.
async fn ask(run_dir: &Path) -> bool {
    let socket = run_dir.join(SOCKET_NAME);
    let asking =
        tokio::task::spawn_blocking(move || agent::ask::<()>(&socket, HAND_OVER, &(), PATIENCE));
    match asking.await {
        Ok(Ok(())) => {
            tracing::info!("the agent before this one hands the node over");
            true
        }
        Ok(Err(error)) => {
            tracing::info!(%error, "another agent has this node, and does not hand it over yet");
            false
        }
        Err(error) => {
            tracing::error!(%error, "the other agent was not asked");
            false
        }
    }
}

/// What one that handed its node over does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// It was told to.
    End,
    /// The node is nobody's.
    Begin,
}

/// Waits until it is told to end, or the node has been nobody's for long.
pub(super) async fn stand_by(run_dir: &Path) -> Result<Next, AgentError> {
    tracing::info!("handed the node over; standing by until told to end");
    let failed = |source| AgentError::System {
        step: "cannot watch for signals",
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut free_since: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(Next::End),
            _ = interrupt.recv() => return Ok(Next::End),
            () = tokio::time::sleep(WATCH) => {}
        }
        match RunDir::is_free(run_dir) {
            true => {
                let since = *free_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= ABANDONED {
                    tracing::warn!("the agent that took over is gone; beginning anew");
                    return Ok(Next::Begin);
                }
            }
            false => free_since = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_directory_is_taken_as_soon_as_its_agent_has_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = RunDir::take(folder.path()).expect("free");
        assert!(!RunDir::is_free(folder.path()));
        let path = folder.path().to_owned();
        let taking = tokio::spawn(async move { take(&path).await.map(drop) });
        tokio::time::sleep(LOOK * 4).await;
        assert!(!taking.is_finished(), "it is held");
        drop(held);
        taking.await.expect("ended").expect("taken");
        assert!(RunDir::is_free(folder.path()));
    }

    #[tokio::test]
    async fn an_agent_is_not_ready_while_the_next_one_is_about_to_take_over() {
        let folder = tempfile::tempdir().expect("a folder");
        let (commands, _asked) = tokio::sync::mpsc::channel(1);
        let flows = std::sync::Arc::new(crate::agent::flows::Flows::new("a"));
        let view = crate::agent::view::View::new("a", "a source", flows, commands);
        let view = std::sync::Arc::new(view);
        let listener = crate::api::server::listen(&folder.path().join(SOCKET_NAME));
        let listener = listener.expect("a socket");
        tokio::spawn(crate::api::server::serve(
            listener,
            std::sync::Arc::clone(&view),
        ));
        let says = async |expected: bool| {
            let begun = Instant::now();
            loop {
                let missing = view.not_ready();
                if missing.iter().any(|why| why.contains("next agent")) == expected {
                    return;
                }
                assert!(begun.elapsed() < Duration::from_secs(5), "{missing:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        says(false).await;
        let announced = announce(folder.path()).expect("somebody is there");
        says(true).await;
        // One that dies on the way has hung up, too.
        drop(announced);
        says(false).await;
        assert!(announce(&folder.path().join("nowhere")).is_none());
    }
}
