//! When a certificate is renewed, given now and its validity: at half life, with jitter, so that nodes do not come at once.

use std::time::{Duration, SystemTime};

/// When to renew a certificate that is valid from `not_before` until `not_after`. `jitter` is uniform in 0..=u64::MAX and
/// moves the moment by up to a tenth of the lifetime, earlier or later.
///
/// A validity that ends before it begins is renewed at its beginning: at once, in practice.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, jitter: u64) -> SystemTime {
    let lifetime = not_after
        .duration_since(not_before)
        .unwrap_or(Duration::ZERO);
    let tenth = lifetime / 10;
    // From 4/10 to 6/10 of the lifetime.
    let moved = tenth.mul_f64(2.0 * jitter as f64 / u64::MAX as f64);
    not_before + tenth * 4 + moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renews_around_half_life() {
        let day = Duration::from_secs(86_400);
        let check = |lifetime: Duration, jitter: u64, expected: Duration| {
            let begin = SystemTime::UNIX_EPOCH + day;
            let after = renew_at(begin, begin + lifetime, jitter)
                .duration_since(begin)
                .expect("never before it is valid");
            assert!(
                after.abs_diff(expected) <= Duration::from_millis(1),
                "{lifetime:?} {jitter}: {after:?}, not {expected:?}"
            );
        };
        check(day, 0, day * 4 / 10);
        check(day, u64::MAX / 2, day / 2);
        check(day, u64::MAX, day * 6 / 10);
        check(
            Duration::from_secs(10),
            u64::MAX / 2,
            Duration::from_secs(5),
        );
        check(Duration::ZERO, u64::MAX, Duration::ZERO);
    }

    #[test]
    fn an_inverted_validity_is_renewed_at_once() {
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let end = SystemTime::UNIX_EPOCH;
        assert_eq!(renew_at(begin, end, u64::MAX), begin);
    }
}
