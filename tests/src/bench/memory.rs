//! Memory of the proxies: fresh and idle, with idle connections, and after these have gone.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::contender::{Contender, Memory, Variant};
use super::load::hold;

/// Proxies settle: allocators and timers give back what was only needed for a moment.
const SETTLE: Duration = Duration::from_secs(2);

/// Memory of one contender.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// Who.
    pub variant: Variant,
    /// Before the first connection.
    pub idle: Memory,
    /// With so many idle connections.
    pub held: Vec<(u32, Memory)>,
    /// A while after they were closed.
    pub after: Memory,
}

/// Measures all of them, one after the other; must come before any load. `rest` is how long proxies have after the
/// connections closed.
pub fn measure(contenders: &[Contender], counts: &[u32], rest: Duration) -> Result<Vec<Profile>> {
    let mut profiles = Vec::new();
    for contender in contenders {
        let variant = contender.variant;
        let Some(idle) = contender.memory()? else {
            continue;
        };
        eprintln!("bench: memory of {variant}");
        let (mut held, mut open, mut holders) = (Vec::new(), 0, Vec::new());
        for count in counts {
            let holder = hold::start(&contender.client, contender.http, count - open)
                .with_context(|| format!("{variant}: hold {count} connections"))?;
            holders.push(holder);
            open = *count;
            thread::sleep(SETTLE);
            held.push((open, contender.memory()?.unwrap_or_default()));
        }
        profiles.push(Profile {
            variant,
            idle,
            held,
            after: idle,
        });
        // Ends the connections.
        drop(holders);
    }
    eprintln!("bench: {} s for giving memory back", rest.as_secs());
    thread::sleep(rest);
    for profile in &mut profiles {
        let contender = contenders
            .iter()
            .find(|contender| contender.variant == profile.variant);
        if let Some(memory) = contender.map(Contender::memory).transpose()?.flatten() {
            profile.after = memory;
        }
    }
    Ok(profiles)
}

impl Profile {
    /// What one idle connection costs the more expensive of the two proxies, in KiB, at the largest number measured.
    pub fn per_connection(&self) -> Option<f64> {
        let (count, with) = self.held.last()?;
        let grown = |with: u64, idle: u64| with.saturating_sub(idle) as f64 / f64::from(*count);
        Some(grown(with.client, self.idle.client).max(grown(with.server, self.idle.server)))
    }

    /// How much of what the connections took was not given back, of the more expensive proxy.
    pub fn kept(&self) -> Option<f64> {
        let (_, with) = self.held.last()?;
        let kept = |with: u64, idle: u64, after: u64| {
            after.saturating_sub(idle) as f64 / with.saturating_sub(idle).max(1) as f64
        };
        Some(
            kept(with.client, self.idle.client, self.after.client).max(kept(
                with.server,
                self.idle.server,
                self.after.server,
            )),
        )
    }
}
