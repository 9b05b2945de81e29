//! The streams of a tunnel towards a peer that breaks every rule it can, without TLS between them.
//!
//! The input is a script: records of the peer's, and what happens on our side between them.

use std::cell::{LazyCell, RefCell};
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use futures_util::{FutureExt as _, StreamExt as _};
use mesh_core::addr::{AppAddr, ClientAddr};
use mesh_core::outcome::Reason;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::credit::MAX_WINDOW;
use super::error::TunnelError;
use super::handle::Shared;
use super::mailbox::{Command, Mailbox, NewStream};
use super::state::Side;
use super::stream::{Opening, Stream};
use super::table::{Acceptor, Streams};
use super::{Accepted, Limits};
use crate::socket;
use crate::wire::{self, Open, Refusal, RefusalCode};

/// Few, so that the limit is reached.
const STREAMS: usize = 3;

/// Steps of one script.
const STEPS: usize = 128;

/// What may be said to a peer that does not read: the limit, and the frame that goes beyond it.
const MAX_SAID: usize = 256 * 1024 + wire::MAX_RECORD;

thread_local! {
    static RUNTIME: LazyCell<Runtime> = const { LazyCell::new(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("no runtime: {error}"))
    }) };
    static APPLICATIONS: LazyCell<std::net::TcpListener> = const { LazyCell::new(|| {
        std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap_or_else(|error| panic!("no listener: {error}"))
    }) };
    /// The applications' ends of the connections of one script.
    static ENDS: RefCell<Vec<std::net::TcpStream>> = const { RefCell::new(Vec::new()) };
}

/// Carries a script out. What the peer can make us hold stays within its bounds after every step, what we say to it are
/// frames, and at the end nothing is left.
pub fn misbehaving_peer(script: &[u8]) {
    RUNTIME.with(|runtime| runtime.block_on(carry_out(script)));
    ENDS.with_borrow_mut(Vec::clear);
}

async fn carry_out(script: &[u8]) {
    let Some((first, mut script)) = script.split_first() else {
        return;
    };
    let side = if first & 1 == 0 {
        Side::Accepting
    } else {
        Side::Dialling
    };
    let mailbox = Rc::new(Mailbox::default());
    let limits = Limits {
        streams: STREAMS,
        ..Limits::default()
    };
    let acceptor: Acceptor = Box::new(|open| Box::pin(story(open)));
    let acceptor = (side == Side::Accepting).then_some(acceptor);
    let mut streams = Streams::new(side, limits, Rc::clone(&mailbox), acceptor);
    if side == Side::Dialling {
        for _ in 0..=(first >> 1 & 1) {
            if let Err(error) = streams.obey(open(&mailbox)) {
                panic!("our own OPEN: {error}");
            }
        }
    }
    for _ in 0..STEPS {
        let Some((step, rest)) = script.split_first() else {
            break;
        };
        script = rest;
        if let Err(error) = take_step(&mut streams, *step, &mut script) {
            assert!(
                error.is_protocol_error() || matches!(error, TunnelError::Cut(_)),
                "the peer can cause {error:?}"
            );
            break;
        }
        check(&mut streams);
    }
    streams.end(Reason::TunnelLost, "the script is over");
    assert!(streams.table.is_empty() && mailbox.has_ended());
}

