//! Making system calls fail: a seccomp filter that holds calls of a kind, and the supervisor that lets them go on, all but
//! one. Used by `warren-fault`; nothing here knows what the program is.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

/// The calls that can fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Kind {
    /// `bpf(2)`.
    Bpf,
    /// `sendto(2)` on a netlink socket: requests to the network configuration.
    Netlink,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpf => "bpf",
            Self::Netlink => "netlink",
        })
    }
}

impl Kind {
    fn number(self) -> i64 {
        match self {
            Self::Bpf => libc::SYS_bpf,
            Self::Netlink => libc::SYS_sendto,
        }
    }
}

/// What is to happen.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// To which calls.
    pub call: Kind,
    /// Which of them fails, from 1, with which error.
    pub fail: Option<(u64, i32)>,
}

/// Signals do not interrupt a held call: it would be made, and counted, twice.
const WAIT_KILLABLE: libc::c_ulong = 1 << 5;

/// The supervisor says: go on.
const CONTINUE: u32 = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;

/// Holds this process's calls of a kind from now on, and those of everything it becomes or starts. Gives the listener by
/// which a supervisor judges them; without one they fail.
pub fn hold(kind: Kind) -> Result<OwnedFd> {
    let statement = |code: u32, jump: (u8, u8), value: u32| libc::sock_filter {
        code: code as u16,
        jt: jump.0,
        jf: jump.1,
        k: value,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut filter = [
        // The number is the first field of `seccomp_data`. Everything here is of this machine's own architecture.
        statement(load, (0, 0), 0),
        statement(equal, (0, 1), u32::try_from(kind.number())?),
        statement(libc::BPF_RET, (0, 0), libc::SECCOMP_RET_USER_NOTIF),
        statement(libc::BPF_RET, (0, 0), libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len())?,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program points at the filter, with its length; both live until after the call.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE,
            &raw const program,
        )
    };
    if listener < 0 {
        return Err(io::Error::last_os_error()).context("install the filter of system calls");
    }
    // SAFETY: the call has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(listener)?) })
}

/// Judges held calls.
pub struct Supervisor {
    listener: OwnedFd,
    plan: Plan,
    log: File,
    count: u64,
}

impl Supervisor {
    /// One that writes calls into `log`.
    pub fn new(listener: OwnedFd, plan: Plan, log: File) -> Self {
        Self {
            listener,
            plan,
            log,
            count: 0,
        }
    }

    /// Judges until nobody is left whose calls are held.
    pub fn run(mut self) -> Result<()> {
        loop {
            let mut poll = libc::pollfd {
                fd: self.listener.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one valid pollfd.
            if unsafe { libc::poll(&raw mut poll, 1, -1) } < 0 {
                continue;
            }
            if poll.revents & libc::POLLIN == 0 {
                return Ok(());
            }
            self.judge_next()?;
        }
    }

    fn judge_next(&mut self) -> Result<()> {
        // SAFETY: plain data, and the kernel wants it zeroed.
        let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is as large as the kernel's of this version or larger.
        let received = unsafe {
            libc::ioctl(
                self.listener.as_raw_fd(),
                SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut call,
            )
        };
        if received < 0 {
            // The caller was killed meanwhile.
            return Ok(());
        }
        let error = if self.concerns(&call) {
            self.count += 1;
            let failing = self.plan.fail.filter(|(number, _)| *number == self.count);
            let mark = if failing.is_some() { " failed" } else { "" };
            writeln!(self.log, "{} {}{mark}", self.count, call.data.args[0])
                .context("write the log")?;
            failing.map(|(_, error)| error)
        } else {
            None
        };
        let answer = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error: error.map_or(0, |error| -error),
            flags: if error.is_some() { 0 } else { CONTINUE },
        };
        // SAFETY: as above.
        let sent = unsafe {
            libc::ioctl(
                self.listener.as_raw_fd(),
                SECCOMP_IOCTL_NOTIF_SEND,
                &raw const answer,
            )
        };
        match io::Error::last_os_error().raw_os_error() {
            _ if sent == 0 => Ok(()),
            Some(libc::ENOENT) => Ok(()),
            other => bail!("the kernel took no answer: {other:?}"),
        }
    }

    fn concerns(&self, call: &libc::seccomp_notif) -> bool {
        match self.plan.call {
            Kind::Bpf => true,
            Kind::Netlink => is_netlink(call.pid, call.data.args[0]),
        }
    }
}

/// Whether a descriptor of a thread is a netlink socket: its inode is listed as one in the thread's network namespace.
fn is_netlink(thread: u32, descriptor: u64) -> bool {
    let Ok(target) = fs::read_link(format!("/proc/{thread}/fd/{descriptor}")) else {
        return false;
    };
    let target = target.to_string_lossy();
    let Some(inode) = target
        .strip_prefix("socket:[")
        .and_then(|rest| rest.strip_suffix(']'))
    else {
        return false;
    };
    fs::read_to_string(format!("/proc/{thread}/net/netlink")).is_ok_and(|sockets| {
        sockets
            .lines()
            .any(|line| line.split_whitespace().next_back() == Some(inode))
    })
}

/// `_IOWR('!', nr, size)`.
const fn notification(number: u64, size: usize) -> u64 {
    (3 << 30) | ((size as u64) << 16) | ((b'!' as u64) << 8) | number
}

const SECCOMP_IOCTL_NOTIF_RECV: u64 = notification(0, size_of::<libc::seccomp_notif>());
const SECCOMP_IOCTL_NOTIF_SEND: u64 = notification(1, size_of::<libc::seccomp_notif_resp>());
