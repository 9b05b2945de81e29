//! Counters, always; events for the ring buffer, within each workload's share.

use aya_ebpf::bindings::BPF_NOEXIST;
use mesh_common::LAYOUT_VERSION;
use mesh_common::address::Address;
use mesh_common::counter::{CounterKey, Reason};
use mesh_common::event::Event;
use mesh_ebpf::packet::Packet;
use mesh_ebpf::rate::Rate;

use crate::context::{self, Frame, current};
use crate::maps::{COUNTERS, EVENT_RATES, EVENTS};

/// Counts one occurrence of `reason`.
#[inline(always)]
pub fn add(workload: u32, reason: Reason) {
    let key = CounterKey {
        workload,
        reason: reason as u32,
    };
    if let Some(count) = COUNTERS.get_ptr_mut(&key) {
        // Per CPU, but a program may be interrupted by another on the same CPU.
        context::add(count, 1);
        return;
    }
    if COUNTERS.insert(&key, &1, BPF_NOEXIST.into()).is_ok() {
        return;
    }
    // Another CPU made the entry meanwhile; or the map is full, and then nothing can be counted.
    if let Some(count) = COUNTERS.get_ptr_mut(&key) {
        context::add(count, 1);
    }
}

/// Counts and reports a packet that is dropped. `packet` is absent when its headers could not be read.
#[inline(always)]
pub fn dropped(frame: &Frame<'_>, workload: u32, reason: Reason, packet: Option<&Packet>) {
    add(workload, reason);
    let mut event = blank(workload, reason);
    event.interface = frame.interface();
    event.owner = frame.owner();
    if let Some(packet) = packet {
        event.protocol = packet.protocol;
        event.source = packet.source;
        event.destination = packet.destination;
        event.source_port = packet.source_port;
        event.destination_port = packet.destination_port;
    }
    send(&event);
}

/// Counts and reports a dial that is refused. The port is in network byte order.
#[inline(always)]
pub fn refused(workload: u32, reason: Reason, destination: &Address, port: u16) {
    const TCP: u8 = 6;
    add(workload, reason);
    let mut event = blank(workload, reason);
    event.owner = current::cgroup();
    event.pid = current::pid();
    event.protocol = TCP;
    event.destination = *destination;
    event.destination_port = u16::from_be(port);
    send(&event);
}

#[inline(always)]
fn blank(workload: u32, reason: Reason) -> Event {
    Event {
        version: LAYOUT_VERSION,
        protocol: 0,
        padding: 0,
        reason: reason as u32,
        workload,
        interface: 0,
        at: context::now(),
        owner: 0,
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        pid: 0,
    }
}

#[inline(always)]
fn send(event: &Event) {
    let key = CounterKey {
        workload: event.workload,
        reason: event.reason,
    };
    if !has_share_left(&key, event.at) || EVENTS.output_untyped::<Event>(event, 0).is_err() {
        // The counter of the reason itself is right; only the detail of this one is lost.
        add(event.workload, Reason::EventLost);
    }
}

#[inline(always)]
fn has_share_left(key: &CounterKey, now: u64) -> bool {
    if let Some(rate) = EVENT_RATES.get_ptr_mut(key) {
        // SAFETY: a value of this CPU's own, from the lookup above.
        return unsafe { (*rate).admit(now) };
    }
    // A failure only means that the next event starts a window again.
    EVENT_RATES.insert(key, &Rate::starting(now), 0).is_ok()
}
