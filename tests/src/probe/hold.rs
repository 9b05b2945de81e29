//! Connections that do nothing: each is used once, so that it is open on its whole way, and then held.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::dial::{Way, connect};

/// What is said when all of them are open.
pub const READY: &str = "ready";

/// What each connection says, and hears again.
const WORDS: &[u8] = b"hello\n";

/// Opens connections to an echo server and holds them until standard input ends.
#[expect(
    clippy::print_stdout,
    reason = "whoever started this waits for the word"
)]
pub fn run(to: SocketAddr, connections: u32, patience: Duration) -> Result<()> {
    let held: Vec<TcpStream> = (0..connections)
        .map(|number| open(to, patience).with_context(|| format!("connection {number} to {to}")))
        .collect::<Result<_>>()?;
    println!("{READY}");
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("wait for the end")?;
    drop(held);
    Ok(())
}

fn open(to: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let mut stream = connect(to, &Way::Plain, b"", patience).context("dial")?;
    stream
        .set_read_timeout(Some(patience))
        .context("set the patience")?;
    stream.write_all(WORDS).context("say something")?;
    let mut answer = [0; WORDS.len()];
    stream.read_exact(&mut answer).context("read the answer")?;
    ensure!(answer == WORDS, "the answer is another one");
    Ok(stream)
}