fn take_step(streams: &mut Streams, step: u8, script: &mut &[u8]) -> Result<(), TunnelError> {
    match step >> 4 {
        // The peer reads what we say.
        0 => {
            for frame in wire::frames(&std::mem::take(&mut streams.control)) {
                if let Err(error) = frame {
                    panic!("we said something that is no frame: {error}");
                }
            }
            Ok(())
        }
        // The stories answer.
        1 => {
            while let Some(Some(answer)) = streams.accepting.next().now_or_never() {
                streams.answered(answer)?;
            }
            Ok(())
        }
        2 => streams.obey(Command::Cut {
            stream: u32::from(step & 15),
            reason: Reason::PolicyRevoked,
        }),
        3 => streams.obey(Command::GiveUp {
            stream: u32::from(step & 15),
        }),
        4 => streams.obey(Command::Retire),
        // The applications read what has arrived, or go.
        5 => {
            ENDS.with_borrow_mut(|ends| read_or_go(ends, step & 15));
            Ok(())
        }
        // A record of the peer's, of up to 4 KiB.
        _ => {
            let (length, rest) = script.split_first().unwrap_or((&0, &[]));
            let length = (usize::from(step & 15) << 8 | usize::from(*length)).min(rest.len());
            let (record, rest) = rest.split_at(length);
            *script = rest;
            if record.is_empty() {
                return Ok(());
            }
            if streams.raw.receives() {
                return streams.hand_over_raw(std::iter::once(record)).map(drop);
            }
            let handled = streams.receive(std::iter::once(record))?;
            assert_eq!(handled, 1, "a record is handled whole");
            Ok(())
        }
    }
}

fn read_or_go(ends: &mut Vec<std::net::TcpStream>, which: u8) {
    if which == 0 {
        ends.clear();
    }
    for mut end in ends.iter() {
        let mut buffer = [0; 4096];
        let _some = end.read(&mut buffer);
    }
}

/// Bounds that hold after every step.
fn check(streams: &mut Streams) {
    assert!(
        streams.table.len() <= 2 * STREAMS,
        "{} streams",
        streams.table.len()
    );
    assert!(
        streams.control.len() <= MAX_SAID,
        "{} bytes to say",
        streams.control.len()
    );
    assert!(streams.highest % 2 == 1 || streams.highest == 0);
    let held: usize = streams.table.values().map(held_by).sum();
    assert!(held <= 2 * MAX_WINDOW as usize, "{held} bytes held");
    for (id, stream) in &streams.table {
        assert!(held_by(stream) <= MAX_WINDOW as usize, "stream {id}");
        assert!(stream.credit.left() <= 1 << 30, "stream {id}");
    }
}

fn held_by(stream: &Stream) -> usize {
    match &stream.opening {
        Opening::Awaited { pending, .. } => pending.len(),
        Opening::Offered { kept, .. } => kept.len(),
        Opening::Done => stream.app.as_ref().map_or(0, super::app::App::pending),
    }
}

async fn story(open: Open) -> Result<Accepted, Refusal> {
    match open.destination.0.port() % 3 {
        0 => Err(Refusal {
            code: RefusalCode::PolicyDenied,
            detail: "the script wants it".to_owned(),
        }),
        1 => std::future::pending().await,
        _ => Ok(Accepted {
            app: application(),
            on_open: Box::new(drop),
        }),
    }
}

fn open(mailbox: &Rc<Mailbox>) -> Command {
    let (answer, _heard_by_nobody) = oneshot::channel();
    let id = mailbox.next_stream().unwrap_or(1);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    Command::Open(Box::new(NewStream {
        id,
        open: Open {
            destination: AppAddr(address),
            client: ClientAddr(address),
            service: None,
            trace: None,
        },
        app: application(),
        kept: b"kept".to_vec(),
        shared: Shared::new(id, Rc::clone(mailbox)),
        answer,
    }))
}

/// A connection to an application. Its end is a reset, so that thousands of them do not wait for the end of their time.
/// It is made at once, because a story that is dropped on the way would leave its connection in the listener's queue.
fn application() -> TcpStream {
    let connected = || {
        let address = APPLICATIONS.with(|listener| listener.local_addr())?;
        let app = std::net::TcpStream::connect(address)?;
        let (end, _) = APPLICATIONS.with(|listener| listener.accept())?;
        end.set_nonblocking(true)?;
        app.set_nonblocking(true)?;
        let app = TcpStream::from_std(app)?;
        socket::reset(&app);
        ENDS.with_borrow_mut(|ends| ends.push(end));
        std::io::Result::Ok(app)
    };
    connected().unwrap_or_else(|error| panic!("no connection: {error}"))
}
