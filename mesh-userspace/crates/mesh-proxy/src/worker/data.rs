//! The data threads: each has a runtime of its own and carries its connections from accept to close. They share
//! listeners, and what is in [`Shared`]; nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc as blocking};
use std::time::Duration;

use mesh_core::outcome::Reason;
use mesh_core::workload::WorkloadId;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval};

use super::{WorkerError, runtime, set_up};
use crate::context::{Context, Shared};
use crate::figures::ThreadTunnels;
use crate::link::{Listener, ListenerKind, ToAgent};
use crate::memory::Thrift;
use crate::served::{Served, Share};
use crate::{listen, recheck, tls};

/// After the deadline: for resets to go out, and for records to be closed.
const AFTERMATH: Duration = Duration::from_millis(200);

/// What a thread is told.
pub(super) enum Command {
    /// Accept from a workload's listeners.
    Enrol(Arc<Enrolling>, Vec<(Listener, OwnedFd)>),
    /// Accept from the host's tunnel listeners.
    Host(Vec<(Listener, OwnedFd)>),
    /// The world or the identities changed.
    Recheck,
    /// A workload has left.
    Forget(WorkloadId),
}

/// A workload on its way to all threads; the last one to accept from it tells the agent.
pub(super) struct Enrolling {
    served: Arc<Served>,
    agent: UnboundedSender<ToAgent>,
    abandoned: AtomicBool,
    /// It has not left before it has come.
    _member: Share,
}

impl Enrolling {
    pub(super) fn new(served: Arc<Served>, agent: UnboundedSender<ToAgent>) -> Arc<Self> {
        let member = served.member();
        Arc::new(Self {
            served,
            agent,
            abandoned: AtomicBool::new(false),
            _member: member,
        })
    }

    /// It did not come to that.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
        self.served.leaving.begin();
    }
}

impl Drop for Enrolling {
    fn drop(&mut self) {
        if !self.abandoned.load(Ordering::Relaxed) {
            let workload = self.served.local.id;
            // Without an agent there is nobody to tell.
            drop(self.agent.send(ToAgent::Enrolled { workload }));
        }
    }
}

/// The data threads, as the control thread holds them.
pub(super) struct Threads {
    commands: Vec<UnboundedSender<Command>>,
    figures: Vec<Arc<ThreadTunnels>>,
    done: Option<Done>,
}

/// Knows when all threads have ended: each holds a sender, and nobody sends.
pub(super) struct Done(tokio::sync::mpsc::Receiver<()>);

impl Done {
    /// Waits for that.
    pub(super) async fn wait(mut self) {
        while self.0.recv().await.is_some() {}
    }
}

/// Starts the threads, and waits until each is ready to serve.
pub(super) fn start(shared: &Arc<Shared>, count: u16) -> Result<Threads, WorkerError> {
    let (alive, done) = tokio::sync::mpsc::channel(1);
    let (ready, readies) = blocking::channel();
    let mut threads = Threads {
        commands: Vec::new(),
        figures: Vec::new(),
        done: Some(Done(done)),
    };
    for number in 0..count {
        let (sender, commands) = unbounded_channel();
        let figures = Arc::new(ThreadTunnels::default());
        threads.commands.push(sender);
        threads.figures.push(Arc::clone(&figures));
        let (shared, ready, alive) = (Arc::clone(shared), ready.clone(), alive.clone());
        std::thread::Builder::new()
            .name(format!("data-{number}"))
            .spawn(move || {
                let _alive = alive;
                let runtime = runtime("a data thread");
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let local = LocalSet::new();
                local.block_on(&runtime, async {
                    let cx = Context::new(shared, figures);
                    drop(ready.send(Ok(())));
                    drop(ready);
                    // A task like any other: what is awaited here is polled whenever anything happens on this thread.
                    if let Err(error) = tokio::task::spawn_local(run(cx, commands)).await {
                        tracing::error!(%error, "a data thread ended");
                    }
                });
            })
            .map_err(set_up("a data thread"))?;
    }
    drop(ready);
    let mut running = 0;
    for result in readies {
        result?;
        running += 1;
    }
    if running == count {
        Ok(threads)
    } else {
        let died = io::Error::other("it died while starting");
        Err(set_up("a data thread")(died))
    }
}

impl Threads {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// What waits for all of them to end. Once.
    pub(super) fn take_done(&mut self) -> Done {
        self.done.take().unwrap_or_else(|| {
            let (_, done) = tokio::sync::mpsc::channel(1);
            Done(done)
        })
    }

