//! Of the lease clock, one claim each.

use super::*;
use crate::types::{Boot, MemberId};
use alloc::vec;

const TERM: Term = Term(4);
/// Of the term.
const FIRST: LogIndex = LogIndex(5);

fn at(seconds: u64) -> Monotonic {
    Monotonic(Duration::from_secs(seconds))
}

fn caller(sequence: u64) -> ReadId {
    ReadId { member: MemberId(1), boot: Boot(1), sequence }
}

fn lease(ttl_s: i64, remaining_s: Option<i64>) -> Lease {
    Lease { ttl_s, granted: LogIndex(9), remaining_s }
}

fn limits() -> LeaseLimits {
    LeaseLimits { checkpoint_above: Duration::from_secs(100), checkpoint_interval: Duration::from_secs(50), ..LeaseLimits::default() }
}

/// The clock of a member that leads since 0 s, with all its leases taken up.
fn leading(limits: LeaseLimits, leases: &[(i64, Lease)]) -> LeaseClock {
    let mut clock = LeaseClock::new(limits, leases.iter().map(|(id, lease)| (LeaseId(*id), *lease)));
    clock.begin(TERM, FIRST, at(0));
    clock.on_applied(FIRST);
    while clock.deadline() == Monotonic::default() {
        clock.take_up();
    }
    clock
}

/// The leases whose end is appended now.
fn expired(clock: &mut LeaseClock, now: Monotonic) -> Vec<i64> {
    let mut ids = vec![];
    while let Some(command) = clock.next_command(now) {
        let Command::LeaseExpire(LeaseExpire { lease, granted: LogIndex(9), term: TERM }) = command else { panic!("{command:?}") };
        ids.push(lease.0);
    }
    ids
}

/// What is appended now of checkpoints: the id of each lease with its seconds.
fn checkpointed(clock: &mut LeaseClock, now: Monotonic) -> Vec<(i64, Option<i64>)> {
    match clock.next_command(now) {
        Some(Command::LeaseCheckpoint(LeaseCheckpoint { term: TERM, leases })) => {
            leases.iter().map(|of| (of.lease.0, of.remaining_s)).collect()
        }
        None => vec![],
        other => panic!("{other:?}"),
    }
}

fn apply(clock: &mut LeaseClock, now: Monotonic, changes: Vec<LeaseChange>) -> Vec<Answered> {
    let mut answers = vec![];
    clock.on_changes(now, changes, &mut answers);
    answers
}

fn call(clock: &mut LeaseClock, now: Monotonic, sequence: u64, call: LeaseCall) -> Vec<Answered> {
    let mut answers = vec![];
    clock.call(now, caller(sequence), call, &mut answers);
    answers
}

fn keep(clock: &mut LeaseClock, now: Monotonic, sequence: u64, id: i64) -> Vec<Answered> {
    call(clock, now, sequence, LeaseCall::KeepAlive(LeaseId(id)))
}

fn whole(sequence: u64, ttl_s: i64) -> Vec<Answered> {
    vec![(caller(sequence), Some(LeaseTime { ttl_s, remaining_s: ttl_s }))]
}

#[test]
fn a_new_leader_does_nothing_before_it_has_applied_an_entry_of_its_term() {
    let mut clock = LeaseClock::new(limits(), [(LeaseId(1), lease(5, None))]);
    clock.begin(TERM, FIRST, at(0));
    clock.on_applied(FIRST.previous());
    clock.take_up();
    assert_eq!((clock.deadline(), clock.next_command(at(60))), (Monotonic::NEVER, None));
    clock.on_applied(FIRST);
    clock.take_up();
    assert_eq!(expired(&mut clock, at(60)), [1]);
}

