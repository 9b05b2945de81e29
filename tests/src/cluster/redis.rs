//! A real key-value store in a place.

use std::time::Duration;

use anyhow::Result;

use super::Cluster;
use super::place::{NOBODY, Place};
use crate::eventually::until;
use crate::host::process::Process;

/// The port that it listens on.
pub const PORT: u16 = 6_379;

/// Starts Redis without persistence; comes back when it answers.
pub fn start(cluster: &Cluster, place: &Place) -> Result<Process> {
    let folder = cluster.folder_of(place, "redis")?;
    let process = place
        .program("redis-server")
        .args(["--port", &PORT.to_string(), "--bind", "*", "-::*"])
        .args(["--protected-mode", "no", "--save", "", "--appendonly", "no"])
        .args(["--dir".as_ref(), folder.as_path()])
        .user(NOBODY)
        .log(&folder.join("log"))
        .start()?;
    until("Redis answers", Duration::from_secs(20), || {
        place.namespace().says(PORT, b"PING\r\n", b"+PONG")
    })?;
    Ok(process)
}
