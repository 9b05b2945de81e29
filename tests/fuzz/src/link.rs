//! Messages to the agent from a worker that somebody took over.

use std::cell::RefCell;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use mesh_proxy::link::{AgentEnd, ToAgent, pair};
use tokio::runtime::Runtime;

struct Link {
    runtime: Runtime,
    agent: AgentEnd,
    worker: std::os::unix::net::UnixStream,
}

thread_local! {
    static LINK: RefCell<Link> = RefCell::new(open());
}

fn open() -> Link {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (ours, theirs): (OwnedFd, OwnedFd) = pair().expect("a pair of sockets");
    let entered = runtime.enter();
    let agent = AgentEnd::new(ours).expect("an end");
    drop(entered);
    Link {
        runtime,
        agent,
        worker: theirs.into(),
    }
}

/// A message or an error, and the link goes on: the next message arrives as it was sent.
pub fn run(packet: &[u8]) {
    if packet.is_empty() {
        return;
    }
    LINK.with_borrow_mut(|link| {
        if link.worker.write(packet).is_err() {
            return;
        }
        let received = link.runtime.block_on(link.agent.recv());
        if let Ok(received) = received {
            let received = received.expect("the link is open");
            assert!(received.descriptors.is_empty());
            // Numbers may be written at greater length than needed; the value is what counts.
            let again = postcard::to_stdvec(&received.message).expect("bytes");
            assert_eq!(
                postcard::from_bytes::<ToAgent>(&again).as_ref(),
                Ok(&received.message)
            );
        }
        let next = ToAgent::Applied { generation: 7 };
        let bytes = postcard::to_stdvec(&next).expect("bytes");
        assert_eq!(link.worker.write(&bytes).ok(), Some(bytes.len()));
        let received = link.runtime.block_on(link.agent.recv());
        let received = received.ok().flatten().map(|received| received.message);
        assert_eq!(received, Some(next));
    });
}