#[test]
fn a_new_leader_gives_each_lease_its_whole_time_or_what_the_checkpoint_says_from_its_election_on() {
    let mut clock = leading(limits(), &[(1, lease(5, None)), (2, lease(500, Some(7))), (3, lease(9, None))]);
    assert_eq!(clock.deadline(), at(5));
    assert_eq!(expired(&mut clock, at(4)), []);
    assert_eq!(expired(&mut clock, at(7)), [1, 2]);
    assert_eq!(clock.deadline(), at(9));
}

#[test]
fn leases_are_taken_up_a_slice_at_a_time() {
    let leases: Vec<_> = (i64::MIN..i64::MIN + 5).map(|id| (id, lease(5, None))).collect();
    let mut clock =
        LeaseClock::new(LeaseLimits { taken_up_at_once: 2, ..limits() }, leases.iter().map(|(id, lease)| (LeaseId(*id), *lease)));
    clock.begin(TERM, FIRST, at(0));
    clock.on_applied(FIRST);
    for taken_up in [2, 4, 5] {
        assert_eq!(clock.deadline(), Monotonic::default(), "there is more");
        clock.take_up();
        assert_eq!(clock.tenure.as_ref().unwrap().timings.len(), taken_up);
    }
    assert_eq!(clock.deadline(), at(5));
}

#[test]
fn a_keepalive_begins_the_time_anew() {
    let mut clock = leading(limits(), &[(1, lease(5, None))]);
    assert_eq!(keep(&mut clock, at(4), 1, 1), whole(1, 5));
    assert_eq!(clock.deadline(), at(9));
    let left = call(&mut clock, at(6), 2, LeaseCall::TimeToLive(LeaseId(1)));
    assert_eq!(left, [(caller(2), Some(LeaseTime { ttl_s: 5, remaining_s: 3 }))]);
    assert_eq!(keep(&mut clock, at(6), 3, 77), [(caller(3), None)]);
}

#[test]
fn a_keepalive_waits_for_an_expiry_that_is_under_way() {
    let mut clock = leading(limits(), &[(1, lease(5, None))]);
    assert_eq!(expired(&mut clock, at(5)), [1]);
    assert_eq!(keep(&mut clock, at(5), 1, 1), []);
    assert_eq!(apply(&mut clock, at(6), vec![LeaseChange::Ended(LeaseId(1))]), [(caller(1), None)]);
}

#[test]
fn only_so_many_expiries_are_under_way_and_the_next_leave_as_these_are_applied() {
    let leases: Vec<_> = (1..=5).map(|id| (id, lease(5, None))).collect();
    let mut clock = leading(LeaseLimits { pending_expiries: 2, ..limits() }, &leases);
    assert_eq!(expired(&mut clock, at(5)), [1, 2]);
    assert_eq!(clock.deadline(), Monotonic::NEVER, "it waits for what is applied");
    apply(&mut clock, at(5), vec![LeaseChange::Ended(LeaseId(1))]);
    assert_eq!(expired(&mut clock, at(5)), [3]);
    apply(&mut clock, at(5), vec![LeaseChange::Ended(LeaseId(2)), LeaseChange::Ended(LeaseId(3))]);
    assert_eq!(expired(&mut clock, at(5)), [4, 5]);
}

#[test]
fn an_expiry_that_the_cluster_refuses_is_tried_again_after_a_pause() {
    let mut clock = leading(limits(), &[(1, lease(5, None)), (2, lease(6, None))]);
    assert_eq!(expired(&mut clock, at(5)), [1]);
    apply(&mut clock, at(5), vec![LeaseChange::Is(LeaseId(1), lease(5, None))]);
    assert_eq!((clock.deadline(), expired(&mut clock, at(9))), (at(10), vec![]));
    assert_eq!(keep(&mut clock, at(9), 1, 1), whole(1, 5), "it is there, so it can be kept");
    assert_eq!(expired(&mut clock, at(10)), [2]);
}

