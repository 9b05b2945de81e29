//! Connections that do nothing: each is used once, so that it is open on its whole way, and then held.

use std::io::{Read as _, Write as _, stdin};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::program;
use crate::cluster::place::Place;
use crate::host::process::Process;

/// What the program says when all connections are open.
const READY: &str = "ready";

/// Patience with thousands of handshakes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Opens connections in a pod; comes back when they are open. They close when the process is ended.
pub fn start(client: &Place, to: SocketAddr, connections: u32) -> Result<Process> {
    let process = program(client)?
        .args([
            "hold",
            "--to",
            &to.to_string(),
            "--connections",
            &connections.to_string(),
        ])
        .start()?;
    let line = process.line(PATIENCE)?;
    ensure!(line == READY, "holding connections began with {line:?}");
    Ok(process)
}

/// Opens connections and holds them until standard input ends.
#[expect(
    clippy::print_stdout,
    reason = "whoever started this waits for the word"
)]
pub fn hold(to: SocketAddr, connections: u32) -> Result<()> {
    let held: Vec<TcpStream> = (0..connections)
        .map(|number| open(to).with_context(|| format!("connection {number} to {to}")))
        .collect::<Result<_>>()?;
    println!("{READY}");
    stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the end")?;
    drop(held);
    Ok(())
}

fn open(to: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(to).context("dial")?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .context("set the patience")?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
        .context("ask")?;
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).context("read the answer")?;
    ensure!(
        answer[..count].starts_with(b"HTTP/1.1 200"),
        "the answer was {:?}",
        String::from_utf8_lossy(&answer[..count])
    );
    Ok(stream)
}
