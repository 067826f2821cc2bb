//! A member that nobody hears does not hold the log. When it is back it is given a state, and the entries behind it; what its own log
//! held is void, also after a crash.

use crate::world::{Options, World};
use quorate_core::consensus::{ConsensusEffect, Limits};
use quorate_core::types::{LogId, LogIndex, MemberId, Term};
use std::time::Duration;

const ABSENT_AFTER: Duration = Duration::from_millis(300);

fn world() -> World {
    let limits = Limits { retained_entries: 2, tail_bytes: 400, absent_after: ABSENT_AFTER, ..Limits::default() };
    let mut world = World::with(3, Options { limits, segment_bytes: 2 << 10, ..Options::default() });
    world.elect(1);
    world
}

/// Entries that all but `away` store, synced, while the leader goes on beating.
fn go_on(world: &mut World, leader: u64, away: u64, entries: usize) {
    for _ in 0..entries {
        world.propose(leader);
        world.settle();
    }
    (1..=3).filter(|&id| id != away).for_each(|id| world.sync_state(id));
    for _ in 0..3 {
        world.wake(leader);
        world.settle();
    }
}

fn installed(world: &World) -> Vec<(u64, LogId)> {
    let installed = world.effects.iter().filter_map(|(id, effect)| match effect {
        ConsensusEffect::Install(last) => Some((*id, *last)),
        _ => None,
    });
    installed.collect()
}

#[test]
fn a_member_that_was_absent_for_long_is_given_a_snapshot() {
    let mut world = world();
    let lacks = world.committed(3);
    world.isolate(3);
    go_on(&mut world, 1, 3, 20);
    assert!(world.consensus(1).status().first.0 <= lacks, "who was heard of late is waited for");
    world.run(ABSENT_AFTER);
    go_on(&mut world, 1, 3, 20);
    for id in [1, 2] {
        assert!(world.consensus(id).status().first.0 > lacks + 1, "n{id} still holds what n3 lacks");
    }
    world.heal();
    world.clear();
    world.run(Duration::from_millis(100));
    assert_eq!(world.committed(3), world.committed(1));
    let [(3, last)] = installed(&world)[..] else { panic!("{:?}", installed(&world)) };
    assert!(last.index.0 > lacks, "{last}");
    // Its log begins there, and is what it starts from again.
    world.propose(1);
    world.settle();
    world.crash(3);
    world.restart(3);
    world.run(Duration::from_millis(100));
    assert_eq!(world.consensus(3).status().first, last.index.next());
    assert_eq!(world.committed(3), world.committed(1));
    assert_eq!(installed(&world).len(), 1);
}

#[test]
fn a_snapshot_that_was_not_durable_at_a_crash_was_never_installed() {
    let mut world = world();
    world.isolate(3);
    world.run(ABSENT_AFTER);
    go_on(&mut world, 1, 3, 20);
    world.heal();
    world.stall_disk(3);
    world.clear();
    world.run(Duration::from_millis(60));
    assert_eq!(installed(&world).len(), 1);
    let says_so = |effect: &ConsensusEffect| matches!(effect, ConsensusEffect::Send(said) if said.to_string().contains("Appended"));
    assert!(
        !world.effects.iter().any(|(id, effect)| *id == 3 && says_so(effect)),
        "what is not durable is not acknowledged\n{}",
        world.trace()
    );
    world.crash(3);
    world.resume_disk(3);
    world.restart(3);
    world.run(Duration::from_millis(200));
    assert_eq!(installed(&world).len(), 2);
    assert_eq!(world.committed(3), world.committed(1));
}

/// Else entries that were overruled would stand behind the state, as if they followed it.
#[test]
fn a_snapshot_voids_entries_that_were_overruled() {
    let mut world = world();
    world.isolate(1);
    for _ in 0..40 {
        world.propose(1);
    }
    world.settle();
    let overruled = world.consensus(1).last();
    world.elect(2);
    world.run(ABSENT_AFTER);
    go_on(&mut world, 2, 1, 20);
    assert!(world.committed(2) < overruled.index.0, "n1's log must be the longer one");
    world.heal();
    world.clear();
    world.run(Duration::from_millis(200));
    assert_eq!(installed(&world).len(), 1, "{}", world.trace());
    assert_eq!(world.committed(1), world.committed(2));
    assert_eq!(world.consensus(1).last(), world.consensus(2).last());
    world.crash(1);
    world.restart(1);
    assert_eq!(world.consensus(1).last(), world.consensus(2).last());
}

/// Beyond a bound the log goes, whoever lacks it, heard or not.
#[test]
fn the_log_that_is_kept_for_others_is_bounded_in_bytes() {
    let limits = Limits { retained_entries: 2, tail_bytes: 400, kept_bytes: 8 << 10, ..Limits::default() };
    let mut world = World::with(3, Options { limits, segment_bytes: 2 << 10, ..Options::default() });
    world.elect(1);
    world.isolate(3);
    for _ in 0..6 {
        go_on(&mut world, 1, 3, 20);
        world.propose(1);
        world.settle();
        for id in [1, 2] {
            let kept = world.consensus(id).kept_for_others().bytes;
            assert!(kept <= 10 << 10, "n{id} keeps {kept} bytes");
        }
    }
    assert_eq!(world.consensus(1).kept_for_others().slowest, Some(MemberId(3)));
    world.heal();
    world.run(Duration::from_millis(200));
    assert_eq!(installed(&world).len(), 1);
    assert_eq!(world.committed(3), world.committed(1));
}

#[test]
fn what_the_log_came_to_by_itself_is_not_installed() {
    let mut world = world();
    for _ in 0..5 {
        world.propose(1);
        world.settle();
    }
    let configuration = world.consensus(2).configuration().clone();
    let last = LogId { term: Term(2), index: LogIndex(world.committed(2)) };
    let install = |last| {
        let installable = quorate_core::consensus::Installable {
            last,
            configuration: configuration.clone(),
            time: quorate_core::types::WallMs(0),
            state: quorate_core::types::StateNumber(1),
        };
        quorate_core::consensus::ConsensusInput::Install(installable)
    };
    world.clear();
    world.step(2, install(last));
    world.step(1, install(LogId { term: Term(2), index: LogIndex(1_000) }));
    assert!(installed(&world).is_empty());
    let refused = world.effects.iter().filter(|(_, effect)| *effect == ConsensusEffect::NotInstalled).count();
    assert_eq!(refused, 2, "n2 has it, and a leader has all that is committed");
}
