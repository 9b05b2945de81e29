mod memory;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::addr::OrigDst;
use crate::route::{Decision, decide};
use crate::snapshot::World;
use crate::testing::{addr, random_bits, shop, split};
use crate::workload::Name;

const START: Now = Duration::from_secs(1000);

fn route_in(world: World) -> ServiceRoute {
    let snapshot = Snapshot::new(world);
    let source = Arc::clone(&snapshot.world.workloads[0]);
    match decide(&snapshot, &source, OrigDst(addr("10.200.0.9:80"))) {
        Decision::Service(route) => route,
        other => panic!("not a service: {other:?}"),
    }
}

fn splitting(backends: &[(&str, u32)]) -> ServiceRoute {
    let mut world = shop();
    world.routes = vec![split(backends)];
    route_in(world)
}

/// A route over backends of the given weights, one endpoint each.
fn weighted(weights: &[u32]) -> ServiceRoute {
    let mut route = splitting(&[("v1", 1)]);
    let template = Arc::clone(&route.backends[0].endpoints[0]);
    route.backends = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| {
            let mut endpoint = (*template).clone();
            endpoint.address = format!("10.3.0.{index}").parse().expect("an address");
            let port = route.port;
            RoutedBackend::new(format!("b{index}"), *weight, vec![Arc::new(endpoint)], port)
        })
        .collect();
    route
}

/// A route with a single backend with endpoints of the given weights at 10.4.0.x:8080.
fn endpoints(weights: &[u32]) -> ServiceRoute {
    let mut route = weighted(&[1]);
    let template = Arc::clone(&route.backends[0].endpoints[0]);
    let endpoints = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| {
            let mut endpoint = (*template).clone();
            endpoint.address = format!("10.4.0.{index}").parse().expect("an address");
            endpoint.weight = *weight;
            Arc::new(endpoint)
        })
        .collect();
    route.backends = [RoutedBackend::new(
        "all".to_owned(),
        1,
        endpoints,
        route.port,
    )]
    .into();
    route
}

fn at(index: usize) -> SocketAddr {
    addr(&format!("10.4.0.{index}:8080"))
}

fn count_backends(
    balancer: &mut Balancer,
    route: &ServiceRoute,
    connections: usize,
    random: &mut dyn FnMut() -> u64,
) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..connections {
        let choice = balancer
            .choose(route, &[], START, random)
            .expect("a choice");
        *counts.entry(choice.backend).or_insert(0) += 1;
    }
    counts
}

#[test]
fn shares_are_exact() {
    let route = splitting(&[("v1", 70), ("v2", 30)]);
    for seed in 0..50 {
        let mut random = random_bits(seed);
        let counts = count_backends(&mut Balancer::default(), &route, 500, &mut random);
        assert_eq!(counts["web.shop/v1"], 350, "seed {seed}");
    }
}

#[test]
fn shares_are_exact_over_two_threads() {
    let route = splitting(&[("v1", 70), ("v2", 30)]);
    for seed in 0..20 {
        // However unevenly the kernel spreads the connections over the threads.
        for first in [0, 1, 13, 137, 250, 499] {
            let count = |connections: usize, seed: u64| {
                let route = &route;
                move || {
                    let mut random = random_bits(seed);
                    let mut balancer = Balancer::default();
                    let counts = count_backends(&mut balancer, route, connections, &mut random);
                    counts.get("web.shop/v1").copied().unwrap_or(0)
                }
            };
            let sum: usize = std::thread::scope(|scope| {
                [
                    scope.spawn(count(first, seed)),
                    scope.spawn(count(500 - first, seed + 1000)),
                ]
                .into_iter()
                .map(|thread| thread.join().expect("no panic"))
                .sum()
            });
            assert!(
                (349..=351).contains(&sum),
                "seed {seed}, {first}: {sum} of 500"
            );
        }
    }
}

#[test]
fn many_workers_with_few_connections_each_still_serve_the_light_backend() {
    let route = splitting(&[("v1", 99), ("v2", 1)]);
    let mut light = 0;
    for seed in 0..1000 {
        let mut random = random_bits(seed);
        let counts = count_backends(&mut Balancer::default(), &route, 5, &mut random);
        light += counts.get("web.shop/v2").copied().unwrap_or(0);
    }
    // 5000 connections, 1 %: 50; the phases are random, so within four standard deviations.
    assert!((22..=78).contains(&light), "{light} of 5000");
}

