//! Load from a pod, with exact counts: `warren-probe pace` in a pod that has the image [`super::images::PROBE`].

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::kubectl::Kubectl;
use crate::host::process::Process;
use crate::probe::pace::Paced;

/// Requests that were under way when it was told to stop.
const FAREWELL: Duration = Duration::from_secs(20);

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests per second, over all kept connections.
    pub requests: u32,
    /// Kept connections.
    pub kept: u32,
    /// Kept connections are closed and made again after this time; never, when absent.
    pub age: Option<Duration>,
    /// New connections per second, each with one request.
    pub connections: u32,
}

impl Pace {
    /// 100 requests per second on 4 kept connections, and 20 new connections per second beside them.
    pub const GENTLE: Self = Self {
        requests: 100,
        kept: 4,
        age: None,
        connections: 20,
    };
}

/// Load that is being made.
#[derive(Debug)]
pub struct Load {
    process: Process,
}

impl Load {
    /// Begins; the longest time is a bound for when nobody tells it to stop. The other end must echo.
    pub fn start(
        kubectl: &Kubectl,
        pod: &str,
        to: SocketAddr,
        pace: Pace,
        longest: Duration,
    ) -> Result<Self> {
        let Pace {
            requests,
            kept,
            age,
            connections,
        } = pace;
        let mut words: Vec<String> = ["exec", "--stdin", pod, "--", "warren-probe", "pace"]
            .map(str::to_owned)
            .to_vec();
        let numbers = [
            ("requests", u128::from(requests)),
            ("kept", u128::from(kept)),
            ("connections", u128::from(connections)),
            ("millis", longest.as_millis()),
        ];
        words.push(format!("--to={to}"));
        words.extend(numbers.map(|(name, value)| format!("--{name}={value}")));
        words.extend(age.map(|age| format!("--age={}", age.as_millis())));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let process = kubectl.start(&words)?;
        Ok(Self { process })
    }

    /// Whether it still goes on: it ends early when the pod does.
    pub fn goes_on(&mut self) -> Result<bool> {
        self.process.is_running()
    }

    /// Ends it; gives the counts.
    pub fn stop(mut self) -> Result<Paced> {
        self.process.tell("stop")?;
        self.count(FAREWELL)
    }

    /// Waits until its time is over; gives the counts.
    pub fn finish(self, within: Duration) -> Result<Paced> {
        self.count(within)
    }

    fn count(mut self, within: Duration) -> Result<Paced> {
        let line = self.process.line(within)?;
        let paced = serde_json::from_str(&line)
            .with_context(|| format!("read the counts of the load: {line:?}"))?;
        self.process.wait(FAREWELL)?;
        Ok(paced)
    }
}
