//! Load at a given pace, as real clients make it: requests over kept connections, and new connections beside them. What
//! matters is that none fails, not how fast they are.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::dial::{Way, connect};
use super::symbol;

/// Patience with one step.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is sent and echoed.
const WORDS: &[u8] = b"GET /a/thing/of/some/length HTTP/1.1\r\nHost: web.shop\r\n\r\n";

/// Threads that make new connections.
const DIALLERS: u32 = 4;

/// How much.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Requests per second, over all kept connections.
    pub requests: u32,
    /// Kept connections.
    pub kept: u32,
    /// Kept connections are closed and made again after this time; never, when absent.
    pub age: Option<Duration>,
    /// New connections per second, each with one request.
    pub connections: u32,
    /// For how long, unless told to stop.
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Paced {
    /// Requests answered.
    pub requests: u64,
    /// New connections that were answered and closed in order.
    pub connections: u64,
    /// What failed, by step and error.
    pub errors: BTreeMap<String, u64>,
    /// When the first failure happened, after the start.
    pub first_error_millis: Option<u64>,
    /// The longest time that a request took.
    pub slowest_micros: u64,
    /// How long it went on.
    pub millis: u64,
}

impl Paced {
    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

struct Run<'a> {
    to: SocketAddr,
    began: Instant,
    stop: &'a AtomicBool,
    time: Duration,
    result: Mutex<Paced>,
}

/// Makes the load; ends early when `stop` says so.
pub fn run(to: SocketAddr, plan: Plan, stop: &AtomicBool) -> Paced {
    let run = Run {
        to,
        began: Instant::now(),
        stop,
        time: plan.time,
        result: Mutex::default(),
    };
    thread::scope(|scope| {
        for _ in 0..plan.kept {
            scope.spawn(|| run.keep(every(plan.requests, plan.kept), plan.age));
        }
        if plan.connections > 0 {
            for _ in 0..DIALLERS {
                scope.spawn(|| run.dial(every(plan.connections, DIALLERS)));
            }
        }
    });
    let mut result = run
        .result
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    result.millis = millis(run.began.elapsed());
    result
}

/// The time between two steps of one thread of several.
fn every(per_second: u32, threads: u32) -> Duration {
    Duration::from_secs(1) * threads / per_second.max(1)
}

impl Run<'_> {
    /// Requests over one kept connection; after a failure over another.
    fn keep(&self, pause: Duration, age: Option<Duration>) {
        let mut kept: Option<(TcpStream, Instant)> = None;
        while self.goes_on() {
            let step = Instant::now();
            if let Some((_, born)) = &kept
                && age.is_some_and(|age| born.elapsed() > age)
            {
                kept = None;
            }
            if kept.is_none() {
                kept = self
                    .count("connect", self.connect())
                    .map(|stream| (stream, Instant::now()));
            }
            if let Some((stream, _)) = &mut kept {
                match self.count("request on a kept connection", request(stream)) {
                    Some(()) => self.answered(step),
                    None => kept = None,
                }
            }
            rest(step, pause);
        }
    }

    /// New connections, each with one request.
    fn dial(&self, pause: Duration) {
        while self.goes_on() {
            let step = Instant::now();
            let made = self.connect().and_then(|mut stream| {
                request(&mut stream)?;
                finish(stream)
            });
            if self.count("new connection", made).is_some() {
                self.result().connections += 1;
            }
            rest(step, pause);
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = connect(self.to, &Way::Plain, b"", PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.began.elapsed() < self.time
    }

    fn answered(&self, since: Instant) {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut result = self.result();
        result.requests += 1;
        result.slowest_micros = result.slowest_micros.max(micros);
    }

    fn count<T>(&self, step: &str, done: io::Result<T>) -> Option<T> {
        done.map_err(|error| {
            let after = millis(self.began.elapsed());
            let mut result = self.result();
            result.first_error_millis.get_or_insert(after);
            *result
                .errors
                .entry(format!("{step}: {}", symbol(&error)))
                .or_default() += 1;
        })
        .ok()
    }

    fn result(&self) -> std::sync::MutexGuard<'_, Paced> {
        self.result.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn request(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(WORDS)?;
    let mut answer = vec![0; WORDS.len()];
    stream.read_exact(&mut answer)?;
    if answer != WORDS {
        return Err(io::Error::other("another answer"));
    }
    Ok(())
}

/// Closes in order: the other side's end must come, too.
fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than was asked for")),
    }
}

fn rest(since: Instant, pause: Duration) {
    thread::sleep(pause.saturating_sub(since.elapsed()));
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
