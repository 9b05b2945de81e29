//! From here on a connection is carried: it is reported while it lasts, re-checked when the world changes, and cut when
//! it must be. Both stories come through here, whatever carries their bytes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::outcome::Reason;
use mesh_core::snapshot::Snapshot;
use tokio::net::TcpStream;

use crate::configs::IdentitySet;
use crate::context::{Context, Open};
use crate::copy::{Meter, both_ways};
use crate::recheck::{self, Standing};
use crate::record::{Carrier, Ended, Recorder};
use crate::served::Share;
use crate::tunnel::{StreamHandle, StreamReport};

impl Carrier for StreamHandle {
    fn bytes(&self) -> (u64, u64) {
        Self::bytes(self)
    }

    fn cut(&self, reason: Reason) {
        Self::cut(self, reason);
    }
}

impl From<StreamReport> for Ended {
    fn from(report: StreamReport) -> Self {
        Self {
            reason: report.reason,
            detail: report.detail,
            sent: report.sent,
            received: report.received,
        }
    }
}

/// What a story's decisions were made under: loaded once, at its beginning.
#[derive(Clone)]
pub(crate) struct Basis {
    pub(crate) world: Arc<Snapshot>,
    pub(crate) identities: Arc<IdentitySet>,
}

impl Basis {
    /// As it is now.
    pub(crate) fn now(cx: &Context) -> Self {
        Self {
            world: cx.world(),
            identities: cx.identities(),
        }
    }

    fn is_outdated(&self, cx: &Context) -> bool {
        !Arc::ptr_eq(&self.world, &cx.shared.world.load())
            || !Arc::ptr_eq(&self.identities, &cx.shared.identities.load())
    }
}

/// A connection that both applications have taken: what carries its bytes.
pub(crate) enum Carriage {
    /// A tunnel's task.
    Stream(StreamHandle),
    /// Nothing yet: its two ends.
    Plain {
        /// The client's connection.
        client: TcpStream,
        /// The server's.
        server: TcpStream,
        /// Bytes that were read from the client already.
        kept: Vec<u8>,
    },
}

/// What is held, and counted, for as long as the connection lasts.
pub(crate) struct Held {
    pub(crate) _share: Share,
    pub(crate) _open: Open,
    pub(crate) _load: Option<Load>,
}

/// Carries a connection to its end, as a task of its own: a story and what it decided under (a whole world) are not kept
/// in memory for as long as a connection may last.
pub(crate) fn begin(
    cx: &Rc<Context>,
    basis: &Basis,
    record: Recorder,
    carriage: Carriage,
    standing: Standing,
    held: Held,
) {
    let live = Rc::clone(record.live());
    match carriage {
        Carriage::Stream(stream) => {
            record.carried(Rc::new(stream.clone()), standing);
            tokio::task::spawn_local(async move {
                let _held = held;
                let report = stream.closed().await;
                record.close(report.into());
            });
        }
        Carriage::Plain {
            client,
            server,
            kept,
        } => {
            let meter = Rc::new(Meter::default());
            record.carried(Rc::clone(&meter) as Rc<_>, standing);
            tokio::task::spawn_local(async move {
                let _held = held;
                let ended = both_ways(client, server, kept, meter).await;
                record.close(ended);
            });
        }
    }
    // A change that came while the connection was being made has passed the list of live ones already.
    if basis.is_outdated(cx) {
        recheck::one(cx, &live);
    }
}

/// One connection of an endpoint's load, as the balancer counts it.
pub(crate) struct Load {
    cx: Rc<Context>,
    address: SocketAddr,
}

impl Load {
    /// The endpoint took a connection, `latency` after it was dialled.
    pub(crate) fn begin(cx: &Rc<Context>, address: SocketAddr, latency: Duration) -> Self {
        let now = cx.now();
        cx.balancer.borrow_mut().opened(address, latency, now);
        Self {
            cx: Rc::clone(cx),
            address,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.cx.balancer.borrow_mut().closed(self.address);
    }
}