#[test]
fn weights_that_change_all_the_time_keep_what_is_owed() {
    let routes = [
        splitting(&[("v1", 70), ("v2", 30)]),
        splitting(&[("v1", 700), ("v2", 300)]),
        splitting(&[("v1", 7), ("v2", 3)]),
    ];
    let mut balancer = Balancer::default();
    let mut random = random_bits(1);
    let mut first = 0_usize;
    for connection in 0..900 {
        let route = &routes[connection % 3];
        let choice = balancer
            .choose(route, &[], START, &mut random)
            .expect("a choice");
        first += usize::from(choice.backend == "web.shop/v1");
    }
    assert!((628..=632).contains(&first), "{first} of 900, 630 expected");
}

#[test]
fn a_shift_of_weights_holds_from_the_first_connection() {
    let mut balancer = Balancer::default();
    let mut random = random_bits(3);
    for (weights, expected) in [
        ([("v1", 100), ("v2", 0)], 100),
        ([("v1", 90), ("v2", 10)], 90),
        ([("v1", 50), ("v2", 50)], 50),
        ([("v1", 0), ("v2", 100)], 0),
    ] {
        let counts = count_backends(&mut balancer, &splitting(&weights), 100, &mut random);
        let first = counts.get("web.shop/v1").copied().unwrap_or(0);
        assert!(first.abs_diff(expected) <= 1, "{weights:?}: {first}");
        assert!(expected != 0 || first == 0, "weight 0 takes nothing");
    }
}

proptest! {
    #[test]
    fn every_stretch_is_close_to_its_shares(
        weights in prop::collection::vec(1_u32..1000, 2..6),
        seed: u64,
        connections in 1_usize..400,
    ) {
        let route = weighted(&weights);
        let mut random = random_bits(seed);
        let counts = count_backends(&mut Balancer::default(), &route, connections, &mut random);
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        for (index, weight) in weights.iter().enumerate() {
            let share = connections as f64 * f64::from(*weight) / total as f64;
            let count = counts.get(&format!("b{index}")).copied().unwrap_or(0) as f64;
            // Smooth weighted round robin is off by less than the number of backends, whatever the stretch.
            let bound = if weights.len() == 2 { 1.0 } else { weights.len() as f64 };
            prop_assert!((count - share).abs() <= bound, "b{index}: {count}, not {share}");
        }
    }

    #[test]
    fn a_whole_cycle_is_exact(weights in prop::collection::vec(1_u32..20, 2..6), seed: u64) {
        let route = weighted(&weights);
        let total: u32 = weights.iter().sum();
        let mut random = random_bits(seed);
        let counts = count_backends(&mut Balancer::default(), &route, total as usize, &mut random);
        for (index, weight) in weights.iter().enumerate() {
            prop_assert_eq!(counts[&format!("b{index}")], *weight as usize);
        }
    }

    #[test]
    fn nothing_is_chosen_twice_and_everything_once(
        weights in prop::collection::vec(1_u32..5, 1..6),
        seed: u64,
        failing: bool,
    ) {
        let route = weighted(&weights);
        let mut balancer = Balancer::default();
        let mut random = random_bits(seed);
        let mut tried: Vec<Choice> = Vec::new();
        while let Ok(choice) = balancer.choose(&route, &tried, START, &mut random) {
            prop_assert!(tried.iter().all(|earlier| earlier.address != choice.address));
            if failing {
                balancer.failed(choice.address, START);
            }
            tried.push(choice);
        }
        prop_assert_eq!(tried.len(), weights.len());
    }
}

#[test]
fn a_second_try_stays_with_its_backend_then_goes_to_the_others() {
    let mut route = weighted(&[1, 1]);
    let template = Arc::clone(&route.backends[0].endpoints[0]);
    let mut twin = (*template).clone();
    twin.address = "10.5.0.1".parse().expect("an address");
    let two = RoutedBackend::new(
        "b0".to_owned(),
        1,
        vec![template, Arc::new(twin)],
        route.port,
    );
    route.backends = [two, route.backends[1].clone()].into();
    let mut balancer = Balancer::default();
    let mut random = random_bits(5);
    let first = loop {
        let choice = balancer
            .choose(&route, &[], START, &mut random)
            .expect("one");
        if choice.backend == "b0" {
            break choice;
        }
    };
    let second = balancer
        .choose(&route, std::slice::from_ref(&first), START, &mut random)
        .expect("two");
    assert_eq!(second.backend, "b0");
    assert_ne!(second.address, first.address);
    let third = balancer
        .choose(&route, &[first, second], START, &mut random)
        .expect("three");
    assert_eq!(third.backend, "b1");
}

