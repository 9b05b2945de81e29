//! The worker process: gives up its privileges, starts its threads, and then does what the agent says.
//!
//! One control thread holds the link; it carries no connection. Data threads carry connections and never wait for it.
//! When the agent goes, the worker goes on with what it has.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mesh_core::snapshot::Snapshot;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use rustls::crypto::aws_lc_rs;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, timeout};

use crate::configs::IdentitySet;
use crate::confine::{self, ConfineError};
use crate::context::{ServedWorkloads, Settings, Shared};
use crate::drain::Drain;
use crate::figures::Counters;
use crate::link::{self, Endpoint, LinkError, ToAgent, ToWorker, WorkerEnd};
use crate::memory::Memory;
use crate::origin::{Kernel, OriginOf};
use crate::record::Sink;

mod control;
mod data;

/// How long the agent may take to say hello.
const HELLO_TIME: Duration = Duration::from_secs(10);

/// Most threads, whatever the agent says.
const MAX_THREADS: u16 = 256;

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// It was not started by an agent.
    #[error(
        "there is no link to an agent on descriptor {fd}; `warren proxy` is started by `warren node`, not by hand",
        fd = link::WORKER_FD
    )]
    NoLink(#[source] io::Error),
    /// The link broke before the worker served.
    #[error("the link to the agent failed before the worker was set up")]
    Link(#[from] LinkError),
    /// The agent closed the link before it said hello, said something else, or said nothing.
    #[error("the agent did not say hello: {0}")]
    NoHello(&'static str),
    /// Agent and worker are of versions that do not fit.
    #[error("the agent speaks version {agent} of the link, this worker {worker}; restart the agent", worker = link::VERSION)]
    Version {
        /// The agent's version.
        agent: u16,
    },
    /// The process could not be confined.
    #[error("the worker could not be confined")]
    Confine(#[from] ConfineError),
    /// A thread or its runtime could not be made.
    #[error("the worker cannot set up {what}")]
    SetUp {
        /// What.
        what: &'static str,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
}

/// Runs the worker until it has drained. The process must have one thread when this is called, and must do nothing else.
///
/// # Errors
/// When it cannot be set up. Once it serves, nothing the agent says ends it but a drain.
pub fn run(memory: Memory) -> Result<(), WorkerError> {
    let link = take_link()?;
    confine::give_up_privileges()?;
    let runtime = runtime("its control thread")?;
    runtime.block_on(serve(
        link,
        Box::new(Kernel),
        memory,
        confine::filter_system_calls,
    ))
}

/// The worker's life, but for what belongs to a process of its own.
pub(crate) async fn serve(
    link: OwnedFd,
    kernel: Box<dyn OriginOf>,
    memory: Memory,
    confine: impl FnOnce() -> Result<(), ConfineError>,
) -> Result<(), WorkerError> {
    let link: WorkerEnd = Endpoint::new(link)?;
    // Everything that needs a descriptor of its own is made before the filter closes that way.
    let terminate = signal(SignalKind::terminate()).map_err(set_up("its signal handler"))?;
    let (settings, threads) = hello(&link).await?;
    warm_up_cryptography();
    let (agent, messages) = unbounded_channel();
    let (shared, records) = shared(settings, agent, kernel, memory);
    let threads = data::start(&shared, threads)?;
    confine()?;
    // Most of what ran so far is not run again.
    (memory.give_back)();
    (memory.unmap_code)();
    let ready = ToAgent::Ready {
        version: link::VERSION,
    };
    link.send(&ready, &[]).await?;
    tracing::info!(
        generation = settings.generation,
        threads = threads.len(),
        "the worker serves"
    );
    control::run(link, shared, threads, messages, records, terminate).await;
    tracing::info!("the worker has drained");
    Ok(())
}

async fn hello(link: &WorkerEnd) -> Result<(Settings, u16), WorkerError> {
    let received = timeout(HELLO_TIME, link.recv())
        .await
        .map_err(|_elapsed| WorkerError::NoHello("it said nothing for ten seconds"))??
        .ok_or(WorkerError::NoHello("it closed the link"))?;
    let ToWorker::Hello {
        version,
        node: _,
        generation,
        threads,
        tunnel_port,
    } = received.message
    else {
        return Err(WorkerError::NoHello("it said something else first"));
    };
    if version != link::VERSION {
        return Err(WorkerError::Version { agent: version });
    }
    let settings = Settings {
        generation,
        tunnel_port,
    };
    Ok((settings, threads.clamp(1, MAX_THREADS)))
}

type Records = tokio::sync::mpsc::Receiver<mesh_core::record::Record>;

fn shared(
    settings: Settings,
    agent: tokio::sync::mpsc::UnboundedSender<ToAgent>,
    kernel: Box<dyn OriginOf>,
    memory: Memory,
) -> (Arc<Shared>, Records) {
    let counters = Counters::default();
    let (sink, records) = Sink::new(settings.generation, Arc::clone(&counters.records_lost));
    let shared = Arc::new(Shared {
        settings,
        world: ArcSwap::from_pointee(Snapshot::default()),
        identities: ArcSwap::from_pointee(IdentitySet::default()),
        served: ArcSwap::from_pointee(ServedWorkloads::default()),
        host_tunnels: Arc::default(),
        sink,
        counters,
        agent,
        kernel,
        memory,
        drain: Drain::new(),
        started: Instant::now(),
    });
    (shared, records)
}

fn take_link() -> Result<OwnedFd, WorkerError> {
    // SAFETY: borrowed for one call, which fails when the number is not open.
    let probe = unsafe { BorrowedFd::borrow_raw(link::WORKER_FD) };
    fcntl(probe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|error| WorkerError::NoLink(error.into()))?;
    // SAFETY: it is open, and by the contract with the agent nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(link::WORKER_FD) })
}

fn runtime(what: &'static str) -> Result<tokio::runtime::Runtime, WorkerError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(set_up(what))
}

/// The first use of the cryptographic library looks at the machine (files, processor); later ones need nothing.
fn warm_up_cryptography() {
    let provider = aws_lc_rs::default_provider();
    let random = provider.secure_random.fill(&mut [0; 32]);
    let exchange = provider.kx_groups.first().map(|group| group.start());
    if random.is_err() || exchange.is_some_and(|exchange| exchange.is_err()) {
        tracing::warn!("the cryptographic library cannot make a key; handshakes will fail");
    }
}

fn set_up(what: &'static str) -> impl Fn(io::Error) -> WorkerError {
    move |source| WorkerError::SetUp { what, source }
}
