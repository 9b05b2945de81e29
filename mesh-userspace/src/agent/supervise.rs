//! The worker process: started confined to its own cgroup with one descriptor, spoken to over the link, replaced when it
//! ends or falls silent.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_core::snapshot::Snapshot;
use mesh_core::workload::WorkloadId;
use mesh_identity::store;
use mesh_proxy::link::{self, AgentEnd, LinkError, SocketKind, ToAgent, ToWorker, WORKER_FD};
use nix::fcntl::OFlag;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroize;

use super::AgentError;
use super::options::Options;

/// The worker tells figures every second. One that has been silent for this long answers nobody.
const SILENCE: Duration = Duration::from_secs(10);

/// From the start of a process to its `Ready`.
const START: Duration = Duration::from_secs(20);

/// A worker is replaced at once; only of those that die as soon as they are started each waits longer, up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A worker that ran for this long did not die of what it was started with. Not longer: whoever has to wait for the next
/// one is a connection that was accepted already.
const SETTLED: Duration = Duration::from_secs(1);

/// A message for the worker, with what goes beside it.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(ToWorker, Vec<OwnedFd>),
    World(Arc<Snapshot>),
    Identities(store::Snapshot),
    Sockets {
        workload: WorkloadId,
        kind: SocketKind,
        sockets: Vec<OwnedFd>,
    },
    /// The last: the worker is told that no more comes, at once and not when the agent's process has ended, which can take
    /// seconds. Answered when everything before it was sent.
    HangUp(oneshot::Sender<()>),
}

/// What happens to a worker.
#[derive(Debug)]
pub(crate) enum Event {
    /// It said something.
    Said { generation: u32, message: ToAgent },
    /// It ended.
    Ended { generation: u32, status: String },
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) generation: u32,
    pub(crate) pid: Option<u32>,
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
    /// It is confined and its threads run.
    pub(crate) ready: bool,
    started: Instant,
    heard: Instant,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    end: Option<oneshot::Sender<()>>,
}

impl Worker {
    /// Starts a process. What happens to it arrives on `events`.
    pub(crate) fn start(
        generation: u32,
        cgroup: &Path,
        options: &Options,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, AgentError> {
        let failed = |step| move |source| AgentError::System { step, source };
        let (ours, theirs) = link::pair()
            .map_err(io::Error::other)
            .map_err(failed("cannot make the link to a worker"))?;
        let words = words(options).map_err(failed("cannot make a pipe for a worker's log"))?;
        let child =
            spawn(cgroup, options, &theirs, words).map_err(failed("cannot start a worker"))?;
        drop(theirs);
        let link = AgentEnd::new(ours)
            .map_err(io::Error::other)
            .map_err(failed("cannot use the link to a worker"))?;
        let link = Arc::new(link);
        let pid = child.id();
        let (outgoing, queue) = mpsc::unbounded_channel();
        let (end, ended) = oneshot::channel();
        tokio::spawn(write(Arc::clone(&link), queue, generation));
        let reader = tokio::spawn(read(link, generation, events.clone()));
        tokio::spawn(async move {
            let status = wait(child, ended).await;
            // What the worker said last is still on the link; it is heard before its end is.
            if let Err(error) = reader.await {
                tracing::error!(%error, "the reader of the link to the worker failed");
            }
            let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            // The agent is ending when nobody listens.
            drop(events.send(Event::Ended { generation, status }).await);
        });
        let now = Instant::now();
        Ok(Self {
            generation,
            pid,
            cgroup: cgroup.to_owned(),
            ready: false,
            started: now,
            heard: now,
            outgoing,
            end: Some(end),
        })
    }

    /// Says something, in order, without waiting.
    pub(crate) fn say(&self, outgoing: Outgoing) {
        // A worker that is gone is replaced; its successor is told everything anew.
        drop(self.outgoing.send(outgoing));
    }

    /// It was heard.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Whether it has been silent for too long.
    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        match self.ready {
            true => now.duration_since(self.heard) > SILENCE,
            false => now.duration_since(self.started) > START,
        }
    }

    /// Ends it, without asking.
    pub(crate) fn kill(&mut self) {
        if let Some(end) = self.end.take() {
            // An error says that nobody waits for this: it has ended by itself.
            end.send(()).unwrap_or_default();
        }
    }

    /// How long it has been there.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.started)
    }
}

/// How long to wait before the next worker is started.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// The wait after a worker that lived for `age`.
    pub(crate) fn after(&mut self, age: Duration) -> Duration {
        if age >= SETTLED {
            self.deaths = 0;
        }
        let wait = match self.deaths {
            0 => Duration::ZERO,
            deaths => Duration::from_millis(50)
                .saturating_mul(1 << deaths.min(10))
                .min(LONGEST_WAIT),
        };
        self.deaths += 1;
        wait
    }
}

