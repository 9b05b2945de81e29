//! `warren ready`: a readiness probe for where two agents of one node stand side by side during an update. Both are in the
//! node's network, so whoever asks its address may be answered by the other.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::args::ReadyArgs;
use super::{CliError, Exit};

/// The agent answers from what it knows, without looking.
const PATIENCE: Duration = Duration::from_secs(2);

/// An answer is a few lines.
const LARGEST: u64 = 64 << 10;

/// Asks the agent.
pub(crate) fn run(args: &ReadyArgs) -> Result<Exit, CliError> {
    let ReadyArgs { health, pod_name } = args;
    let query = pod_name
        .as_ref()
        .map_or_else(String::new, |pod| format!("?pod={pod}"));
    let failed = |error| CliError::failed(format!("no agent answers at {health}"), error);
    let mut stream = TcpStream::connect_timeout(health, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let request =
        format!("GET /readyz{query} HTTP/1.1\r\nhost: warren\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream
        .take(LARGEST)
        .read_to_string(&mut answer)
        .map_err(failed)?;
    if answer.split(' ').nth(1) == Some("200") {
        return Ok(Exit::Ok);
    }
    let why = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    eprint!("{}", super::output::clean_lines(why));
    Ok(Exit::No)
}
