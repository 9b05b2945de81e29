//! Asks the node's agent: one HTTP request over its socket, without a runtime.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An answer is one short object.
const LARGEST: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// No agent listens.
    Absent(io::Error),
    /// It says no.
    Refused(String),
    /// It is there, but does not answer, or not so that it is understood.
    Silent(String),
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(error) => write!(f, "no agent runs on this node ({error})"),
            Self::Refused(why) => f.write_str(why),
            Self::Silent(why) => write!(f, "the agent does not answer ({why})"),
        }
    }
}

/// A problem, as the node API tells it.
#[derive(serde::Deserialize)]
struct Problem {
    message: String,
}

/// Asks, and waits for the answer at most so long.
pub(crate) fn ask<T: DeserializeOwned>(
    agent: &Path,
    path: &str,
    question: &impl Serialize,
    within: Duration,
) -> Result<T, Unanswered> {
    let deadline = Instant::now() + within;
    let silent = |error: io::Error| Unanswered::Silent(error.to_string());
    let body = serde_json::to_vec(question).map_err(|error| silent(error.into()))?;
    let mut stream = connect(agent, within).map_err(Unanswered::Absent)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: warren\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    // An agent that ends in the middle of it is absent, too: the next one can be asked the same.
    stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(&body))
        .map_err(Unanswered::Absent)?;
    let answer = match read(&mut stream, deadline) {
        Ok(answer) if answer.is_empty() => {
            return Err(Unanswered::Absent(io::ErrorKind::UnexpectedEof.into()));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            return Err(Unanswered::Absent(error));
        }
        other => other.map_err(silent)?,
    };
    let (status, body) = split(&answer)
        .ok_or_else(|| Unanswered::Silent("its answer is not understood".to_owned()))?;
    if status == 200 {
        return serde_json::from_slice(body).map_err(|error| silent(error.into()));
    }
    Err(match serde_json::from_slice::<Problem>(body) {
        // An agent of another version, perhaps in the middle of an upgrade.
        _ if status == 404 => Unanswered::Silent("it is of another version".to_owned()),
        Ok(problem) => Unanswered::Refused(problem.message),
        Err(_) => Unanswered::Silent(format!("HTTP status {status}")),
    })
}

/// The standard library's way to connect waits for ever where an agent hangs.
fn connect(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let socket = socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let limit = TimeVal::new(
        i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
        i64::from(within.subsec_micros().max(1)),
    );
    socket::setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

fn read(stream: &mut UnixStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > LARGEST {
            return Err(io::Error::other("its answer does not end"));
        }
    }
}

/// Status and body of an answer that was read to its end. The agent answers whole objects, never in chunks.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}