#[test]
fn a_failed_backend_is_skipped_in_favour_of_the_others_and_comes_back_to_its_share() {
    let route = weighted(&[50, 50]);
    let mut balancer = Balancer::default();
    let mut random = random_bits(9);
    let down = addr("10.3.0.0:8080");
    balancer.failed(down, START);
    let counts = count_backends(&mut balancer, &route, 100, &mut random);
    assert_eq!(counts.get("b0"), None);
    assert_eq!(counts["b1"], 100);
    let later = START + FIRST_BACK_OFF;
    let mut probes = 0;
    for _ in 0..100 {
        let choice = balancer
            .choose(&route, &[], later, &mut random)
            .expect("one");
        probes += usize::from(choice.address == down);
    }
    assert_eq!(
        probes, 1,
        "one connection finds out, the others do not wait for it"
    );
    balancer.opened(down, Duration::from_millis(1), later);
    let counts = count_backends(&mut balancer, &route, 100, &mut random);
    assert!((49..=51).contains(&counts["b0"]), "{counts:?}");
}

#[test]
fn back_off_doubles_up_to_its_limit() {
    let route = endpoints(&[1, 1]);
    let mut balancer = Balancer::default();
    let mut random = random_bits(2);
    let mut now = START;
    for expected in [1, 2, 4, 8, 16, 30, 30] {
        balancer.failed(at(0), now);
        // What failed together counts once.
        balancer.failed(at(0), now);
        let back_off = Duration::from_secs(expected);
        let just_before = now + back_off - Duration::from_millis(1);
        assert!(balancer.skipped(at(0), just_before), "{expected} s");
        now += back_off;
        assert!(!balancer.skipped(at(0), now), "{expected} s");
        let mut probed = false;
        for _ in 0..100 {
            let choice = balancer.choose(&route, &[], now, &mut random).expect("one");
            probed |= choice.address == at(0);
        }
        assert!(probed, "probed after {expected} s");
    }
}

#[test]
fn a_probe_that_is_never_heard_of_again_does_not_keep_an_endpoint_out() {
    let mut balancer = Balancer::default();
    let route = endpoints(&[1]);
    balancer.failed(at(0), START);
    let now = START + FIRST_BACK_OFF;
    balancer
        .choose(&route, &[], now, &mut random_bits(1))
        .expect("the probe");
    assert!(balancer.skipped(at(0), now));
    assert!(!balancer.skipped(at(0), now + PROBE_PATIENCE));
}

#[test]
fn the_last_endpoint_is_dialled_even_after_a_failure() {
    let route = endpoints(&[1]);
    let mut balancer = Balancer::default();
    balancer.failed(at(0), START);
    let choice = balancer.choose(&route, &[], START, &mut random_bits(1));
    assert_eq!(choice.expect("it may be back").address, at(0));
}

#[test]
fn no_endpoint_is_nothing_healthy() {
    let mut balancer = Balancer::default();
    let mut random = random_bits(1);
    let none = endpoints(&[0, 0]);
    assert_eq!(
        balancer.choose(&none, &[], START, &mut random).err(),
        Some(NothingHealthy)
    );
}

#[test]
fn idle_endpoints_share_by_weight() {
    let route = endpoints(&[1, 3]);
    let mut balancer = Balancer::default();
    let mut random = random_bits(4);
    let mut heavy = 0;
    for _ in 0..4000 {
        let choice = balancer
            .choose(&route, &[], START, &mut random)
            .expect("one");
        heavy += usize::from(choice.address == at(1));
        balancer.opened(choice.address, Duration::from_micros(300), START);
        balancer.closed(choice.address);
    }
    assert!((2850..=3150).contains(&heavy), "{heavy} of 4000");
}

#[test]
fn open_connections_spread_in_proportion_to_weight() {
    let route = endpoints(&[1, 1, 2]);
    let mut balancer = Balancer::default();
    let mut random = random_bits(8);
    let mut open = [0_u32; 3];
    for _ in 0..4000 {
        let choice = balancer
            .choose(&route, &[], START, &mut random)
            .expect("one");
        balancer.opened(choice.address, Duration::from_micros(300), START);
        let index = (0..3)
            .find(|index| at(*index) == choice.address)
            .expect("ours");
        open[index] += 1;
    }
    assert!(
        open[0].abs_diff(1000) < 120 && open[2].abs_diff(2000) < 240,
        "{open:?}"
    );
}

