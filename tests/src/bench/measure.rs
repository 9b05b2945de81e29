//! What is measured of one contender in one round.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};

use super::contender::{Contender, Variant};
use super::load::wrk::{self, Amount};
use super::load::{fetch, flood};

/// Figures by name.
pub type Sample = BTreeMap<&'static str, f64>;

/// Connections at the same time where each request has one of its own.
const PARALLEL: u32 = 16;

/// One kind of work.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Measure {
    /// HTTP/1.1 requests on so many connections that stay.
    Requests(u32),
    /// HTTP/1.1 requests with a connection of their own.
    NewConnections,
    /// Bytes on so many streams, client to server.
    Bulk(u32),
    /// A file of 10 MiB, server to client, one connection.
    File,
}

impl Measure {
    /// What it says, in words.
    pub fn title(self) -> String {
        match self {
            Self::Requests(1) => "HTTP/1.1 keep-alive, 1 connection".to_owned(),
            Self::Requests(count) => format!("HTTP/1.1 keep-alive, {count} connections"),
            Self::NewConnections => format!("a new connection per request, {PARALLEL} at a time"),
            Self::Bulk(1) => "bulk, 1 stream".to_owned(),
            Self::Bulk(count) => format!("bulk, {count} streams"),
            Self::File => "a file of 10 MiB, 1 connection".to_owned(),
        }
    }

    /// Does the work once and gives the figures.
    pub fn run(self, contender: &Contender, seconds: u32, folder: &Path) -> Result<Sample> {
        let (before, agents_before) = (contender.cpu()?, contender.agents_cpu()?);
        let client = &contender.client;
        let requests = |connections, close| {
            wrk::run(
                client,
                contender.http,
                folder,
                Amount {
                    connections,
                    seconds,
                    close,
                },
            )
        };
        let (mut sample, work): (Sample, Work) = match self {
            Self::Requests(connections) => {
                let seen = requests(connections, false)?;
                ensure!(seen.errors == 0, "{} requests failed", seen.errors);
                (
                    Sample::from([
                        ("requests/s", rate(&seen)),
                        ("p50 µs", seen.p50 as f64),
                        ("p99 µs", seen.p99 as f64),
                        ("p99.9 µs", seen.p999 as f64),
                    ]),
                    Work::Requests(seen.requests),
                )
            }
            Self::NewConnections => {
                let seen = requests(PARALLEL, true)?;
                ensure!(seen.errors == 0, "{} connections failed", seen.errors);
                (
                    Sample::from([("connections/s", rate(&seen)), ("p50 µs", seen.p50 as f64)]),
                    Work::Requests(seen.requests),
                )
            }
            Self::Bulk(streams) => {
                let seen = flood::run(client, contender.bulk, streams, seconds)?;
                let sample = Sample::from([("Gbit/s", gigabits(seen.bytes, seen.seconds))]);
                (sample, Work::Bytes(seen.bytes))
            }
            Self::File => {
                let seen = fetch::run(client, contender.http, seconds)?;
                (
                    Sample::from([
                        ("Gbit/s", gigabits(seen.bytes, seen.seconds)),
                        ("p50 ms", seen.p50_ms),
                        ("p99 ms", seen.p99_ms),
                    ]),
                    Work::Bytes(seen.bytes),
                )
            }
        };
        if contender.variant != Variant::Direct {
            let used = contender.cpu()? - before;
            let (total, user) = work.names();
            sample.insert(total, used.total() / work.units());
            sample.insert(user, used.user / work.units());
            if let Some((before, after)) = agents_before.zip(contender.agents_cpu()?) {
                sample.insert("of it agents", (after - before).total() / work.units());
            }
        }
        Ok(sample)
    }
}

/// What CPU time is divided by.
enum Work {
    Requests(u64),
    Bytes(u64),
}

impl Work {
    fn units(&self) -> f64 {
        match self {
            Self::Requests(count) => *count as f64 / 100_000.0,
            Self::Bytes(count) => *count as f64 / 1e9,
        }
    }

    fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::Requests(_) => ("CPU s/100k", "of it user"),
            Self::Bytes(_) => ("CPU s/GB", "of it user"),
        }
    }
}

fn rate(seen: &wrk::Seen) -> f64 {
    seen.requests as f64 / (seen.micros as f64 / 1e6)
}

fn gigabits(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 * 8.0 / 1e9 / seconds
}

/// As it is named on the command line and in the file.
impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests(connections) => write!(f, "requests-{connections}"),
            Self::NewConnections => f.write_str("new-connections"),
            Self::Bulk(streams) => write!(f, "bulk-{streams}"),
            Self::File => f.write_str("file"),
        }
    }
}
