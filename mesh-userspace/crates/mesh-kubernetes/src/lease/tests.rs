use super::*;

fn memory(holder: &str) -> Memory {
    Memory {
        settings: Settings::new("warren-system", "warren-controller", holder),
        seen: None,
    }
}

/// The lease as `holder` writes it at this second.
fn held_by(holder: &str, second: i64) -> Lease {
    let now = Timestamp::from_second(second).expect("a time");
    memory(holder).ours(None, now)
}

#[test]
fn a_lease_is_taken_when_there_is_none_or_it_was_given_back() {
    let mut a = memory("a");
    let now = Instant::now();
    assert_eq!(a.look(None, now), Turn::Create);
    let mut free = held_by("b", 1);
    free.spec.as_mut().expect("a spec").holder_identity = Some(String::new());
    assert_eq!(a.look(Some(free), now), Turn::Take);
    assert_eq!(a.look(Some(held_by("a", 1)), now), Turn::Renew);
}

#[test]
fn a_lease_has_run_out_when_it_was_not_seen_to_change_for_its_duration() {
    let mut a = memory("a");
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    // However old its time is by our clock.
    assert_eq!(a.look(Some(held_by("b", 1)), at(0)), Turn::Wait);
    assert_eq!(a.look(Some(held_by("b", 1)), at(14)), Turn::Wait);
    // A renewal begins it anew.
    assert_eq!(a.look(Some(held_by("b", 2)), at(14)), Turn::Wait);
    assert_eq!(a.look(Some(held_by("b", 2)), at(28)), Turn::Wait);
    assert_eq!(a.look(Some(held_by("b", 2)), at(29)), Turn::Take);
}

#[test]
fn the_duration_that_counts_is_the_holders() {
    let mut a = memory("a");
    let start = Instant::now();
    let mut long = held_by("b", 1);
    long.spec.as_mut().expect("a spec").lease_duration_seconds = Some(60);
    assert_eq!(a.look(Some(long.clone()), start), Turn::Wait);
    assert_eq!(
        a.look(Some(long.clone()), start + Duration::from_secs(59)),
        Turn::Wait
    );
    assert_eq!(
        a.look(Some(long), start + Duration::from_secs(60)),
        Turn::Take
    );
}

#[test]
fn a_renewal_keeps_since_when_and_a_taking_counts() {
    let b = held_by("b", 1);
    let now = Timestamp::from_second(9).expect("a time");
    let spec = |lease: Lease| lease.spec.expect("a spec");
    let taken = spec(memory("a").ours(Some(&b), now));
    assert_eq!(taken.lease_transitions, Some(1));
    assert_eq!(taken.acquire_time, Some(MicroTime(now)));
    let renewed = spec(memory("b").ours(Some(&b), now));
    assert_eq!(renewed.lease_transitions, Some(0));
    assert_eq!(renewed.acquire_time, spec(b).acquire_time);
    assert_eq!(renewed.renew_time, Some(MicroTime(now)));
}
