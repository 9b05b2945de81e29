//! What a server counts, for metrics and for whoever looks for an attacker.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Numbers at one moment; each only grows.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// Counts what a server does.
        #[derive(Debug, Default)]
        pub struct Tally {
            $(pub(super) $name: AtomicU64,)*
        }

        impl Tally {
            /// The numbers now.
            pub fn counts(&self) -> Counts {
                Counts {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

tally! {
    /// Connections that were accepted.
    connections,
    /// Handshakes that failed, took too long, or showed a certificate of nobody known.
    handshakes_failed,
    /// Connections that were closed at once: too many without an identity, or too many of one node.
    turned_away,
    /// Nodes that got a certificate.
    enrolled,
    /// Enrolments that were refused.
    enrolments_refused,
    /// Certificates that nodes got for their workloads.
    signed,
    /// Requests for such certificates that were refused.
    signings_refused,
    /// Questions for pods.
    pods_looked_up,
    /// Calls that the caller's identity does not allow.
    calls_refused,
}

/// Counts one more.
pub(super) fn count(number: &AtomicU64) {
    number.fetch_add(1, Ordering::Relaxed);
}