/// Dials one after the other, each closed before the next; gives how many of `dials` each endpoint got.
fn share_out(
    balancer: &mut Balancer,
    route: &ServiceRoute,
    dials: usize,
    seed: u64,
    now: Now,
    mut answer: impl FnMut(SocketAddr, &mut dyn FnMut() -> u64) -> Duration,
) -> BTreeMap<SocketAddr, usize> {
    let mut random = random_bits(seed);
    let mut counts = BTreeMap::new();
    for _ in 0..dials {
        let choice = balancer.choose(route, &[], now, &mut random).expect("one");
        let latency = answer(choice.address, &mut random);
        balancer.opened(choice.address, latency, now);
        balancer.closed(choice.address);
        *counts.entry(choice.address).or_insert(0) += 1;
    }
    counts
}

const FAST: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_millis(50);

#[test]
fn an_endpoint_that_is_always_slow_gets_clearly_less_but_not_nothing() {
    for (seed, weights) in [&[1, 1][..], &[1, 1, 1, 1], &[3, 1]].iter().enumerate() {
        let route = endpoints(weights);
        let mut balancer = Balancer::default();
        let slow_one = |address: SocketAddr, _: &mut dyn FnMut() -> u64| {
            if address == at(0) { SLOW } else { FAST }
        };
        let seed = seed as u64;
        let counts = share_out(&mut balancer, &route, 2000, seed, START, slow_one);
        let fair = 2000 * weights[0] as usize / weights.iter().sum::<u32>() as usize;
        let slow = counts[&at(0)];
        assert!(slow < fair / 4, "avoided: {counts:?}");
        assert!(slow > fair / 25, "looked at again: {counts:?}");
        // Once it is as fast as the others, it soon gets its share again.
        let counts = share_out(&mut balancer, &route, 2000, seed, START, |_, _| FAST);
        let again = counts[&at(0)];
        assert!(again > fair * 4 / 5, "as fast as the others: {counts:?}");
    }
}

#[test]
fn what_was_slow_long_ago_is_worth_nothing() {
    let route = endpoints(&[1, 1]);
    let mut balancer = Balancer::default();
    for _ in 0..5 {
        balancer.opened(at(0), SLOW, START);
        balancer.opened(at(1), FAST, START);
    }
    let mut chosen = |now: Now| {
        let mut random = random_bits(6);
        let choices = (0..200).map(|_| balancer.choose(&route, &[], now, &mut random));
        choices
            .filter(|choice| choice.as_ref().expect("one").address == at(0))
            .count()
    };
    assert!(chosen(START) < 30, "avoided");
    let later = chosen(START + Duration::from_secs(120));
    assert!((70..=130).contains(&later), "forgiven: {later} of 200");
}

proptest! {
    /// The case of a service that nobody called yet: the first answers of an endpoint are late, all others as fast as the
    /// other's.
    #[test]
    fn a_few_late_answers_cost_no_endpoint_its_share(seed: u64, late in 1_usize..=4, dials in 40_usize..200) {
        let route = endpoints(&[1, 1]);
        let mut balancer = Balancer::default();
        let mut left = late;
        let counts = share_out(&mut balancer, &route, dials, seed, START, |address, _| {
            let is_late = address == at(0) && left > 0;
            left -= usize::from(is_late);
            if is_late { SLOW } else { FAST }
        });
        // Five standard deviations of a fair coin.
        let least = dials as f64 / 2.0 - 5.0 * (dials as f64 / 4.0).sqrt();
        for index in 0..2 {
            let count = counts.get(&at(index)).copied().unwrap_or(0) as f64;
            prop_assert!(count >= least, "{late} late: {counts:?}");
        }
    }
}

/// A busy machine: one answer in three of either endpoint is late.
#[test]
fn noise_leaves_every_endpoint_a_good_part() {
    let route = endpoints(&[1, 1]);
    for seed in 0..500 {
        let mut balancer = Balancer::default();
        let counts = share_out(&mut balancer, &route, 400, seed, START, |_, random| {
            if below(random(), 3) == 0 { SLOW } else { FAST }
        });
        for index in 0..2 {
            let count = counts.get(&at(index)).copied().unwrap_or(0);
            assert!(count >= 100, "seed {seed}: {counts:?}");
        }
    }
}
