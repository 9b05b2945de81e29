//! Looks every few seconds whether the kernel half is where it was put, puts back what is not, and says so.

use std::time::{Duration, Instant};

use mesh_kernel::Kernel;

use super::supervise::chain;

/// A program that somebody removes is back within this.
const INTERVAL: Duration = Duration::from_secs(5);

/// The watchdog.
#[derive(Debug)]
pub(crate) struct Watchdog {
    looked_at: Instant,
}

/// What a look found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Faults that were repaired.
    pub(crate) repaired: u64,
    /// Those that could not be, in words.
    pub(crate) left: Vec<String>,
}

impl Watchdog {
    /// Begins now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { looked_at: now }
    }

    /// Looks, when it is time.
    pub(crate) fn look(&mut self, now: Instant, kernel: &mut Kernel) -> Option<Found> {
        if now.duration_since(self.looked_at) < INTERVAL {
            return None;
        }
        self.looked_at = now;
        let mut found = Found::default();
        for fault in kernel.verify() {
            match kernel.repair(&fault) {
                Ok(()) => {
                    tracing::error!(%fault, "somebody took away a part of the mesh; it was put back");
                    found.repaired += 1;
                }
                Err(error) => {
                    tracing::error!(%fault, error = chain(&error), "a part of the mesh is missing and cannot be put back");
                    found.left.push(format!("{fault}: {}", chain(&error)));
                }
            }
        }
        Some(found)
    }
}
