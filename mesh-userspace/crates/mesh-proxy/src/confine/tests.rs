//! Confinement cannot be undone, so each case is a process of its own: this test binary again, with a task.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::*;

const TASK: &str = "CONFINE_TEST_TASK";

fn start(task: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "confine::tests::child",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(TASK, task)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(mut child: Child) -> (ExitStatus, String) {
    drop(child.stdin.take());
    let mut errors = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    (child.wait().unwrap(), errors)
}

/// Not a test of its own: what the processes of the others run.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else {
        return;
    };
    // A panic must not look like success, and must not need files for a backtrace.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::exit(9);
    }));
    give_up_privileges().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let early = std::thread::spawn(move || {
        receiver.recv().unwrap();
        works_and_is_confined();
    });
    filter_system_calls().unwrap();
    match task.as_str() {
        "serve" => {
            sender.send(()).unwrap();
            early.join().unwrap();
            std::thread::spawn(works_and_is_confined).join().unwrap();
            runtime.block_on(async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                tokio::task::spawn_blocking(works_and_is_confined)
                    .await
                    .unwrap();
            });
            works_and_is_confined();
            println!("CONFINED");
            std::io::stdin().read_line(&mut String::new()).unwrap();
        }
        "exec" => {
            // SAFETY: a path, and no arguments; it does not return when it succeeds.
            unsafe {
                libc::syscall(
                    libc::SYS_execve,
                    c"/bin/true".as_ptr(),
                    std::ptr::null::<u8>(),
                    std::ptr::null::<u8>(),
                )
            };
        }
        "bpf" => {
            // SAFETY: no arguments to speak of.
            unsafe { libc::syscall(libc::SYS_bpf, 0, 0, 0) };
        }
        other => panic!("{other}"),
    }
    std::process::exit(0);
}

/// What a worker does works; what it must not do does not.
fn works_and_is_confined() {
    let memory = vec![1_u8; 64 << 20];
    assert_eq!(memory.iter().map(|b| u64::from(*b)).sum::<u64>(), 64 << 20);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut random = [0; 32];
    provider.secure_random.fill(&mut random).unwrap();
    assert_ne!(random, [0; 32]);
    provider.kx_groups[0].start().unwrap();

    let denied = |result: io::Error| assert_eq!(result.raw_os_error(), Some(libc::EPERM));
    denied(std::fs::File::open("/proc/self/status").unwrap_err());
    denied(std::fs::File::create("/tmp/x").unwrap_err());
    denied(std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err());
    denied(std::os::unix::net::UnixStream::pair().unwrap_err());
    // SAFETY: fresh anonymous memory; nothing is touched.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_eq!(mapped, libc::MAP_FAILED);
    // SAFETY: fork in a filter's sight: it fails, so there is no child.
    assert_eq!(unsafe { libc::fork() }, -1);
    denied(io::Error::last_os_error());
    // SAFETY: signal 0 only asks.
    assert_eq!(unsafe { libc::kill(1, 0) }, -1);
    denied(io::Error::last_os_error());
}

#[test]
fn every_thread_works_confined_and_no_capability_is_left() {
    let mut child = start("serve");
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("CONFINED") {
        line.clear();
        if lines.read_line(&mut line).unwrap() == 0 {
            panic!("{:?}", finish(child));
        }
    }
    let root = geteuid().is_root();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    for task in tasks {
        let task = task.unwrap();
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let value = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap()
                .trim()
        };
        assert_eq!(value("Seccomp"), "2");
        assert_eq!(value("NoNewPrivs"), "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(value(set), "0000000000000000", "{set}");
        }
        if root {
            // The main thread is libtest's, and older than the test's own: bounding sets belong to threads.
            if task.file_name().to_string_lossy() != child.id().to_string() {
                assert_eq!(value("CapBnd"), "0000000000000000");
            }
            assert_eq!(value("Uid"), "65534\t65534\t65534\t65534");
            assert_eq!(value("Groups"), "");
        }
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"));
    writeln!(child.stdin.as_mut().unwrap()).unwrap();
    let (status, errors) = finish(child);
    assert!(status.success(), "{status}: {errors}");
}

#[test]
fn hostile_calls_end_the_process() {
    for task in ["exec", "bpf"] {
        let (status, errors) = finish(start(task));
        assert_eq!(
            status.signal(),
            Some(libc::SIGSYS),
            "{task}: {status}: {errors}"
        );
    }
}
