//! How work comes to an end: stop accepting, serve what has arrived, wait, cut at the deadline.
//! One token for the worker and one per workload say how far that is; whoever does work holds a share of its workload.

use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long connections may go on after a SIGTERM that no agent explained.
pub(crate) const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);

/// Whether the worker stops. Made once; every thread looks at it.
#[derive(Debug)]
pub(crate) struct Drain(watch::Sender<Option<Instant>>);

impl Drain {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Begins to stop. A second call may only bring the deadline forward: nobody waits longer than once promised.
    pub(crate) fn begin(&self, deadline: Duration) {
        let deadline = Instant::now() + deadline;
        self.0.send_if_modified(|current| {
            let sooner = current.is_none_or(|current| deadline < current);
            if sooner {
                *current = Some(deadline);
            }
            sooner
        });
    }

    /// Waits until the worker begins to stop.
    pub(crate) async fn begun(&self) {
        let mut changes = self.0.subscribe();
        // The sender lives as long as `self`.
        drop(changes.wait_for(Option::is_some).await);
    }

    /// Waits until the deadline has passed, whichever it then is.
    pub(crate) async fn expired(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let deadline = *changes.borrow_and_update();
            match deadline {
                None => drop(changes.changed().await),
                Some(deadline) => tokio::select! {
                    () = tokio::time::sleep_until(deadline) => return,
                    changed = changes.changed() => drop(changed),
                },
            }
        }
    }
}

/// The end of one workload: its listeners and connections hold shares, the last one out says so.
pub(crate) struct Leaving {
    shares: AtomicUsize,
    leaving: watch::Sender<bool>,
    gone: watch::Sender<bool>,
    /// Told exactly once.
    told: AtomicBool,
    tell: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaving")
            .field("shares", &self.shares)
            .field("has_begun", &self.has_begun())
            .finish_non_exhaustive()
    }
}

impl Leaving {
    /// `tell` is called once, when the workload has left and nothing of it is under way.
    pub(crate) fn new(tell: impl FnOnce() + Send + 'static) -> Self {
        Self {
            shares: AtomicUsize::new(0),
            leaving: watch::Sender::new(false),
            gone: watch::Sender::new(false),
            told: AtomicBool::new(false),
            tell: Mutex::new(Some(Box::new(tell))),
        }
    }

    /// Begins to leave.
    pub(crate) fn begin(&self) {
        self.leaving.send_replace(true);
        self.tell_when_gone();
    }

    /// Whether it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        *self.leaving.borrow()
    }

    /// Waits until it begins.
    pub(crate) async fn begun(&self) {
        drop(self.leaving.subscribe().wait_for(|begun| *begun).await);
    }

    /// Waits until nothing of the workload is under way any more.
    pub(crate) async fn finished(&self) {
        drop(self.gone.subscribe().wait_for(|gone| *gone).await);
    }

    /// Takes a share.
    pub(crate) fn enter(&self) {
        self.shares.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives it back.
    pub(crate) fn exit(&self) {
        if self.shares.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.tell_when_gone();
        }
    }

    fn tell_when_gone(&self) {
        if !self.has_begun() || self.shares.load(Ordering::Acquire) != 0 {
            return;
        }
        if !self.told.swap(true, Ordering::AcqRel) {
            self.gone.send_replace(true);
            let tell = self
                .tell
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(tell) = tell {
                tell();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_second_drain_only_brings_the_deadline_forward() {
        let drain = Arc::new(Drain::new());
        let began = Instant::now();
        drain.begin(Duration::from_secs(10));
        drain.begun().await;
        drain.begin(Duration::from_secs(60));
        let waiting = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.expired().await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        drain.begin(Duration::from_millis(100));
        waiting.await.unwrap();
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(150) && took < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn the_last_one_out_tells_once_and_only_when_leaving() {
        let told = Arc::new(AtomicUsize::new(0));
        let leaving = Leaving::new({
            let told = Arc::clone(&told);
            move || {
                told.fetch_add(1, Ordering::Relaxed);
            }
        });
        leaving.enter();
        leaving.exit();
        assert_eq!(told.load(Ordering::Relaxed), 0);
        leaving.enter();
        leaving.enter();
        leaving.begin();
        leaving.exit();
        assert_eq!(told.load(Ordering::Relaxed), 0);
        leaving.exit();
        leaving.finished().await;
        leaving.begin();
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}