/// Where a worker's log goes: to ours. In a container it must not hold what the container's is written to, for which a
/// runtime waits when the container ends; so there it goes through the agent, as long as there is one. A full pipe loses
/// lines, rather than hold up the worker.
fn words(options: &Options) -> io::Result<Stdio> {
    if options.cluster().is_none() {
        return Ok(Stdio::inherit());
    }
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let mut read = tokio::net::unix::pipe::Receiver::from_owned_fd(read)?;
    tokio::spawn(async move {
        let mut piece = vec![0; 4096];
        while let Ok(length @ 1..) = read.read(&mut piece).await {
            // As any line of our own: lost where nobody takes it.
            drop(io::stderr().write_all(&piece[..length]));
        }
    });
    Ok(write.into())
}

/// Starts the process: in its cgroup before it is another program, with the link as its only descriptor beside the
/// standard ones, and with nothing of the agent's environment.
fn spawn(cgroup: &Path, options: &Options, link: &OwnedFd, words: Stdio) -> io::Result<Child> {
    let log = &options.log;
    let procs = |folder: &Path| {
        let path = folder.join("cgroup.procs");
        OpenOptions::new().write(true).open(path)
    };
    let older: Vec<File> = options
        .host
        .older_hierarchies()
        .iter()
        .filter_map(|folder| procs(folder).ok())
        .collect();
    let procs = procs(cgroup)?;
    let raw = link.as_raw_fd();
    // Our own binary, also when the file was replaced by an upgrade since.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("warren")
        .args([
            "proxy",
            "--log-level",
            &log.log_level,
            "--log-format",
            log.log_format.label(),
        ])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(words)
        // Ctrl-C is for the agent, which drains its worker.
        .process_group(0)
        .kill_on_drop(false);
    let prepare = move || {
        (&procs).write_all(b"0")?;
        for mut older in &older {
            // Where that is not possible, the worker ends with the agent's container.
            drop(older.write_all(b"0"));
        }
        // SAFETY: `raw` is open until spawn returns; these calls are async-signal-safe and touch descriptors only.
        let placed = unsafe {
            if raw == WORKER_FD {
                libc::fcntl(raw, libc::F_SETFD, 0)
            } else {
                libc::dup2(raw, WORKER_FD)
            }
        };
        if placed < 0 {
            return Err(io::Error::last_os_error());
        }
        // Everything of ours is close-on-exec already; this holds for what a library may have forgotten.
        // SAFETY: as above; the process is about to become another program.
        let closed = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                WORKER_FD + 1,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        match closed {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes system calls only (no allocation, no lock), as must be between fork and exec.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

async fn wait(mut child: Child, ended: oneshot::Receiver<()>) -> io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        Ok(()) = ended => child.start_kill()?,
    }
    child.wait().await
}

async fn read(link: Arc<AgentEnd>, generation: u32, events: mpsc::Sender<Event>) {
    loop {
        match link.recv().await {
            // Descriptors that came along are closed: a worker has none that the agent wants.
            Ok(Some(received)) => {
                let message = received.message;
                if events
                    .send(Event::Said {
                        generation,
                        message,
                    })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Ok(None) => return,
            Err(error @ LinkError::Socket { .. }) => {
                tracing::debug!(
                    generation,
                    error = chain(&error),
                    "the link to the worker broke"
                );
                return;
            }
            // Only this message is lost.
            Err(error) => tracing::warn!(
                generation,
                error = chain(&error),
                "a message of the worker was not understood"
            ),
        }
    }
}

async fn write(link: Arc<AgentEnd>, mut queue: mpsc::UnboundedReceiver<Outgoing>, generation: u32) {
    while let Some(outgoing) = queue.recv().await {
        let sent = match outgoing {
            Outgoing::Message(message, descriptors) => {
                let descriptors: Vec<BorrowedFd<'_>> =
                    descriptors.iter().map(AsFd::as_fd).collect();
                link.send(&message, &descriptors).await
            }
            Outgoing::World(snapshot) => link.send_world(&snapshot.world).await,
            Outgoing::Identities(snapshot) => send_identities(&link, &snapshot).await,
            Outgoing::Sockets {
                workload,
                kind,
                sockets,
            } => link.send_sockets(workload, kind, &sockets).await,
            Outgoing::HangUp(done) => {
                let hung_up = link.hang_up();
                // An error says that nobody waits any more.
                done.send(()).unwrap_or_default();
                hung_up
            }
        };
        if let Err(error) = sent {
            tracing::debug!(
                generation,
                error = chain(&error),
                "a message did not reach the worker"
            );
        }
    }
}

async fn send_identities(link: &AgentEnd, snapshot: &store::Snapshot) -> Result<(), LinkError> {
    let mut identities = link::Identities {
        trust_domain: snapshot.bundle.trust_domain().clone(),
        certificates: snapshot
            .certificates
            .iter()
            .map(|certificate| certificate.to_handover().to_vec())
            .collect(),
        roots: snapshot.bundle.to_der(),
        generation: snapshot.generation,
    };
    let sent = link.send_identities(&identities).await;
    // Keys do not stay behind in freed memory.
    for certificate in &mut identities.certificates {
        certificate.zeroize();
    }
    sent
}

/// An error with its causes, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_worker_after_another_starts_at_once_and_a_crash_loop_slows_down() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..7)
            .map(|_| backoff.after(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(
            backoff.after(SETTLED),
            Duration::ZERO,
            "a settled worker begins the count anew"
        );
    }
}
