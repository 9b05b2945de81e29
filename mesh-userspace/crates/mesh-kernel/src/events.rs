//! Drops and refusals, from the ring buffer, in the terms of a flow record.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use aya::maps::{Map, MapData, RingBuf};
use mesh_common::LAYOUT_VERSION;
use mesh_common::counter::Reason;
use mesh_common::event::Event;
use mesh_core::workload::WorkloadId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::address::{from_bytes, socket};
use crate::error::KernelError;
use crate::types::Drop;

/// Most events that one call returns, so that a flood of drops does not keep a runtime's thread.
const BATCH: usize = 256;

/// Drops and refusals as they happen. What is lost when nobody reads is counted by the kernel (`event_lost`).
pub struct EventStream {
    ring: RingBuf<MapData>,
    /// The ring's own descriptor again, so that waiting and reading can be borrowed apart.
    ready: AsyncFd<OwnedFd>,
}

impl EventStream {
    pub(crate) fn open(map: &MapData) -> Result<Self, KernelError> {
        let open = || -> io::Result<Self> {
            let fd = map.fd().as_fd().try_clone_to_owned()?;
            // SAFETY: the stream owns the duplicate and never closes or replaces it while it is registered.
            let ready =
                unsafe { AsyncFd::register_with_interest(fd.try_clone()?, Interest::READABLE) }?;
            let map = MapData::from_fd(fd).map_err(io::Error::other)?;
            let ring = RingBuf::try_from(Map::RingBuf(map)).map_err(io::Error::other)?;
            Ok(Self { ring, ready })
        };
        open().map_err(|source| KernelError::Bpf {
            operation: "read",
            object: format!("map {}", mesh_common::names::map::EVENTS),
            source,
        })
    }

    /// The next ones: waits until there is at least one. Cancel-safe.
    ///
    /// # Errors
    /// The runtime's I/O is gone.
    pub async fn next(&mut self) -> io::Result<Vec<Drop>> {
        loop {
            // Taken before the check, so that an event between check and wait wakes us.
            let mut guard = self.ready.readable().await?;
            let mut events = Vec::new();
            while let Some(item) = self.ring.next() {
                events.extend(parse(&item));
                if events.len() == BATCH {
                    return Ok(events);
                }
            }
            guard.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventStream")
    }
}

/// An event, if it is one of this layout with a reason that this build knows.
pub(crate) fn parse(bytes: &[u8]) -> Option<Drop> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: the slice holds a whole `Event`, whose every bit pattern is a value; unaligned reads are allowed for.
    let event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
    if event.version != LAYOUT_VERSION {
        return None;
    }
    let present = |value: u64| (value != 0).then_some(value);
    Some(Drop {
        reason: Reason::from_u32(event.reason)?,
        workload: (event.workload != 0).then_some(WorkloadId(event.workload)),
        source: socket(event.source, event.source_port),
        destination: std::net::SocketAddr::new(
            from_bytes(event.destination),
            event.destination_port,
        ),
        protocol: event.protocol,
        owner: present(event.owner),
        pid: (event.pid != 0).then_some(event.pid),
        interface: (event.interface != 0).then_some(event.interface),
        at: at(event.at),
    })
}

/// The time of day at a moment of the monotonic clock.
fn at(nanoseconds: u64) -> SystemTime {
    let age = monotonic_now().saturating_sub(Duration::from_nanos(nanoseconds));
    SystemTime::now()
        .checked_sub(age)
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// `CLOCK_MONOTONIC`, the clock of the programs.
pub(crate) fn monotonic_now() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is valid for the write and outlives the call, which cannot fail with this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            version: LAYOUT_VERSION,
            protocol: 6,
            padding: 0,
            reason: Reason::UncapturedTcp as u32,
            workload: 7,
            interface: 3,
            at: 0,
            owner: 42,
            source: mesh_common::address::v4_mapped([10, 0, 0, 1]),
            destination: mesh_common::address::v4_mapped([10, 0, 0, 2]),
            source_port: 4242,
            destination_port: 80,
            pid: 0,
        }
    }

    fn bytes(event: Event) -> Vec<u8> {
        // SAFETY: a `repr(C)` structure of integers without implicit padding.
        unsafe {
            std::slice::from_raw_parts((&raw const event).cast::<u8>(), size_of::<Event>()).to_vec()
        }
    }

    #[test]
    fn an_event_becomes_a_drop() {
        let drop = parse(&bytes(event())).expect("a drop");
        assert_eq!(drop.reason, Reason::UncapturedTcp);
        assert_eq!(drop.workload, Some(WorkloadId(7)));
        assert_eq!(
            drop.source,
            Some("10.0.0.1:4242".parse().expect("an address"))
        );
        assert_eq!(drop.destination, "10.0.0.2:80".parse().expect("an address"));
        assert_eq!(drop.pid, None);
    }

    #[test]
    fn what_is_not_an_event_is_ignored() {
        assert_eq!(parse(&[0; 10]), None);
        let mut other = event();
        other.version = LAYOUT_VERSION + 1;
        assert_eq!(parse(&bytes(other)), None);
        let mut unknown = event();
        unknown.reason = 9999;
        assert_eq!(parse(&bytes(unknown)), None);
    }
}
