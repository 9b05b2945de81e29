//! `warren-fault --call bpf|netlink [--fail N --error ENOMEM] --log FILE -- PROGRAM…`: becomes a program whose N-th system
//! call of a kind fails, whichever of its threads or processes makes it. Every call of the kind is a line of the log.
//!
//! The calls are held by a seccomp filter and judged by a supervisor (`seccomp_unotify(2)`), a process of its own that
//! ends with the program. Unlike a tracer it counts over all threads together, and costs nothing for other calls.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{self, Command};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use mesh_tests::host::fault::{Kind, Plan, Supervisor, hold};
use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

#[derive(Parser)]
#[command(
    name = "warren-fault",
    about = "Make one system call of a program fail"
)]
struct Arguments {
    /// Which calls.
    #[arg(long)]
    call: Kind,
    /// Which of them fails, from 1; none when left out.
    #[arg(long)]
    fail: Option<u64>,
    /// How it fails.
    #[arg(long, default_value = "ENOMEM")]
    error: String,
    /// Where the calls are written down.
    #[arg(long)]
    log: PathBuf,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("make a pair of sockets")?;
    // SAFETY: this process has one thread, so the child may do anything.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Child => {
            drop(ours);
            // Once more, so that the supervisor is no child of the program.
            // SAFETY: as above.
            if let ForkResult::Child = unsafe { fork() }.context("fork")? {
                supervise(&arguments, theirs)?;
            }
            process::exit(0);
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            waitpid(child, None).context("wait for the child")?;
            become_program(&arguments, &ours)
        }
    }
}

fn become_program(arguments: &Arguments, supervisor: &OwnedFd) -> Result<()> {
    let listener = hold(arguments.call)?;
    let listeners = [listener.as_raw_fd()];
    sendmsg::<()>(
        supervisor.as_raw_fd(),
        &[IoSlice::new(b".")],
        &[ControlMessage::ScmRights(&listeners)],
        MsgFlags::empty(),
        None,
    )
    .context("hand the filter's listener over")?;
    drop(listener);
    let (name, rest) = arguments
        .program
        .split_first()
        .context("there is no program to run")?;
    let error = Command::new(name).args(rest).exec();
    Err(error).with_context(|| format!("run {name}"))
}

fn supervise(arguments: &Arguments, from: OwnedFd) -> Result<()> {
    let listener = receive(&from)?;
    drop(from);
    let error = errno(&arguments.error)?;
    let log = File::create(&arguments.log)
        .with_context(|| format!("create {}", arguments.log.display()))?;
    let plan = Plan {
        call: arguments.call,
        fail: arguments.fail.map(|number| (number, error)),
    };
    Supervisor::new(listener, plan, log).run()
}

fn receive(from: &OwnedFd) -> Result<OwnedFd> {
    let mut byte = [0];
    let mut vectors = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!(i32);
    let message = recvmsg::<()>(
        from.as_raw_fd(),
        &mut vectors,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .context("take the filter's listener over")?;
    for control in message.cmsgs().context("read the control message")? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            ensure!(descriptors.len() == 1, "not one descriptor");
            // SAFETY: the kernel has just installed it for us; nobody else owns it.
            return Ok(unsafe { OwnedFd::from_raw_fd(descriptors[0]) });
        }
    }
    bail!("the program ended before it was supervised")
}

fn errno(name: &str) -> Result<i32> {
    Ok(match name {
        "ENOMEM" => libc::ENOMEM,
        "EPERM" => libc::EPERM,
        "E2BIG" => libc::E2BIG,
        "ENOBUFS" => libc::ENOBUFS,
        "EBUSY" => libc::EBUSY,
        other => bail!("{other} is not an error that calls are made to fail with"),
    })
}