    /// What they count.
    pub(super) fn figures(&self) -> &[Arc<ThreadTunnels>] {
        &self.figures
    }

    /// Tells every thread.
    pub(super) fn send(&self, command: impl Fn() -> Command) {
        for thread in &self.commands {
            // A thread that has drained needs no commands.
            drop(thread.send(command()));
        }
    }

    /// Gives every thread its own descriptors of the same listeners.
    pub(super) fn send_listeners(
        &self,
        listeners: &[(Listener, OwnedFd)],
        command: impl Fn(Vec<(Listener, OwnedFd)>) -> Command,
    ) -> io::Result<()> {
        let mut copies = Vec::new();
        for _ in &self.commands {
            let copy: io::Result<Vec<_>> = listeners
                .iter()
                .map(|(listener, descriptor)| Ok((*listener, descriptor.try_clone()?)))
                .collect();
            copies.push(copy?);
        }
        for (thread, copy) in self.commands.iter().zip(copies) {
            drop(thread.send(command(copy)));
        }
        Ok(())
    }
}

/// What one thread does, from its start until it has drained.
async fn run(cx: Rc<Context>, mut commands: UnboundedReceiver<Command>) {
    let mut accepting = JoinSet::new();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut thrift = Thrift::default();
    let work = async {
        loop {
            tokio::select! {
                Some(command) = commands.recv() => carry_out(&cx, command, &mut accepting),
                _ = ticks.tick() => {
                    cx.connections.report(&cx.shared.sink);
                    cx.figures.publish(cx.pool.figures(), cx.server.figures());
                    if thrift.tick(cx.connections.count(), cx.connections.opened()) {
                        give_back(&cx);
                    }
                }
                () = cx.shared.drain.begun() => break,
            }
        }
        // What waits in the queues is served; nothing new is taken.
        while accepting.join_next().await.is_some() {}
        // Our own tunnels still take streams: of connections that were accepted a moment ago. Those of our peers end when the peer
        // has heard that it is to open no more: until then a stream may be under way in one that carries none.
        let mut goodbyes = interval(Duration::from_millis(500));
        while cx.connections.count() > 0 || !cx.server.is_empty() {
            tokio::select! {
                Some(command) = commands.recv() => carry_out(&cx, command, &mut accepting),
                // Again and again: a tunnel may have been in its handshake the last time.
                _ = goodbyes.tick() => cx.server.drain(|_| true),
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = cx.shared.drain.expired() => cut_all(&cx).await,
    }
}

fn give_back(cx: &Context) {
    cx.pool.trim();
    tls::give_back_buffers();
    (cx.shared.memory.give_back)();
}

fn carry_out(cx: &Rc<Context>, command: Command, accepting: &mut JoinSet<()>) {
    match command {
        Command::Enrol(enrolling, listeners) => {
            for (listener, descriptor) in listeners {
                match adopt(descriptor) {
                    Ok(socket) => {
                        let (cx, served) = (Rc::clone(cx), Arc::clone(&enrolling.served));
                        accepting.spawn_local(listen::workload(cx, served, socket, listener.kind));
                    }
                    Err(error) => complain(cx, &enrolling.served.local.name.to_string(), &error),
                }
            }
        }
        Command::Host(listeners) => {
            for (listener, descriptor) in listeners {
                match adopt(descriptor) {
                    Ok(socket) if listener.kind == ListenerKind::Tunnel => {
                        accepting.spawn_local(listen::host(Rc::clone(cx), socket));
                    }
                    Ok(_) => {
                        let wrong = io::Error::other("the host's listeners are for tunnels only");
                        complain(cx, "the host", &wrong);
                    }
                    Err(error) => complain(cx, "the host", &error),
                }
            }
        }
        Command::Recheck => recheck::all(cx),
        Command::Forget(workload) => {
            cx.pool
                .cut(|key, _| key.source == workload, Reason::Drained);
        }
    }
}

fn adopt(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(descriptor);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn complain(cx: &Context, whose: &str, error: &io::Error) {
    let complaint = format!("a listener of {whose} cannot be used: {error}");
    tracing::error!("{complaint}");
    // Without an agent there is nobody to tell.
    drop(cx.shared.agent.send(ToAgent::Complaint(complaint)));
}

async fn cut_all(cx: &Context) {
    for live in cx.connections.all() {
        live.abandon(Reason::Drained);
    }
    let gone = async {
        while cx.connections.count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    drop(tokio::time::timeout(AFTERMATH, gone).await);
}
