//! A wire between nodes and a controller that can be cut, held up and measured.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A wire between nodes and a controller.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    shared: Arc<WireShared>,
    accepting: JoinHandle<()>,
}

struct WireShared {
    target: Mutex<SocketAddr>,
    to_node: AtomicU64,
    from_node: AtomicU64,
    state: watch::Sender<Flow>,
    /// How often it was cut.
    cuts: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flow {
    Open,
    /// Nothing is carried in the direction of the node; TCP pushes back.
    Held,
    /// Nothing is carried at all, and nobody is told.
    Black,
    Cut,
}

impl Wire {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(WireShared {
            target: Mutex::new(target),
            to_node: AtomicU64::new(0),
            from_node: AtomicU64::new(0),
            state: watch::Sender::new(Flow::Open),
            cuts: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// New connections go elsewhere.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().expect("not poisoned") = target;
    }

    /// Breaks every connection; new ones are refused until it is mended.
    pub(crate) fn cut(&self) {
        self.shared.state.send_replace(Flow::Cut);
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub(crate) fn mend(&self) {
        self.shared.state.send_replace(Flow::Open);
    }

    pub(crate) fn hold(&self) {
        self.shared.state.send_replace(Flow::Held);
    }

    pub(crate) fn swallow(&self) {
        self.shared.state.send_replace(Flow::Black);
    }

    /// Bytes that went to nodes and came from them.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.shared.to_node), load(&self.shared.from_node))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<WireShared>) {
    while let Ok((node, _)) = listener.accept().await {
        if *shared.state.borrow() == Flow::Cut {
            continue;
        }
        let target = *shared.target.lock().expect("not poisoned");
        let Ok(controller) = TcpStream::connect(target).await else {
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut cuts = shared.cuts.subscribe();
            let (node_reads, node_writes) = node.into_split();
            let (controller_reads, controller_writes) = controller.into_split();
            let to_node = carry(controller_reads, node_writes, &shared, true);
            let from_node = carry(node_reads, controller_writes, &shared, false);
            tokio::select! {
                () = to_node => {}
                () = from_node => {}
                // Also when the wire is gone.
                _cut = cuts.changed() => {}
            }
        });
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &WireShared,
    to_node: bool,
) {
    let mut state = shared.state.subscribe();
    let count = if to_node {
        &shared.to_node
    } else {
        &shared.from_node
    };
    let mut buffer = vec![0; 16 << 10];
    loop {
        let flows = |state: &Flow| match state {
            Flow::Open | Flow::Cut => true,
            Flow::Held => !to_node,
            Flow::Black => false,
        };
        if state.wait_for(flows).await.is_err() {
            return;
        }
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                // What arrives while nothing flows stays until it does.
                if state.wait_for(flows).await.is_err() {
                    return;
                }
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
                count.fetch_add(read as u64, Ordering::Relaxed);
            }
        }
    }
}
