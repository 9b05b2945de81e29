//! Waiting for something to become true, with a deadline: stories never sleep for a guessed time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until there is something, and gives it. Errors of a look are not final: what is being waited for may not exist
/// yet. The last of them is in the message when the time is over.
pub fn eventually<T>(
    what: &str,
    within: Duration,
    look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    eventually_every(INTERVAL, what, within, look)
}

/// The same, for looks that cost more than a moment.
pub fn eventually_every<T>(
    interval: Duration,
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            let millis = within.as_millis();
            match last {
                Some(error) => bail!("not within {millis} ms: {what}: {error:#}"),
                None => bail!("not within {millis} ms: {what}"),
            }
        }
        thread::sleep(interval);
    }
}

/// Looks until a condition holds.
pub fn until(what: &str, within: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually(what, within, || Ok(holds()?.then_some(())))
}

/// Looks all the time for as long as given; an error as soon as the condition does not hold.
pub fn always(
    what: &str,
    throughout: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + throughout;
    while Instant::now() < deadline {
        if !holds()? {
            bail!("no longer holds: {what}");
        }
        thread::sleep(INTERVAL);
    }
    Ok(())
}
