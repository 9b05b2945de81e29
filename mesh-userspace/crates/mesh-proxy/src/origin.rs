//! Where an application dialled before the kernel sent it here, and who dialled: asked of the accepted socket.
//! It only reads and checks; it decides nothing.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use mesh_common::LAYOUT_VERSION;
use mesh_common::origin::Origin;
use mesh_core::addr::{OrigDst, canonical};
use mesh_core::record::Process;
use mesh_core::workload::WorkloadId;

/// What is remembered of a dial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Dialled {
    /// Where to.
    pub(crate) destination: OrigDst,
    /// By whom.
    pub(crate) process: Process,
    /// When, ns of `CLOCK_MONOTONIC`.
    at: u64,
}

impl Dialled {
    /// How long ago the application called `connect()`.
    pub(crate) fn age(&self) -> Duration {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the pointer is to a timespec that outlives the call.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0;
        if failed {
            return Duration::ZERO;
        }
        let now = Duration::new(
            u64::try_from(now.tv_sec).unwrap_or(0),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        );
        now.saturating_sub(Duration::from_nanos(self.at))
    }
}

/// The connection cannot be placed, so it must not go anywhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoOrigin {
    /// Nobody dialled anything: somebody connected to the proxy's own port, or the kernel had no room to remember.
    #[error("the connection was not sent here by the kernel: somebody dialled the proxy itself")]
    Missing(#[source] io::Error),
    /// The record is of another layout.
    #[error(
        "the kernel's record has layout version {0}, not {LAYOUT_VERSION}; agent and worker do not fit"
    )]
    Version(u16),
    /// The record is not one that the kernel programs write.
    #[error("the kernel's record is damaged: {0}")]
    Damaged(&'static str),
    /// It came to the listener of another workload.
    #[error("workload {dialled_by} dialled, but it arrived at workload {listener}")]
    WrongWorkload {
        /// Who dialled, says the kernel.
        dialled_by: WorkloadId,
        /// Whose listener it is.
        listener: WorkloadId,
    },
}

/// Gives the kernel's record of an accepted connection.
pub(crate) trait OriginOf: Send + Sync {
    /// The record.
    ///
    /// # Errors
    /// When there is none.
    fn origin_of(&self, socket: BorrowedFd<'_>) -> io::Result<Origin>;
}

/// The kernel itself: `getsockopt(SOL_IP, SO_ORIGINAL_DST)`, answered by the `origdst` program for both families.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel;

impl OriginOf for Kernel {
    fn origin_of(&self, socket: BorrowedFd<'_>) -> io::Result<Origin> {
        let mut origin = MaybeUninit::<Origin>::zeroed();
        let mut length = size_of::<Origin>() as libc::socklen_t;
        // SAFETY: the buffer is valid for the length that is passed.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_IP,
                mesh_common::SO_ORIGINAL_DST,
                origin.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // Netfilter answers the same option with a sockaddr of 16 bytes where our program is not attached.
        if length as usize != size_of::<Origin>() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is not the eBPF program's; it is not attached to the cgroup of this socket",
            ));
        }
        // SAFETY: all bytes are initialised (zeroed, then written by the kernel), and any bytes are a valid Origin.
        Ok(unsafe { origin.assume_init() })
    }
}

/// Asks for the record of a connection that arrived at the outbound listener of `listener`.
///
/// # Errors
/// [`NoOrigin`]: the connection is to be reset.
pub(crate) fn recover(
    kernel: &dyn OriginOf,
    connection: &impl AsFd,
    listener: WorkloadId,
) -> Result<Dialled, NoOrigin> {
    let origin = kernel
        .origin_of(connection.as_fd())
        .map_err(NoOrigin::Missing)?;
    check(&origin, listener)
}

fn check(origin: &Origin, listener: WorkloadId) -> Result<Dialled, NoOrigin> {
    let Origin {
        version,
        family,
        port,
        listener_port: _,
        address,
        workload,
        pid,
        uid,
        padding: _,
        cgroup: _,
        netns: _,
        dialled_at,
    } = *origin;
    if version != LAYOUT_VERSION {
        return Err(NoOrigin::Version(version));
    }
    if i32::from(family) != libc::AF_INET && i32::from(family) != libc::AF_INET6 {
        return Err(NoOrigin::Damaged(
            "its address family is neither IPv4 nor IPv6",
        ));
    }
    if port == 0 {
        return Err(NoOrigin::Damaged("it has no port"));
    }
    if WorkloadId(workload) != listener {
        return Err(NoOrigin::WrongWorkload {
            dialled_by: WorkloadId(workload),
            listener,
        });
    }
    let address = IpAddr::V6(Ipv6Addr::from(address));
    let destination = SocketAddr::new(address, u16::from_be(port));
    Ok(Dialled {
        destination: OrigDst(canonical(destination)),
        process: Process { pid, uid },
        at: dialled_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin {
            version: LAYOUT_VERSION,
            family: 2,
            port: 8080_u16.to_be(),
            listener_port: 0,
            address: mesh_common::address::v4_mapped([10, 200, 0, 9]),
            workload: 5,
            pid: 77,
            uid: 1000,
            padding: 0,
            cgroup: 1,
            netns: 2,
            dialled_at: 3,
        }
    }

    #[test]
    fn a_good_record_says_where_and_who() {
        let dialled = check(&origin(), WorkloadId(5)).unwrap();
        assert_eq!(dialled.destination.to_string(), "10.200.0.9:8080");
        assert_eq!(dialled.process, Process { pid: 77, uid: 1000 });

        let address = "fd00::9".parse::<Ipv6Addr>().unwrap().octets();
        let six = Origin {
            family: 10,
            address,
            ..origin()
        };
        let dialled = check(&six, WorkloadId(5)).unwrap();
        assert_eq!(dialled.destination.to_string(), "[fd00::9]:8080");
    }

    #[test]
    fn anything_else_is_refused() {
        let bad = |origin: Origin| check(&origin, WorkloadId(5)).unwrap_err();
        let version = Origin {
            version: 9,
            ..origin()
        };
        assert!(matches!(bad(version), NoOrigin::Version(9)));
        let family = Origin {
            family: 1,
            ..origin()
        };
        assert!(matches!(bad(family), NoOrigin::Damaged(_)));
        let port = Origin {
            port: 0,
            ..origin()
        };
        assert!(matches!(bad(port), NoOrigin::Damaged(_)));
        let other = Origin {
            workload: 6,
            ..origin()
        };
        assert!(matches!(bad(other), NoOrigin::WrongWorkload { .. }));
    }

    #[test]
    fn a_connection_that_the_kernel_did_not_send_has_none() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let error = recover(&Kernel, &accepted, WorkloadId(5)).unwrap_err();
        assert!(matches!(error, NoOrigin::Missing(_)), "{error:?}");
    }
}
