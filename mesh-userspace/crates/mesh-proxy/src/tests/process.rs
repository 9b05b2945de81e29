//! The worker as a process of its own, confined as in earnest: this test binary again, with the link on descriptor 3.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use mesh_core::outcome::Reason;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::agent::*;
use super::apps::*;
use super::inside;
use super::scene::*;
use crate::link::{self, Purpose, SocketKind};

const WORKER: &str = "MESH_PROXY_TEST_WORKER";

/// Not a test of its own: what the worker's process runs.
#[test]
fn worker() {
    if std::env::var_os(WORKER).is_none() {
        return;
    }
    if let Err(error) = crate::worker::run(crate::memory::Memory::default()) {
        eprintln!("{error:?}");
        std::process::exit(1);
    }
    // The rest of the test harness would only miss what the worker gave up.
    std::process::exit(0);
}

/// Does not outlive its test: it holds the test's output open, and whoever reads that would wait for it for ever.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(link: &OwnedFd) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "tests::process::worker", "--nocapture"])
        .env(WORKER, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let raw = link.as_raw_fd();
    // SAFETY: dup2 is async-signal-safe; the copy is not close-on-exec.
    unsafe {
        command.pre_exec(move || {
            if libc::dup2(raw, link::WORKER_FD) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            // A descriptor that is 3 already keeps its flag.
            libc::fcntl(link::WORKER_FD, libc::F_SETFD, 0);
            Ok(())
        });
    }
    Process(command.spawn().unwrap())
}

fn worker_process() -> (Agent, Process) {
    let (agent, worker) = link::pair().unwrap();
    let process = start(&worker);
    (Agent::new(agent), process)
}

async fn exited(mut process: Process) -> ExitStatus {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        if let Some(status) = process.0.try_wait().unwrap() {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not exit");
}

fn terminate(process: &Process) {
    let pid = Pid::from_raw(i32::try_from(process.0.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
}

#[test]
fn a_confined_worker_carries_connections_and_drains_on_sigterm() {
    if !inside("tests::process::a_confined_worker_carries_connections_and_drains_on_sigterm") {
        return;
    }
    stage(async {
        let scene = Scene::new();
        let origins = Origins::default();
        let client_node = worker_in_thread(&origins);
        let (server_node, process) = worker_process();
        client_node.hello().await;
        server_node.hello().await;

        let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
        assert!(status.contains("Seccomp:\t2\n"), "{status}");
        let capabilities = status.lines().filter(|line| line.starts_with("CapEff"));
        assert_eq!(
            capabilities.collect::<Vec<_>>(),
            ["CapEff:\t0000000000000000"]
        );

        client_node.tell(&scene, &["client"]).await;
        server_node.tell(&scene, &["web-v1", "web-v2"]).await;
        let client = client_node.enrol("client").await;
        let web = server_node.enrol("web-v1").await;
        let app = App::start("web-v1").await;
        let destination = (address("web-v1"), APP_PORT).into();
        for _ in 0..20 {
            let mut connection = dial(&origins, client, destination).await;
            assert_eq!(greeting(&mut connection).await.unwrap(), "web-v1");
            converse(connection).await;
        }
        assert_eq!(app.callers.borrow().len(), 20);
        let callers = app.callers.borrow().clone();
        assert!(
            callers
                .iter()
                .all(|caller| caller.ip() == address("client"))
        );
        let record = server_node.record(inbound).await;
        assert_eq!(record.reason, Reason::Finished);

        // The kernel has no record of a dial to the outbound listener: nobody was sent there.
        expect_refusal(web.outbound).await;
        server_node
            .record(|record| record.reason == Reason::NoOriginalDestination)
            .await;

        let mut open = dial(&origins, client, destination).await;
        greeting(&mut open).await.unwrap();
        terminate(&process);
        tokio::time::sleep(Duration::from_millis(100)).await;
        converse(open).await;
        assert!(exited(process).await.success());
    });
}

#[test]
fn a_worker_without_its_agent_goes_on() {
    if !inside("tests::process::a_worker_without_its_agent_goes_on") {
        return;
    }
    stage(async {
        let scene = Scene::new();
        let origins = Origins::default();
        let client_node = worker_in_thread(&origins);
        let (server_node, process) = worker_process();
        client_node.hello().await;
        server_node.hello().await;
        client_node.tell(&scene, &["client"]).await;
        server_node.tell(&scene, &["web-v1"]).await;
        let client = client_node.enrol("client").await;
        server_node.enrol("web-v1").await;
        let _app = App::start("web-v1").await;
        let destination = (address("web-v1"), APP_PORT).into();
        let mut old = dial(&origins, client, destination).await;
        greeting(&mut old).await.unwrap();
        // The first dial used the socket of a workload that nobody had dialled; those for the next ones are on their way.
        let delivery = SocketKind {
            purpose: Purpose::Deliver,
            ipv6: false,
        };
        server_node.gave(delivery, 2).await;
        server_node.die().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        // From the reservoir, and through the tunnel that is there.
        let mut new = dial(&origins, client, destination).await;
        greeting(&mut new).await.unwrap();
        converse(old).await;
        converse(new).await;
        terminate(&process);
        assert!(exited(process).await.success());
    });
}

#[test]
fn a_worker_that_nobody_greets_says_so() {
    let (agent, worker) = link::pair().unwrap();
    let mut process = start(&worker);
    drop((agent, worker));
    assert_eq!(process.0.wait().unwrap().code(), Some(1));
}
