//! Which streams of a tunnel have something to do.
//!
//! Every stream has a waker of its own that puts the stream into one queue and wakes the tunnel's task. So a turn costs
//! what is ready, not what is open, and streams take turns in the order in which they became ready.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

/// The queue.
#[derive(Default)]
pub(super) struct ReadyQueue(Arc<Shared>);

#[derive(Default)]
struct Shared(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    streams: VecDeque<u32>,
    task: Option<Waker>,
}

/// The entry of one stream. In the queue at most once.
pub(super) struct Entry {
    shared: Arc<EntryShared>,
    waker: Waker,
}

struct EntryShared {
    stream: u32,
    queued: AtomicBool,
    queue: Arc<Shared>,
}

impl Shared {
    // Wakers must be `Send`, hence a mutex; it is only ever taken on one thread, and so never contended.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadyQueue {
    /// Whom to wake.
    pub(super) fn register(&self, task: &Waker) {
        let mut queue = self.0.lock();
        match &mut queue.task {
            Some(known) => known.clone_from(task),
            none => *none = Some(task.clone()),
        }
    }

    /// An entry for a stream, which is in the queue from the beginning.
    pub(super) fn entry(&self, stream: u32) -> Entry {
        let shared = Arc::new(EntryShared {
            stream,
            queued: AtomicBool::new(false),
            queue: Arc::clone(&self.0),
        });
        let waker = Waker::from(Arc::clone(&shared));
        let entry = Entry { shared, waker };
        entry.push();
        entry
    }

    /// The stream that has waited longest. It must call [`Entry::popped`].
    pub(super) fn pop(&self) -> Option<u32> {
        self.0.lock().streams.pop_front()
    }

    /// How many are waiting.
    pub(super) fn len(&self) -> usize {
        self.0.lock().streams.len()
    }
}

impl Entry {
    /// Puts the stream at the end of the queue, unless it is in it. Does not wake the task: it is running.
    pub(super) fn push(&self) {
        let EntryShared {
            stream,
            queued,
            queue,
        } = &*self.shared;
        if !queued.swap(true, Ordering::AcqRel) {
            queue.lock().streams.push_back(*stream);
        }
    }

    /// The stream was taken out of the queue.
    pub(super) fn popped(&self) {
        self.shared.queued.store(false, Ordering::Release);
    }

    /// Whom to wake for what the stream waits for.
    pub(super) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }
}

impl Wake for EntryShared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let task = {
            let mut queue = self.queue.lock();
            queue.streams.push_back(self.stream);
            queue.task.clone()
        };
        // Outside the lock: waking may run anything.
        if let Some(task) = task {
            task.wake();
        }
    }
}
