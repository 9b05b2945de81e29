//! Requests at a fixed rate from a place, and what became of each: see [`crate::probe::rate`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::capture::MARKER;
use super::place::Place;
use crate::host::process::Process;
use crate::probe::hold::READY;
use crate::probe::rate::Request;

/// From the last request to the end of the program.
const FAREWELL: Duration = Duration::from_secs(15);

/// Patience with thousands of connections.
const OPENING: Duration = Duration::from_secs(60);

/// A rate of requests.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Per second.
    pub requests: u32,
    /// Over so many connections.
    pub connections: u32,
    /// Every request on a connection of its own.
    pub fresh: bool,
    /// For how long.
    pub time: Duration,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Rate {
    /// 500 requests per second on 64 connections: what crashes are measured with.
    pub fn usual(time: Duration) -> Self {
        Self {
            requests: 500,
            connections: 64,
            fresh: false,
            time,
            patience: Duration::from_secs(1),
        }
    }

    /// New connections, each for one request.
    pub fn of_connections(requests: u32, time: Duration) -> Self {
        Self {
            requests,
            connections: 32,
            fresh: true,
            time,
            patience: Duration::from_secs(1),
        }
    }
}

/// Requests that are being made.
pub struct Asking {
    process: Process,
    time: Duration,
}

impl Place {
    /// Begins to make requests, each with the marker in it.
    pub fn ask(&self, to: SocketAddr, rate: Rate) -> Result<Asking> {
        let Rate {
            requests,
            connections,
            fresh,
            time,
            patience,
        } = rate;
        let words = [
            ("--to", to.to_string()),
            ("--send", MARKER.to_owned()),
            ("--rate", requests.to_string()),
            ("--connections", connections.to_string()),
            ("--millis", time.as_millis().to_string()),
            ("--patience", patience.as_millis().to_string()),
        ];
        let mut launch = self.probe(&["rate"])?;
        for (name, value) in &words {
            launch = launch.args([*name, value.as_str()]);
        }
        if fresh {
            launch = launch.args(["--fresh"]);
        }
        Ok(Asking {
            process: launch.start()?,
            time,
        })
    }
}

impl Place {
    /// Opens connections to an echo server; comes back when all are open. They close when the process ends.
    pub fn hold(&self, to: SocketAddr, connections: u32) -> Result<Process> {
        let process = self
            .probe(&[
                "hold",
                "--to",
                &to.to_string(),
                "--connections",
                &connections.to_string(),
            ])?
            .start()?;
        let line = process.line(OPENING)?;
        if line != READY {
            bail!("holding connections began with {line:?}");
        }
        Ok(process)
    }
}

impl Asking {
    /// Waits for the end; gives what became of each.
    pub fn finish(mut self) -> Result<Requests> {
        let mut requests = Vec::new();
        let patience = self.time + FAREWELL;
        while let Some(line) = self.process.next_line(patience)? {
            let request: Request =
                serde_json::from_str(&line).with_context(|| format!("a request: {line:?}"))?;
            requests.push(request);
        }
        let status = self.process.wait(FAREWELL)?;
        if !status.success() {
            bail!("the program that makes requests failed: {status}");
        }
        requests.sort_by_key(|request| request.begun);
        Ok(Requests(requests))
    }
}

/// What became of requests, in the order in which they were begun.
#[derive(Debug)]
pub struct Requests(Vec<Request>);

impl Requests {
    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Request> {
        self.0.iter().filter(|request| request.error.is_some())
    }

    /// How many failed, by error.
    pub fn errors(&self) -> BTreeMap<&str, usize> {
        let mut errors = BTreeMap::new();
        for error in self.0.iter().filter_map(|request| request.error.as_deref()) {
            *errors.entry(error).or_default() += 1;
        }
        errors
    }

    /// How many were under way at some time between two moments.
    pub fn in_flight(&self, from: u64, to: u64) -> usize {
        self.0
            .iter()
            .filter(|request| request.begun <= to && request.ended >= from)
            .count()
    }

    /// From a moment to the first answer to a request that was begun after it.
    pub fn back_after(&self, moment: u64) -> Option<Duration> {
        self.0
            .iter()
            .filter(|request| request.begun >= moment && request.error.is_none())
            .map(|request| Duration::from_micros(request.ended - moment))
            .min()
    }

    /// The longest time that an answer took.
    pub fn slowest(&self) -> Duration {
        self.0.iter().map(Request::took).max().unwrap_or_default()
    }
}
