//! Network namespaces of workloads: opening, recognising and visiting them.
//!
//! A visit is a thread of its own that enters the namespace, does one piece of work and ends. It is never reused and never
//! the caller's: no error path can leave a runtime's thread in the wrong namespace. It costs some tens of microseconds,
//! which is paid per batch of sockets and per enrolment, never per connection.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

use crate::netlink::interfaces;

/// Opens the network namespace of a process.
///
/// # Errors
/// The operating system's answer: no such process, or no right.
pub fn of_pid(pid: u32) -> io::Result<OwnedFd> {
    open(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// Opens a network namespace by a path, e.g. `/run/netns/NAME`.
///
/// # Errors
/// The operating system's answer.
pub fn open(path: &Path) -> io::Result<OwnedFd> {
    File::open(path).map(OwnedFd::from)
}

/// The kernel's cookie of a network namespace: 64 bits, never used twice while the machine runs.
///
/// # Errors
/// The descriptor is not a network namespace, or we may not enter it.
pub fn cookie_of(namespace: BorrowedFd<'_>) -> io::Result<u64> {
    visit(namespace, own_cookie)
}

/// The addresses that others can reach in a network namespace, IPv4 first of each interface.
///
/// # Errors
/// The descriptor is not a network namespace, or we may not enter it.
pub fn addresses_of(namespace: BorrowedFd<'_>) -> io::Result<Vec<IpAddr>> {
    let interfaces = visit(namespace, interfaces::list)?;
    Ok(interfaces
        .into_iter()
        .flat_map(|interface| interface.addresses)
        .collect())
}

/// Whether a network namespace has an interface whose other end is in the calling thread's, the node's.
///
/// # Errors
/// The descriptor is not a network namespace, or we may not enter it.
pub fn is_connected(namespace: BorrowedFd<'_>) -> io::Result<bool> {
    for interface in visit(namespace, interfaces::list)? {
        if interfaces::host_end(&interface, namespace)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a network namespace is the node's own: the one that this process is in.
///
/// # Errors
/// One of them cannot be looked at.
pub fn is_own(namespace: BorrowedFd<'_>) -> io::Result<bool> {
    let own = open(Path::new("/proc/thread-self/ns/net"))?;
    Ok(identity(own.as_fd())? == identity(namespace)?)
}

/// The cookie of the calling thread's namespace.
pub(crate) fn own_cookie() -> io::Result<u64> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes, which is the size of `cookie`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// Does `work` on a thread that is in `namespace`. Blocks until it is done.
pub(crate) fn visit<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("warren-netns".to_owned())
            .spawn_scoped(scope, || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                work()
            })?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a piece of work in a namespace panicked")))
    })
}

/// A namespace that can be visited: a workload's, or the node's own, for which no thread is needed.
#[derive(Debug)]
pub(crate) enum Place {
    /// The node's own namespace.
    Node,
    /// Another one.
    Namespace(OwnedFd),
}

impl Place {
    /// Does `work` there.
    pub(crate) fn visit<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        match self {
            Self::Node => work(),
            Self::Namespace(fd) => visit(fd.as_fd(), work),
        }
    }
}

/// Device and inode: the same for every descriptor of one namespace.
pub(crate) type Identity = (u64, u64);

/// What tells a namespace from others while it exists.
pub(crate) fn identity(namespace: BorrowedFd<'_>) -> io::Result<Identity> {
    let stat = nix::sys::stat::fstat(namespace)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The namespaces that a process is in or that have a name.
pub(crate) fn used() -> HashSet<Identity> {
    places()
        .iter()
        .filter_map(|path| std::fs::metadata(path).ok())
        .map(|metadata| (metadata.dev(), metadata.ino()))
        .collect()
}

/// Finds the namespace with this cookie among those of the machine's processes and named ones.
///
/// One that only a descriptor somewhere still holds is not found; it has no process, so nothing in it matters.
pub(crate) fn find(cookie: u64) -> Option<OwnedFd> {
    let mut seen = HashSet::new();
    for path in places() {
        let Ok(file) = File::open(&path) else {
            continue;
        };
        if identity(file.as_fd()).is_ok_and(|identity| seen.insert(identity))
            && cookie_of(file.as_fd()).is_ok_and(|found| found == cookie)
        {
            return Some(file.into());
        }
    }
    None
}

/// Folders in which runtimes give namespaces names. In a container of its own the node's are seen through its first
/// process.
const NAMED: [&str; 5] = [
    "/run/netns",
    "/var/run/netns",
    "/run/docker/netns",
    concat!("/proc/1/root", "/run/netns"),
    concat!("/proc/1/root", "/var/run/netns"),
];

/// Where namespaces can be found: named ones, and those of processes.
fn places() -> Vec<PathBuf> {
    let processes = children(Path::new("/proc"))
        .into_iter()
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        })
        .map(|path| path.join("ns/net"));
    NAMED
        .into_iter()
        .flat_map(|folder| children(Path::new(folder)))
        .chain(processes)
        .collect()
}

fn children(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).map_or_else(
        |_| Vec::new(),
        |entries| {
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        },
    )
}
