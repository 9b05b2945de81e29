//! Many connections, a few at a time, and a count of what came of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::dial::{Ending, Way, dial};

/// What came of them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Count {
    /// Connections made in order.
    pub done: u64,
    /// Connections that failed, by error.
    pub errors: BTreeMap<String, u64>,
    /// Answers, by text.
    pub answers: BTreeMap<String, u64>,
    /// The longest time from the start of `connect` to the first byte.
    pub slowest_micros: u64,
}

impl Count {
    /// Connections that failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Connections in all; 0 for as many as fit in the time.
    pub connections: u64,
    /// At the same time.
    pub parallel: usize,
    /// Ends after this time at the latest.
    pub within: Duration,
}

/// Makes the connections; each says `text` and reads the answer to its end. No answer at all is an error.
pub fn run(to: SocketAddr, way: &Way, text: &str, ending: Ending, amount: Amount) -> Count {
    let deadline = Instant::now() + amount.within;
    let begun = AtomicU64::new(0);
    let count = Mutex::new(Count::default());
    thread::scope(|scope| {
        for _ in 0..amount.parallel.max(1) {
            scope.spawn(|| {
                while Instant::now() < deadline {
                    let number = begun.fetch_add(1, Ordering::Relaxed);
                    if amount.connections > 0 && number >= amount.connections {
                        return;
                    }
                    let report = dial(to, way, text.as_bytes(), ending, Duration::from_secs(10));
                    let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
                    let error = report
                        .error
                        .or_else(|| report.received.is_empty().then(|| "no answer".to_owned()));
                    if let Some(error) = error {
                        *count.errors.entry(error).or_default() += 1;
                    } else {
                        count.done += 1;
                        *count.answers.entry(report.received).or_default() += 1;
                        count.slowest_micros = count.slowest_micros.max(report.first_byte_micros);
                    }
                }
            });
        }
    });
    count.into_inner().unwrap_or_else(PoisonError::into_inner)
}
