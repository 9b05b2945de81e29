//! From which port a delivery is made as the client.
//!
//! The client's kernel keeps the ports of its own connections apart, and this one the ports of deliveries; nobody keeps
//! the one from the other. But where the client dials the workload itself (a permissive workload, connections that are
//! older than enrolment, the end of the mesh) both are connections from the client's address to the application's, in
//! one namespace, which knows them by these and the ports alone:
//!
//! ```text
//!  client:40000 ──── its own dial ────► application:8080 ┐
//!                                                        ├─ one connection, says the kernel
//!  client:40000 ────── delivery ──────► application:8080 ┘
//! ```
//!
//! Whichever comes second is not answered for as long as the first lives. So deliveries use ports that clients do not: Linux
//! takes even ones for `connect` until they are used up (since 4.2; net/ipv4/inet_hashtables.c), from 32768 to 60999
//! unless told otherwise. A port may serve any number of destinations, and may be used again at once after a
//! connection: only what is open is in the way.

use rand::RngExt as _;

/// Odd ports from the first, so many.
struct Range {
    first: u16,
    count: u16,
    tries: usize,
}

/// Where no client takes its ports from, as long as nobody told it otherwise. Each connection of one client to one
/// application that is open is in the way, so there are more, and few tries.
const ABOVE: Range = Range {
    first: 61_001,
    count: 2_268,
    tries: 2,
};

/// Where clients take theirs from if they bind before they dial, or have used up the even ones.
const AMONG: Range = Range {
    first: 32_769,
    count: 14_116,
    tries: 4,
};

/// To leave it to the kernel: any that is free, however long it has to look.
const ANY: u16 = 0;

/// The ports to try, one after the other.
pub(super) fn candidates() -> impl Iterator<Item = u16> {
    [ABOVE, AMONG]
        .into_iter()
        .flat_map(|range| (0..range.tries).map(move |_| range.draw()))
        .chain([ANY])
}

impl Range {
    fn draw(&self) -> u16 {
        self.first + 2 * rand::rng().random_range(0..self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_odd_and_of_their_range_until_the_kernel_decides() {
        for _ in 0..1_000 {
            let ports: Vec<u16> = candidates().collect();
            let (last, ours) = ports.split_last().unwrap();
            assert_eq!(*last, ANY);
            assert!(ours.iter().all(|port| port % 2 == 1), "{ports:?}");
            assert!(ours[..2].iter().all(|port| *port > 60_999), "{ports:?}");
            let among = 32_768..61_000;
            assert!(
                ours[2..].iter().all(|port| among.contains(port)),
                "{ports:?}"
            );
        }
    }

    #[test]
    fn the_last_ports_are_the_last_there_are() {
        assert_eq!(ABOVE.first + 2 * (ABOVE.count - 1), u16::MAX);
        assert_eq!(AMONG.first + 2 * (AMONG.count - 1), 60_999);
    }
}