#[test]
fn long_leases_are_checkpointed_so_many_at_once_and_short_ones_never() {
    let leases = [(1, lease(100, None)), (2, lease(101, None)), (3, lease(500, None)), (4, lease(600, None))];
    let mut clock = leading(LeaseLimits { checkpoint_leases: 2, ..limits() }, &leases);
    assert_eq!(clock.deadline(), at(50));
    assert_eq!(checkpointed(&mut clock, at(50)), [(2, Some(51)), (3, Some(450))]);
    assert_eq!(checkpointed(&mut clock, at(50)), [], "one at a time");
    let is = |id, ttl_s, left| LeaseChange::Is(LeaseId(id), lease(ttl_s, Some(left)));
    apply(&mut clock, at(51), vec![is(2, 101, 51), is(3, 500, 450)]);
    let late = at(51) + Duration::from_millis(1);
    assert_eq!(checkpointed(&mut clock, late), [(4, Some(549))], "what is left is rounded up");
    apply(&mut clock, at(52), vec![is(4, 600, 550)]);
    assert_eq!(clock.deadline(), at(100));
}

#[test]
fn a_checkpoint_is_cleared_before_its_lease_is_renewed() {
    let mut clock = leading(limits(), &[(1, lease(500, Some(7)))]);
    assert_eq!(keep(&mut clock, at(1), 1, 1), []);
    assert_eq!(keep(&mut clock, at(1), 2, 1), []);
    assert_eq!(clock.deadline(), Monotonic::default());
    assert_eq!(checkpointed(&mut clock, at(1)), [(1, None)]);
    assert_eq!(expired(&mut clock, at(8)), [], "not while somebody renews it");
    let answers = apply(&mut clock, at(8), vec![LeaseChange::Is(LeaseId(1), lease(500, None))]);
    assert_eq!(answers, [whole(1, 500), whole(2, 500)].concat());
    assert_eq!(keep(&mut clock, at(9), 3, 1), whole(3, 500), "nothing is to be cleared any more");
}

#[test]
fn whoever_waits_is_told_when_the_leader_goes() {
    let mut clock = leading(limits(), &[(1, lease(5, None))]);
    expired(&mut clock, at(5));
    keep(&mut clock, at(5), 1, 1);
    assert_eq!(clock.end(), [caller(1)]);
    assert_eq!((clock.deadline(), clock.next_command(at(60))), (Monotonic::NEVER, None));
}

#[test]
fn a_lease_of_the_same_id_begins_with_its_own_grant() {
    let mut clock = leading(limits(), &[(1, lease(5, None))]);
    apply(&mut clock, at(4), vec![LeaseChange::Ended(LeaseId(1)), LeaseChange::Is(LeaseId(1), lease(8, None))]);
    assert_eq!(expired(&mut clock, at(11)), []);
    assert_eq!(expired(&mut clock, at(12)), [1]);
}

#[test]
fn a_lease_that_a_new_leader_hears_of_before_its_own_first_entry_begins_then() {
    let mut clock = LeaseClock::new(limits(), []);
    clock.begin(TERM, FIRST, at(0));
    // Its grant is applied together with that entry, and told ahead of it.
    apply(&mut clock, at(3), vec![LeaseChange::Is(LeaseId(1), lease(5, None))]);
    clock.on_applied(FIRST);
    clock.take_up();
    assert_eq!(expired(&mut clock, at(7)), []);
    assert_eq!(expired(&mut clock, at(8)), [1]);
}

#[test]
fn what_an_earlier_leader_left_and_is_applied_late_has_what_its_last_checkpoint_says() {
    let mut clock = LeaseClock::new(limits(), []);
    clock.begin(TERM, FIRST, at(0));
    let of_before = |remaining_s| LeaseChange::Is(LeaseId(1), Lease { granted: LogIndex(3), ..lease(200, remaining_s) });
    apply(&mut clock, at(1), vec![of_before(None), of_before(Some(50))]);
    apply(&mut clock, at(2), vec![of_before(Some(4))]);
    clock.on_applied(FIRST);
    while clock.deadline() == Monotonic::default() {
        clock.take_up();
    }
    assert_eq!(clock.deadline(), at(4));
}
