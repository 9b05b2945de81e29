//! What processes use: CPU time by cgroup, resident memory by process.

use std::fs;
use std::ops::Sub;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};

/// CPU time in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuTime {
    /// In programs.
    pub user: f64,
    /// In the kernel on their behalf. A send carries the receive path of the next namespaces with it.
    pub system: f64,
}

impl CpuTime {
    /// Both together.
    pub fn total(self) -> f64 {
        self.user + self.system
    }

    /// What everything in a cgroup and below it has used so far.
    pub(super) fn of_cgroup(path: &Path) -> Result<Self> {
        let path = path.join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let seconds = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok())
                .map(|micros| micros / 1e6)
                .ok_or_else(|| anyhow!("{} has no {name}", path.display()))
        };
        Ok(Self {
            user: seconds("user_usec ")?,
            system: seconds("system_usec ")?,
        })
    }
}

impl Sub for CpuTime {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            user: self.user - before.user,
            system: self.system - before.system,
        }
    }
}

impl std::iter::Sum for CpuTime {
    fn sum<I: Iterator<Item = Self>>(times: I) -> Self {
        times.fold(Self::default(), |sum, next| Self {
            user: sum.user + next.user,
            system: sum.system + next.system,
        })
    }
}
