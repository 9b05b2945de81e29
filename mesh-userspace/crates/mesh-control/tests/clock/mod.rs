//! Time as tests of cost measure it.

use std::time::Duration;

/// Time that this thread has spent computing: what else the machine does is not counted.
fn computed() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux kernel");
    let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

/// What a computation costs: the least of a few goes, since a machine that halts counts as computing, but not each time.
pub(crate) fn cost(mut compute: impl FnMut()) -> Duration {
    let goes = (0..3).map(|_| {
        let begun = computed();
        compute();
        computed() - begun
    });
    goes.min().unwrap_or_default()
}
