//! Bulk transfers: streams that send as fast as they can, and a sink that counts.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::{measured, program};
use crate::cluster::place::Place;

/// What one call moves.
const CHUNK: usize = 256 * 1024;

/// What arrived.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Seen {
    /// Bytes that the sink counted, of all streams.
    pub bytes: u64,
    /// From the first byte sent until the sink had the last.
    pub seconds: f64,
}

/// Runs [`pour`] in a pod.
pub fn run(client: &Place, to: SocketAddr, streams: u32, seconds: u32) -> Result<Seen> {
    measured(
        &program(client)?
            .args(["pour", "--to", &to.to_string()])
            .args([
                "--streams",
                &streams.to_string(),
                "--seconds",
                &seconds.to_string(),
            ]),
    )
}

/// Takes connections for ever: reads each to its end, then says how many bytes there were.
pub fn drink(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
        .with_context(|| format!("listen on {port}"))?;
    loop {
        let (stream, peer) = listener.accept().context("accept")?;
        thread::spawn(move || {
            if let Err(error) = count(stream) {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

fn count(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut buffer, mut bytes) = (vec![0; CHUNK], 0_u64);
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.write_all(&bytes.to_be_bytes()),
            count => bytes += count as u64,
        }
    }
}

/// Sends for a time on every stream, then waits until the sink has it all.
pub fn pour(to: SocketAddr, streams: u32, time: Duration) -> Result<Seen> {
    let began = Instant::now();
    let threads: Vec<_> = (0..streams)
        .map(|_| thread::spawn(move || send(to, began + time)))
        .collect();
    let mut bytes = 0;
    for thread in threads {
        bytes += thread
            .join()
            .map_err(|_panic| anyhow!("a stream panicked"))??;
    }
    Ok(Seen {
        bytes,
        seconds: began.elapsed().as_secs_f64(),
    })
}

fn send(to: SocketAddr, until: Instant) -> Result<u64> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("dial {to}"))?;
    let chunk = vec![b'w'; CHUNK];
    let mut sent = 0_u64;
    while Instant::now() < until {
        stream.write_all(&chunk).context("send")?;
        sent += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write).context("finish")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).context("read the count")?;
    let arrived = u64::from_be_bytes(answer);
    ensure!(arrived == sent, "{sent} bytes were sent, {arrived} arrived");
    Ok(arrived)
}
