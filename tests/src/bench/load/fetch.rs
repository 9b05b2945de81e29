//! One client that fetches a file over and over on one connection, as a download does: large reads.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::{measured, percentile, program};
use crate::cluster::place::Place;

/// What one read may bring.
const CHUNK: usize = 256 * 1024;

/// What it saw.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Seen {
    /// Bytes of all bodies.
    pub bytes: u64,
    /// In all.
    pub seconds: f64,
    /// From request to last byte, the median.
    pub p50_ms: f64,
    /// What one in 100 exceeds.
    pub p99_ms: f64,
}

/// Runs [`fetch`] in a pod.
pub fn run(client: &Place, to: SocketAddr, seconds: u32) -> Result<Seen> {
    measured(
        &program(client)?
            .args(["fetch", "--to", &to.to_string()])
            .args(["--seconds", &seconds.to_string()]),
    )
}

/// Fetches for a time.
pub fn fetch(to: SocketAddr, path: &str, time: Duration) -> Result<Seen> {
    let stream = TcpStream::connect(to).with_context(|| format!("dial {to}"))?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let mut reader = BufReader::with_capacity(CHUNK, stream);
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    let (began, mut times, mut bytes) = (Instant::now(), Vec::new(), 0);
    while began.elapsed() < time {
        let asked = Instant::now();
        reader
            .get_mut()
            .write_all(request.as_bytes())
            .context("ask")?;
        bytes += body(&mut reader)?;
        times.push(asked.elapsed());
    }
    let seconds = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let millis = |share| percentile(&times, share).as_secs_f64() * 1e3;
    Ok(Seen {
        bytes,
        seconds,
        p50_ms: millis(0.5),
        p99_ms: millis(0.99),
    })
}

/// Reads one answer; gives the length of its body.
fn body(reader: &mut BufReader<TcpStream>) -> Result<u64> {
    let (mut line, mut length, mut first) = (String::new(), None, true);
    loop {
        line.clear();
        reader.read_line(&mut line).context("read the head")?;
        let text = line.trim_end().to_ascii_lowercase();
        if std::mem::take(&mut first) {
            ensure!(text.contains(" 200 "), "the server answered {text:?}");
        }
        if text.is_empty() {
            break;
        }
        if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let length = length.ok_or_else(|| anyhow!("the answer has no length"))?;
    let copied = std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink());
    ensure!(
        copied.context("read the body")? == length,
        "the body ended early"
    );
    Ok(length)
}
