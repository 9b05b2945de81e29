//! The applications of the stories: servers with known behaviours, clients that dial in every way there is, attackers.
//! They run as processes of their own (`warren-probe`), because a namespace and a cgroup belong to a process.
//!
//! Each prints JSON, one object per line; the types here are both what is printed and what stories read.

pub mod dial;
pub mod forge;
pub mod hold;
pub mod load;
pub mod pace;
pub mod pattern;
pub mod rate;
pub mod serve;
pub mod session;

use std::io;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a client saw of one connection.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Its own address, as `getsockname` gives it.
    pub local: Option<SocketAddr>,
    /// The other end, as `getpeername` gives it.
    pub peer: Option<SocketAddr>,
    /// What it received, as text.
    pub received: String,
    /// The error that ended it, e.g. `ECONNREFUSED`; absent when it ended in order.
    pub error: Option<String>,
    /// How long `connect` took.
    pub connect_micros: u64,
    /// From the start of `connect` to the first byte received.
    pub first_byte_micros: u64,
}

/// What a server says, one per line.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
pub enum Event {
    /// All listeners are ready.
    Listening,
    /// A connection was accepted.
    Accepted {
        /// The port of the listener.
        port: u16,
        /// The client, as `accept` gives it.
        peer: SocketAddr,
        /// The server's end.
        local: SocketAddr,
    },
    /// A connection ended.
    Closed {
        /// The port of the listener.
        port: u16,
        /// The client.
        peer: SocketAddr,
        /// Bytes read.
        bytes: u64,
        /// Whether they were those that a [`pattern`] has; absent when nobody looked.
        intact: Option<bool>,
        /// The error that ended it; absent when it ended in order.
        error: Option<String>,
    },
}

/// The symbol of an error of the operating system, e.g. `ECONNRESET`; else its kind.
pub fn symbol(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(
        || format!("{:?}", error.kind()),
        |code| format!("{:?}", nix::errno::Errno::from_raw(code)),
    )
}

/// Prints one line of JSON, at once. Nobody reading is no fault of the probe's.
pub(crate) fn say(object: &impl Serialize) {
    use std::io::Write as _;
    let mut line =
        serde_json::to_string(object).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
    line.push('\n');
    let mut output = io::stdout().lock();
    if output
        .write_all(line.as_bytes())
        .and_then(|()| output.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}
