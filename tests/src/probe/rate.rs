//! Requests at a fixed rate, whatever becomes of them: how a crash looks to those who keep asking.
//!
//! The rate does not wait for answers ("open loop"): a request that is late is not the reason why others are not made. Each
//! request is a line to an echo server. A connection that the other end has closed between two requests is replaced, as
//! every client that keeps connections does; that is no failure. Failures are errors, wrong answers, and answers that take
//! longer than the patience.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::dial::{Way, connect};
use super::{say, symbol};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom.
    pub to: SocketAddr,
    /// Requests per second, of all connections together.
    pub rate: u32,
    /// Connections.
    pub connections: u32,
    /// For how long.
    pub time: Duration,
    /// How long an answer may take.
    pub patience: Duration,
    /// Every request on a connection of its own.
    pub fresh: bool,
    /// What every request contains.
    pub text: String,
}

/// What became of one request.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// When it was begun, in microseconds of the machine's clock.
    pub begun: u64,
    /// When its answer was there, or its failure.
    pub ended: u64,
    /// It began with a `connect`.
    pub dialled: bool,
    /// Why it failed.
    pub error: Option<String>,
}

impl Request {
    /// How long it took.
    pub fn took(&self) -> Duration {
        Duration::from_micros(self.ended.saturating_sub(self.begun))
    }
}

/// The machine's clock, as requests have it.
pub fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Makes the requests; says what became of each, one per line.
pub fn run(plan: &Plan) {
    let start = Instant::now();
    thread::scope(|scope| {
        for connection in 0..plan.connections {
            scope.spawn(move || line_of_requests(plan, connection, start));
        }
    });
}

/// The requests of one connection: every `connections`-th of all.
fn line_of_requests(plan: &Plan, connection: u32, start: Instant) {
    let mut open: Option<BufReader<TcpStream>> = None;
    for number in 0_u32.. {
        let place = number * plan.connections + connection;
        let due = Duration::from_secs_f64(f64::from(place) / f64::from(plan.rate.max(1)));
        if due >= plan.time {
            return;
        }
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
        if plan.fresh || open.as_ref().is_some_and(is_closed) {
            open = None;
        }
        let mut request = Request {
            begun: now(),
            dialled: open.is_none(),
            ..Request::default()
        };
        match ask(plan, open.take(), place) {
            Ok(connection) => open = Some(connection),
            Err(error) => request.error = Some(symbol(&error)),
        }
        request.ended = now();
        if request.error.is_none() && request.took() > plan.patience {
            request.error = Some("late".to_owned());
        }
        say(&request);
    }
}

/// Whether the other end has closed or reset a connection on which nothing is under way.
fn is_closed(connection: &BufReader<TcpStream>) -> bool {
    let stream = connection.get_ref();
    let closed = stream
        .set_nonblocking(true)
        .and_then(|()| stream.peek(&mut [0]))
        .map_or_else(|error| error.kind() != io::ErrorKind::WouldBlock, |_| true);
    closed || stream.set_nonblocking(false).is_err()
}

fn ask(
    plan: &Plan,
    open: Option<BufReader<TcpStream>>,
    number: u32,
) -> io::Result<BufReader<TcpStream>> {
    let mut connection = match open {
        Some(connection) => connection,
        None => {
            let stream = connect(plan.to, &Way::Plain, b"", plan.patience)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(plan.patience))?;
            BufReader::new(stream)
        }
    };
    let question = format!("{} {number}\n", plan.text);
    connection.get_mut().write_all(question.as_bytes())?;
    let mut answer = String::new();
    if connection.read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if answer != question {
        return Err(io::Error::other("the answer is another one"));
    }
    Ok(connection)
}
