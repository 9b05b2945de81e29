//! How much callers may cost.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::HashMap;

use super::Peer;

/// How much callers may cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How long a handshake may take.
    pub handshake: Duration,
    /// Connections without an identity, those that are still shaking hands included.
    pub unidentified: usize,
    /// The same, from one address.
    pub unidentified_of_one: usize,
    /// How long a connection without a certificate may last: enough to enrol.
    pub anonymous: Duration,
    /// Connections of one node.
    pub of_one_node: usize,
    /// How long calls may go on when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            unidentified: 256,
            // Nodes behind one address that all come back at once are through in a fraction of a second.
            unidentified_of_one: 64,
            anonymous: Duration::from_secs(15),
            // A connection that is followed by another before it is known to be dead, and a spare.
            of_one_node: 4,
            drain: Duration::from_secs(5),
        }
    }
}

/// Who holds connections at the moment.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    unidentified: usize,
    by_address: HashMap<IpAddr, usize>,
    by_peer: HashMap<Peer, usize>,
}

/// A place of a connection. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    of: Of,
}

#[derive(Debug)]
enum Of {
    Address(IpAddr),
    Peer(Peer),
}

impl Gate {
    /// A place for a connection that has no identity yet; `None` when there are too many.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Option<Place> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = held.by_address.get(&address).copied().unwrap_or_default();
        if held.unidentified >= limits.unidentified || of_one >= limits.unidentified_of_one {
            return None;
        }
        held.unidentified += 1;
        held.by_address.insert(address, of_one + 1);
        Some(self.place(Of::Address(address)))
    }

    /// A place for a connection of somebody known; `None` when it has too many.
    pub(super) fn welcome(self: &Arc<Self>, peer: &Peer, limits: &Limits) -> Option<Place> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.by_peer.get(peer).copied().unwrap_or_default();
        if matches!(peer, Peer::Node(_)) && count >= limits.of_one_node {
            return None;
        }
        held.by_peer.insert(peer.clone(), count + 1);
        Some(self.place(Of::Peer(peer.clone())))
    }

    fn place(self: &Arc<Self>, of: Of) -> Place {
        Place {
            gate: self.clone(),
            of,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.gate.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &self.of {
            Of::Address(address) => {
                held.unidentified -= 1;
                release(&mut held.by_address, address);
            }
            Of::Peer(peer) => release(&mut held.by_peer, peer),
        }
    }
}

fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let gate = Arc::new(Gate::default());
        let limits = Limits {
            unidentified: 3,
            unidentified_of_one: 2,
            of_one_node: 1,
            ..Limits::default()
        };
        let [a, b] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        let first = gate.enter(a, &limits).expect("room");
        let second = gate.enter(a, &limits).expect("room");
        assert!(gate.enter(a, &limits).is_none(), "too many of one address");
        let third = gate.enter(b, &limits).expect("room");
        assert!(gate.enter(b, &limits).is_none(), "too many");
        drop((first, third));
        assert!(gate.enter(b, &limits).is_some());
        let node = Peer::Node("n1".to_owned());
        let place = gate.welcome(&node, &limits).expect("room");
        assert!(gate.welcome(&node, &limits).is_none(), "too many of a node");
        drop((place, second));
        assert!(gate.welcome(&node, &limits).is_some());
        let held = gate.0.lock().expect("not poisoned");
        assert_eq!((held.unidentified, held.by_address.len()), (0, 0));
    }
}
