//! What a test looks like: a story in a cluster of its own, that ends in bounded time and leaves nothing behind.
//!
//! ```ignore
//! #[test]
//! fn the_server_sees_the_client() -> Result<()> {
//!     story(&[], |cluster| {
//!         let (a, b) = cluster.two_nodes()?;
//!         let (client, server) = (a.pod("client")?, b.pod("server")?);
//!         let mut echo = server.serve(&["8080=echo"])?;
//!         cluster.start(&[&client, &server])?;
//!
//!         client.session(server.at(8080))?.echo("hello")?;
//!
//!         ensure!(echo.accepted()?.ip() == client.v4);
//!         Ok(())
//!     })
//! }
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::cluster::Cluster;
use crate::host::leak;
use crate::host::requires::{Need, met};

/// The longest that a story may take.
const LIMIT: Duration = Duration::from_secs(120);

/// What every story needs.
const ALWAYS: &[Need] = &[
    Need::Root,
    Need::CgroupTree,
    Need::KernelTypes,
    Need::Ipv6,
    Need::Program("ip"),
];

/// Tells a story in a cluster of its own. Its further needs are checked first; what is missing is said, and counted.
pub fn story(needs: &[Need], tell: impl FnOnce(&mut Cluster) -> Result<()>) -> Result<()> {
    if !met(ALWAYS) || !met(needs) {
        return Ok(());
    }
    let mut cluster = Cluster::new().context("build the cluster")?;
    // Ends with the sender, that is with the story.
    let (_running, ended) = channel::<()>();
    let name = cluster.name().to_owned();
    thread::spawn(move || end_after(LIMIT, &ended, &name));

    let told = catch_unwind(AssertUnwindSafe(|| tell(&mut cluster)))
        .unwrap_or_else(|_panic| Err(anyhow!("the story panicked; the message is above")));
    if told.is_err() {
        eprintln!("{}", cluster.logs());
    }
    let removed = cluster.remove().context("remove the cluster");
    told.and(removed)
}

/// A story that hangs is ended together with everything that it made.
fn end_after(limit: Duration, ended: &Receiver<()>, name: &str) {
    if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        eprintln!("the story took more than {} s; ending it", limit.as_secs());
        if let Err(error) = leak::sweep(name) {
            eprintln!("{error:#}");
        }
        process::exit(101);
    }
}
