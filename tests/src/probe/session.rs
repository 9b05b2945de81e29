//! A client that is told what to do, line by line, and answers each line: for stories in which the order of things matters.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::dial::{Way, connect};
use super::pattern::Pattern;
use super::{say, symbol};

/// What a session answers.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    /// The error, e.g. `ECONNRESET`; absent when it went well.
    pub error: Option<String>,
    /// Its own address, after connecting.
    pub local: Option<SocketAddr>,
    /// The other end, after connecting.
    pub peer: Option<SocketAddr>,
    /// Text that was received.
    pub text: String,
    /// Bytes moved.
    pub bytes: u64,
    /// Whether received bytes were those of the pattern.
    pub intact: bool,
    /// The other end has finished.
    pub end: bool,
    /// How long it took.
    pub micros: u64,
}

struct Session {
    stream: TcpStream,
    pattern: Pattern,
    sent: u64,
    received: u64,
}

/// Connects, then does what standard input says until it ends.
pub fn run(to: SocketAddr, way: &Way, patience: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let stream = match connect(to, way, b"", patience) {
        Ok(stream) => stream,
        Err(error) => {
            say(&Answer {
                error: Some(symbol(&error)),
                micros: micros(started),
                ..Answer::default()
            });
            return Ok(());
        }
    };
    stream.set_nodelay(true)?;
    say(&Answer {
        local: stream.local_addr().ok(),
        peer: stream.peer_addr().ok(),
        micros: micros(started),
        ..Answer::default()
    });
    let mut session = Session {
        stream,
        pattern: Pattern::default(),
        sent: 0,
        received: 0,
    };
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (word, value) = line.split_once(' ').unwrap_or((&line, ""));
        let started = Instant::now();
        let mut answer = Answer::default();
        if let Err(error) = session.obey(word, value, patience, &mut answer) {
            answer.error = Some(symbol(&error));
        }
        answer.micros = micros(started);
        say(&answer);
    }
    Ok(())
}

impl Session {
    fn obey(
        &mut self,
        word: &str,
        value: &str,
        patience: Duration,
        answer: &mut Answer,
    ) -> io::Result<()> {
        match word {
            // Sends a line of text.
            "say" => self.stream.write_all(format!("{value}\n").as_bytes()),
            // Receives text up to and with a line feed.
            "line" => self.line(patience_or(value, patience), answer),
            // Sends so many bytes of the pattern; stops early when the other end does not read for so long.
            "send" => self.send(number(value)?, patience, answer),
            // Receives so many bytes of the pattern, at most.
            "receive" => self.receive(number(value)?, patience, answer),
            // Finishes sending.
            "finish" => self.stream.shutdown(Shutdown::Write),
            // Reads to the end, which must come.
            "end" => self.end(patience_or(value, patience), answer),
            // Resets the connection.
            "reset" => {
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                std::process::exit(0);
            }
            _ => Err(io::Error::other(format!("{word:?} is no command"))),
        }
    }

    fn line(&mut self, patience: Duration, answer: &mut Answer) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        let mut byte = [0];
        loop {
            if self.stream.read(&mut byte)? == 0 {
                answer.end = true;
                return Ok(());
            }
            if byte[0] == b'\n' {
                return Ok(());
            }
            answer.text.push(char::from(byte[0]));
        }
    }

    fn send(&mut self, wanted: u64, patience: Duration, answer: &mut Answer) -> io::Result<()> {
        self.stream.set_write_timeout(Some(patience))?;
        while answer.bytes < wanted {
            let length = usize::try_from(wanted - answer.bytes)
                .unwrap_or(usize::MAX)
                .min(262_144);
            let count = self.stream.write(self.pattern.at(self.sent, length))?;
            self.sent += count as u64;
            answer.bytes += count as u64;
        }
        Ok(())
    }

    fn receive(&mut self, wanted: u64, patience: Duration, answer: &mut Answer) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        let mut buffer = vec![0; 262_144];
        answer.intact = true;
        while answer.bytes < wanted {
            let most = usize::try_from(wanted - answer.bytes)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let count = self.stream.read(&mut buffer[..most])?;
            if count == 0 {
                answer.end = true;
                return Ok(());
            }
            answer.intact &= self.pattern.matches(self.received, &buffer[..count]);
            self.received += count as u64;
            answer.bytes += count as u64;
        }
        Ok(())
    }

    fn end(&mut self, patience: Duration, answer: &mut Answer) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        let mut buffer = vec![0; 65_536];
        loop {
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                answer.end = true;
                return Ok(());
            }
            answer.bytes += count as u64;
            if answer.text.len() < 4_096 {
                answer
                    .text
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse()
        .map_err(|error| io::Error::other(format!("{text:?}: {error}")))
}

/// A number of milliseconds, when one is given.
fn patience_or(text: &str, patience: Duration) -> Duration {
    text.parse().map_or(patience, Duration::from_millis)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}
