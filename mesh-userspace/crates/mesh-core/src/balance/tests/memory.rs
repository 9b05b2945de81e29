//! What is remembered of endpoints ends.

use super::*;

#[test]
fn what_leaves_the_world_is_forgotten() {
    let mut balancer = Balancer::default();
    let mut random = random_bits(7);
    let route = splitting(&[("v1", 1), ("v2", 1)]);
    balancer
        .choose(&route, &[], START, &mut random)
        .expect("one");
    let kept = addr("10.2.0.3:8080");
    let (gone, busy) = (at(0), at(1));
    for address in [kept, gone, busy] {
        balancer.opened(address, Duration::from_millis(1), START);
    }
    balancer.failed(gone, START);
    balancer.closed(gone);
    balancer.forget_absent(&Snapshot::new(shop()));
    assert_eq!(balancer.healths.len(), 2, "what has connections stays");
    assert!(balancer.healths.nothing_failed());
    assert_eq!(balancer.shares.len(), 1);
    balancer.closed(busy);
    assert_eq!(balancer.healths.len(), 1, "until they end");
    balancer.forget_absent(&Snapshot::new(World::default()));
    assert_eq!(balancer.shares.len(), 0);
}

#[test]
fn memory_is_bounded_without_any_new_world() {
    let mut balancer = Balancer::default();
    for index in 0_u32..50_000 {
        let address = SocketAddr::new(std::net::Ipv4Addr::from(0x0a00_0000 + index).into(), 80);
        let now = START + Duration::from_secs(u64::from(index));
        balancer.opened(address, Duration::from_millis(1), now);
        balancer.closed(address);
    }
    assert!(balancer.healths.len() < 4096, "{}", balancer.healths.len());
    let mut random = random_bits(1);
    for index in 0..10_000 {
        let mut route = splitting(&[("v1", 1), ("v2", 1)]);
        if let Some((parent, _)) = &mut route.rule {
            let mut renamed = (**parent).clone();
            renamed.name = Name::new("shop", format!("route-{index}"));
            *parent = Arc::new(renamed);
        }
        balancer
            .choose(&route, &[], START, &mut random)
            .expect("one");
        if index % 100 == 0 {
            assert!(balancer.shares.len() <= 64);
        }
    }
}

#[test]
fn a_close_that_nobody_opened_is_harmless() {
    let mut balancer = Balancer::default();
    balancer.closed(at(0));
    balancer.opened(at(0), Duration::ZERO, START);
    balancer.closed(at(0));
    balancer.closed(at(0));
    assert_eq!(balancer.healths.len(), 1);
}
